"""A cache of kernels that cannot be written or read costs time, never a result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from repository import REPOSITORY

from ser_batch.dsp import kernel_cache
from ser_batch.dsp.contour import means_of_parts

PROGRAM = """
import sys
import numpy as np
from ser_batch.dsp.kernel_cache import kernel_folder
from ser_batch.dsp.contour import means_of_parts
np.save(sys.argv[1], means_of_parts(np.sin(np.arange(60.0)).reshape(20, 3), np.array([[0, 20]])))
hits = sum(means_of_parts.stats.cache_hits.values())
assert not hits or "numba.np.linalg" not in sys.modules, "what is compiled needs no compiler"
print(kernel_folder(), "loaded" if hits else "compiled")
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation that not even root can write kernels into: a file is where their folder would be."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(REPOSITORY / "ser_batch", folder / "ser_batch", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "ser_batch/dsp/__pycache__").write_bytes(b"")
    return folder


def compute(package: Path, tmp_path: Path, *wrapper: str, **environment: str) -> tuple[str, str]:
    """Run a kernel in a fresh process; return where kernels are kept, and whether this one was compiled or loaded."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", PROGRAM, str(tmp_path / "means.npy")],
        cwd=package,
        env=kept | {"PYTHONPATH": str(package), "HOME": "/dev/null", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    np.testing.assert_array_equal(
        np.load(tmp_path / "means.npy"), means_of_parts(np.sin(np.arange(60.0)).reshape(20, 3), np.array([[0, 20]]))
    )
    folder, how = done.stdout.rsplit(maxsplit=1)
    return folder, how


def test_without_a_folder_kernels_are_compiled_all_the_same_though_jit_is_off_for_debugging_others(package, tmp_path):
    assert compute(package, tmp_path, NUMBA_DISABLE_JIT="1") == ("None", "compiled")


def test_kernels_that_came_with_a_package_nobody_can_write_to_are_loaded(package, tmp_path):
    """As in a container whose image was warmed up and is read-only."""
    site = tmp_path / "site"
    shutil.copytree(package, site)
    folder = site / "ser_batch/dsp/__pycache__"
    folder.unlink()
    assert compute(site, tmp_path) == (str(folder), "compiled")
    if not can_mount():
        pytest.skip("needs a mount of its own")
    assert compute(site, tmp_path, *mounted(folder, "bind,ro")) == ("None", "loaded")


def test_the_home_is_taken_where_the_package_cannot_be_written_and_a_damaged_cache_is_healed(package, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    place = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "caches")}
    folder = str(home / "caches/ser-batch/kernels")
    assert compute(package, tmp_path, **place) == (folder, "compiled")
    for suffix in ("nbi", "nbc"):
        assert compute(package, tmp_path, **place) == (folder, "loaded")
        damaged = list(home.rglob(f"*.{suffix}"))
        assert damaged
        for path in damaged:
            path.write_bytes(path.read_bytes()[:20])
        assert compute(package, tmp_path, **place) == (folder, "compiled")
    assert compute(package, tmp_path, **place) == (folder, "loaded")


def test_a_disk_without_room_for_kernels_is_passed_over_or_survived(package, tmp_path):
    if not can_mount():
        pytest.skip("needs a mount of its own")
    place = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "cache").mkdir()
    small = compute(package, tmp_path, *mounted(tmp_path / "cache", "size=1m"), **place)
    assert small == ("None", "compiled")
    # Room, as far as anybody can see, but no file can be made any more: as with a quota.
    no_inodes = compute(package, tmp_path, *mounted(tmp_path / "cache", "size=64m,nr_inodes=2"), **place)
    assert no_inodes == (str(tmp_path / "cache/ser-batch"), "compiled")


def can_mount() -> bool:
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


def mounted(folder: Path, options: str) -> tuple[str, ...]:
    """A command in front of a command: for it alone, `folder` is a mount of its own."""
    kind = f"--bind {folder}" if "bind" in options else "-t tmpfs none"
    remount = f"mount -o remount,{options} {folder} &&" if "bind" in options else ""
    options = "bind" if "bind" in options else options
    return ("unshare", "-rm", "sh", "-c", f'mount -o {options} {kind} {folder} && {remount} exec "$@"', "sh")


SHARING = """
import os, sys, time
from pathlib import Path
from ser_batch.dsp.kernel_cache import share_out

log = Path(sys.argv[1])

def unit(number):
    def compile():
        with log.open("a") as lines:
            lines.write(f"{number} {os.getpid()} {time.monotonic()}\\n")
        if number == 2 and sys.argv[2:] == ["dies"]:
            os._exit(9)
        time.sleep(0.2)
    return compile

print("ready", flush=True)
sys.stdin.readline()
share_out({number: unit(number) for number in (0, 2, 5, 7)})
done = [line.split()[0] for line in log.read_text().splitlines()]
assert {"0", "2", "5", "7"} <= set(done), done
"""


@pytest.mark.parametrize("fate", ["lives", "dies"])
def test_processes_share_out_what_is_to_be_compiled_and_finish_what_one_leaves(tmp_path, fate):
    log = tmp_path / "log"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SHARING, str(log), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for more in ([fate], [])
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    codes = [worker.wait(30) for worker in workers]
    for worker in workers:
        worker.stdin.close()
        worker.stdout.close()
    lines = [line.split() for line in log.read_text().splitlines()]
    assert codes[1] == 0 and codes[0] in (0, 9)
    assert sorted(number for number, *_ in lines) == ["0", "2", *(["2"] if 9 in codes else []), "5", "7"]
    assert len({pid for _, pid, _ in lines}) == 2, "each did some"
    # Who comes later finds all done.
    code = "from ser_batch.dsp.kernel_cache import share_out; share_out({2: lambda: 1 / 0})"
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=30, check=True)


def test_without_a_folder_for_kernels_each_process_compiles_all(monkeypatch):
    done = []
    monkeypatch.setattr(kernel_cache, "kernel_folder", lambda: None)
    kernel_cache.share_out({number: partial(done.append, number) for number in (3, 1)})
    assert done == [3, 1]


SAVING = """
import sys, time
import numpy as np
from numba.core import caching
from ser_batch.dsp.kernels import kernel

save = caching.IndexDataCacheFile._save_index

def slowly(self, overloads):
    time.sleep(0.3)
    save(self, overloads)

caching.IndexDataCacheFile._save_index = slowly

@kernel
def first(values):
    return values[0]

print("ready", flush=True)
sys.stdin.readline()
assert first(np.ones(1, sys.argv[1])) == 1
"""


def test_kernels_that_are_saved_at_the_same_time_are_not_mixed_up(tmp_path):
    """numba finds a free name for a kernel, and then writes it: two processes would find the same one."""
    program = tmp_path / "saving.py"
    program.write_text(SAVING)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
    kinds = ("f4", "f8", "i4")
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for kind in kinds
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    kept = tmp_path / "cache/ser-batch"
    assert len(list(kept.glob("*.nbc"))) == len(kinds)
