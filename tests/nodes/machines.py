"""What the tests of nodes share: an archive, a plan, and processes that may be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import soundfile
from tiny_plugin import POISON_S

from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.engine import plan, scan
from ser_batch.plugins import PluginRecipe
from ser_batch.run.compare import compare_runs
from ser_batch.run.verify import check_run

#: What forks.py answers of a process that lives.
LIVES = 1000

HERE = Path(__file__).resolve().parent
PLUGIN = HERE / "tiny_plugin.py"
#: One number per window, so that workers start fast; parts of 4 files.
CONFIG = Config().with_values(
    {
        "predict": {"model": "tiny", "device": "cpu"},
        "extract": {"extractors": ["tiny"], "jobs": 1},
        "run": {"shard_size": 4},
    }
)
RECIPE = PluginRecipe(files=(str(PLUGIN),), entry_points=(), built_in=("ser_batch.audio",))


def write_take(path: Path, number: int, duration_s: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.4 * synthetic_voice(duration_s, 8000, seed=number), 8000)


def make_archive(folder: Path, n_files: int = 26, n_poison: int = 0) -> Path:
    """Short recordings, a text and an empty file among them; speakers beside some; `n_poison` that kill nodes."""
    for number in range(n_files):
        path = folder / f"s{number % 3}" / f"take{number:02d}.wav"
        write_take(path, number, 0.2 + 0.1 * (number % 4))
        if number % 5 == 0:
            path.with_suffix(".rttm").write_text("SPEAKER x 1 0.0 0.1 <NA> <NA> A <NA> <NA>\n")
    for number in range(n_poison):
        write_take(folder / "s0" / f"poison{number}.wav", number, POISON_S)
    (folder / "s0" / "notes.wav").write_text("no audio")
    (folder / "s1" / "empty.wav").write_bytes(b"")
    return folder


def scan_here(archive: Path, run: Path, **options: Any) -> Path:
    """What one machine makes of it."""
    scan(archive, run, config=CONFIG, plugins=RECIPE, report=False, **options)
    return run


def plan_here(archive: Path, run: Path, **options: Any) -> int:
    return plan(archive, run, config=options.pop("config", CONFIG), plugins=RECIPE, **options).n_parts


def assert_same(run: Path, local: Path) -> None:
    found = compare_runs(run, local, tolerance=0.0)
    assert found.is_equal, found
    assert check_run(run) == []
    assert not list((run / ".attempts").glob("*")), "what nodes leave is swept"


class Machines:
    """A process that runs nodes and `complete` in children of its own; see forks.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "forks.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **order: Any) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, do: str, run: Path, **order: Any) -> int:
        """Begin to ``work`` or to ``complete``; return the process."""
        return self.ask(do=do, run=str(run), **order)

    def end(self, pid: int) -> int:
        """Wait for a process; return its exit code, negative for a signal."""
        return self.ask(wait=pid)

    def code_of(self, pid: int) -> int | None:
        """Return the exit code of a process, None while it lives; to be asked until it has ended, and not again."""
        code = self.ask(poll=pid)
        return None if code == LIVES else code

    def run(self, do: str, run: Path, **order: Any) -> int:
        return self.end(self.start(do, run, **order))

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)


def in_environment(**values: str) -> dict[str, str]:
    return {**os.environ, **values}
