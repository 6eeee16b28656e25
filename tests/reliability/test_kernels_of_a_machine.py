"""Kernels are compiled once on a machine, and for each scan where they cannot be kept; no file is blamed for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import LONG
from measuring import COMPILING, NEEDS_MOUNTS, assert_measured, features
from repository import REPOSITORY

from ser_batch.config import Config
from ser_batch.dsp.kernel_cache import kernel_folder
from ser_batch.plugins import PluginRecipe
from ser_batch.stages.discover import discover
from ser_batch.stages.ingredients import Setup
from ser_batch.stages.pool import Extraction
from ser_batch.stages.progress import Progress


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


@LONG
@NEEDS_MOUNTS
def test_kernels_of_an_installation_that_is_read_only_are_used(voices, site):
    """As in a container: all is read-only but the folder of results, and the image was warmed up when it was built."""
    kernels = site / "ser_batch/dsp/__pycache__"
    kernels.mkdir()
    features(voices)
    shutil.rmtree(voices.with_name("run"))
    shutil.copytree(kernel_folder(), kernels, dirs_exist_ok=True)
    mount = f'mount -o bind {site} {site} && mount -o remount,bind,ro {site} && exec "$@"'
    done = features(voices, "unshare", "-rm", "sh", "-c", mount, "sh", package=site, **NOWHERE)
    assert done.returncode == 0, done.stderr
    assert COMPILING not in done.stderr
    assert_measured(voices)


@LONG
def test_long_without_a_folder_for_kernels_they_are_compiled_for_this_scan(voices, site):
    (site / "ser_batch/dsp/__pycache__").write_bytes(b"")
    done = features(voices, package=site, **NOWHERE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(COMPILING) == 1 and "Set NUMBA_CACHE_DIR" in done.stderr
    assert_measured(voices)
    assert not list(voices.with_name("run").glob(".scratch-*"))


class Heard(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("known", [True, pytest.param(False, marks=LONG)], ids=["kept", "none"])
def test_kernels_are_compiled_by_the_workers_of_the_first_scan_and_kept(voices, tmp_path, monkeypatch, known):
    """The next scan says nothing and writes nothing.

    Kernels that nobody says to be all are loaded, and the rest compiled, as if there were none.
    """
    kernels = tmp_path / "kernels" / "ser-batch"
    kernels.mkdir(parents=True)
    for path in kernel_folder().glob("*.nb?") if known else ():
        shutil.copy(path, kernels)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(kernels.parent))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # for debugging of other kernels; ours do not work without

    def listing():
        return {path.name: path.stat().st_ino for path in kernels.iterdir()}

    before = listing()
    heard = Heard()
    found = discover([voices], (), ())
    setup = Setup(PluginRecipe(entry_points=()), Config(), ("mel",), model="", predict=True)
    listings = []
    for _ in range(2):
        with Extraction(setup, 2, tmp_path / "work", heard) as extraction:
            outcomes = extraction.finish(extraction.start([found.ref(index) for index in range(len(found))]))
        assert [str(outcome.status) for outcome in outcomes] == ["ok", "ok"], outcomes
        shutil.rmtree(tmp_path / "work")
        listings.append(listing())
    compiled, later = listings
    assert bool(before) is known and before.items() <= compiled.items()
    assert any(name.endswith(".nbc") for name in compiled)
    assert [name for name in compiled if name.startswith("compiled-")] and len(compiled) > len(before)
    assert compiled == later
    assert sum(COMPILING in said for said in heard.said) == 1
