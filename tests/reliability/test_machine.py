"""A machine that lacks something is worked around or named, in one line with the cure; no file is blamed for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import results
from repository import REPOSITORY

from ser_batch.config import Config
from ser_batch.dsp.kernel_cache import kernel_folder
from ser_batch.plugins import PluginRecipe
from ser_batch.stages.discover import discover
from ser_batch.stages.ingredients import Setup
from ser_batch.stages.pool import Extraction
from ser_batch.stages.progress import Progress

VOICES = REPOSITORY / "data/samples/voices"
COMPILING = "Compiling the voice analyses"


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("low_slow", "high_fast"):
        shutil.copy(next(VOICES.glob(f"{name}.*")), folder)
    return folder


def features(audio: Path, *wrapper: str, package: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess:
    """Measure two recordings with two workers and the extractor that compiles fastest."""
    code = "from ser_batch.__main__ import main; main()"
    options = ["-o", str(audio.with_name("run")), "--extractor", "quality", "--jobs", "2", "--no-report"]
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", code, "features", str(audio), *options],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package), "SER_BATCH_PLUGINS": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


def assert_measured(audio: Path) -> None:
    files = results(audio.with_name("run"))
    assert list(files["status"]) == ["ok", "ok"]
    assert files["quality__active_s"].notna().all()


def assert_one_line(done: subprocess.CompletedProcess, *parts: str) -> None:
    """What went wrong and the cure, and nothing else."""
    assert done.returncode == 7, done
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(COMPILING)]
    assert len(lines) == 1 and lines[0].startswith("Error: "), done.stderr
    for part in parts:
        assert part in lines[0]


needs_mounts = pytest.mark.skipif(
    subprocess.run("unshare -rm true", shell=True, capture_output=True, check=False).returncode != 0,
    reason="needs mounts of its own",
)


@needs_mounts
def test_a_machine_without_semaphores_is_named(audio):
    mount = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'
    done = features(audio, "unshare", "-rm", "sh", "-c", mount, "sh")
    assert_one_line(done, "/dev/shm", "Read-only file system")


def test_too_few_open_files_are_named(audio):
    done = features(audio, "sh", "-c", 'ulimit -n 40 && exec "$@"', "sh")
    assert_one_line(done, "ulimit -n", "--jobs")


@pytest.mark.parametrize("n_processes", [3, 6, pytest.param(9, marks=pytest.mark.reliability)])
def test_processes_and_threads_that_are_refused_are_named(audio, n_processes):
    """Refused to a helper, to a worker, or to a thread of the pool."""
    wrapper = ["bash", "-c", f'ulimit -u {n_processes} && exec "$@"', "bash"]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        if os.geteuid() == 0:
            if not shutil.which("setpriv"):
                pytest.skip("the limit does not hold for root")
            # Python may be installed where others cannot read.
            capabilities = ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
            wrapper = ["setpriv", "--reuid", "54321", "--clear-groups", *capabilities, *wrapper]
            Path(folder).chmod(0o777)
        audio = shutil.copytree(audio, Path(folder, "audio"))
        done = features(audio, *wrapper, OPENBLAS_NUM_THREADS="1")
    assert_one_line(done, "ulimit -u", "--jobs")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An installation of its own, without kernels."""
    folder = tmp_path / "site"
    shutil.copytree(REPOSITORY / "ser_batch", folder / "ser_batch", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("models", "configs"):
        shutil.copytree(REPOSITORY / name, folder / "ser_batch" / name, dirs_exist_ok=True)
    return folder


#: Where even root can write nothing.
NOWHERE = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": "/dev/null"}


@needs_mounts
def test_kernels_of_an_installation_that_is_read_only_are_used(audio, site):
    """As in a container: all is read-only but the folder of results, and the image was warmed up when it was built."""
    kernels = site / "ser_batch/dsp/__pycache__"
    kernels.mkdir()
    features(audio)
    shutil.rmtree(audio.with_name("run"))
    shutil.copytree(kernel_folder(), kernels, dirs_exist_ok=True)
    mount = f'mount -o bind {site} {site} && mount -o remount,bind,ro {site} && exec "$@"'
    done = features(audio, "unshare", "-rm", "sh", "-c", mount, "sh", package=site, **NOWHERE)
    assert done.returncode == 0, done.stderr
    assert COMPILING not in done.stderr
    assert_measured(audio)


@pytest.mark.reliability
def test_long_without_a_folder_for_kernels_they_are_compiled_for_this_scan(audio, site):
    (site / "ser_batch/dsp/__pycache__").write_bytes(b"")
    done = features(audio, package=site, **NOWHERE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(COMPILING) == 1 and "Set NUMBA_CACHE_DIR" in done.stderr
    assert_measured(audio)
    assert not list(audio.with_name("run").glob(".scratch-*"))


class Heard(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_kernels_are_compiled_once_by_one_worker_before_all_start(audio, tmp_path, monkeypatch):
    """What is on disk when all start is what is there when they are done; and the next scan says and starts nothing."""
    kernels = tmp_path / "kernels"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(kernels))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # for debugging of other kernels; ours do not work without

    class Watched(Extraction):
        def _new_pool(self, n_workers):
            begun.append((n_workers, listing()))
            return super()._new_pool(n_workers)

    def listing():
        return {path.name: path.stat().st_ino for path in kernels.rglob("*") if path.is_file()}

    begun: list[tuple[int, dict[str, int]]] = []
    heard = Heard()
    found = discover([audio], (), ())
    setup = Setup(PluginRecipe(entry_points=()), Config(), ("mel",), model="", predict=True)
    for _ in range(2):
        with Watched(setup, 2, tmp_path / "work", heard) as extraction:
            outcomes = extraction.finish(extraction.start([found.ref(index) for index in range(len(found))]))
        assert [str(outcome.status) for outcome in outcomes] == ["ok", "ok"], outcomes
        shutil.rmtree(tmp_path / "work")
    assert [n_workers for n_workers, _ in begun] == [1, 2, 2]
    (_, before), (_, compiled), (_, later) = begun
    assert before == {} and any(name.endswith(".nbc") for name in compiled)
    assert compiled == later == listing()
    assert sum(COMPILING in said for said in heard.said) == 1
