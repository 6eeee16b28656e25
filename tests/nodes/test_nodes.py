"""Nodes on one plan come to the table of one machine, and may die; what does not fit is refused by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import soundfile

from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.engine import plan, scan
from ser_batch.nodes.complete import complete
from ser_batch.nodes.work import work
from ser_batch.plugins import PluginRecipe
from ser_batch.run.compare import compare_runs
from ser_batch.run.verify import check_run

HERE = Path(__file__).resolve().parent
PLUGIN = HERE / "tiny_plugin.py"
#: One file of features, so that workers start fast; parts of 4 files.
CONFIG = Config().with_values(
    {
        "predict": {"model": "tiny", "device": "cpu"},
        "extract": {"extractors": ["tiny"], "jobs": 1},
        "run": {"shard_size": 4},
    }
)
RECIPE = PluginRecipe(files=(str(PLUGIN),), entry_points=(), built_in=("ser_batch.audio",))


def make_archive(folder: Path, n_files: int = 26) -> Path:
    """Short recordings, a text and an empty file among them; speakers beside some."""
    for number in range(n_files):
        path = folder / f"s{number % 3}" / f"take{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.4 * synthetic_voice(0.2 + 0.1 * (number % 4), 8000, seed=number), 8000)
        if number % 5 == 0:
            path.with_suffix(".rttm").write_text("SPEAKER x 1 0.0 0.1 <NA> <NA> A <NA> <NA>\n")
    (folder / "s0" / "notes.wav").write_text("no audio")
    (folder / "s1" / "empty.wav").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def local(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one machine makes of it."""
    run = tmp_path_factory.mktemp("local") / "run"
    scan(archive, run, config=CONFIG, plugins=RECIPE, report=False)
    return run


@pytest.fixture(scope="module")
def planned(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan; nobody may change it."""
    run = tmp_path_factory.mktemp("planned") / "run"
    assert plan(archive, run, config=CONFIG, plugins=RECIPE).n_parts == 7
    return run


@pytest.fixture
def run(planned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planned, tmp_path / "run"))


def node(run: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """A node as a process of its own."""
    command = [sys.executable, "-m", "ser_batch", "work", str(run), "--trust-plugins", *options]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    told = process.communicate(timeout=120)[0]
    assert process.returncode == code, told
    return told


def assert_same(run: Path, local: Path) -> None:
    assert compare_runs(run, local, tolerance=0.0).is_equal
    assert check_run(run) == []
    assert not list((run / ".attempts").glob("*")), "what nodes leave is swept"


def test_three_nodes_make_the_table_of_one_machine(run: Path, local: Path) -> None:
    """Two of them with a slice of their own; `complete` is called while they work."""
    with ExitStack() as stack:
        nodes = [node(run, *options) for options in (["--slice", "1/2"], ["--slice", "2/2"], [])]
        for process in nodes:
            stack.callback(process.kill)
        while nodes[0].poll() is None:
            complete(run, report=False)
            time.sleep(0.3)
        told = [ended(process) for process in nodes]
    assert all("Nothing is left" in text or "in the hands of" in text for text in told), told
    done = complete(run, report=False)
    assert (done.n_left, done.exit_code) == (0, 1), "two files of the archive are broken"
    assert_same(run, local)
    again = complete(run, report=False)
    assert (again.n_committed, again.is_whole) == (0, True)
    assert work(run).message.n_published == 0, "a node that comes late has nothing to do"
