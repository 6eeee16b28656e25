"""What the reliability tests share: a small corpus, scans that can be killed, and the promises as checks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import soundfile

from ser_batch.dsp.voice import synthetic_voice
from ser_batch.run.layout import TABLES
from ser_batch.run.schema import TIMING_COLUMNS
from ser_batch.run.verify import check_run

HERE = Path(__file__).resolve().parent
PLUGIN = HERE / "faulty_plugin.py"

#: 6 shards of 4 files, 2 workers.
CONFIG: dict[str, Any] = {
    "predict": {"model": "guess", "device": "cpu"},
    "extract": {"extractors": ["loudness"], "jobs": 2, "timeout_s": 0.0},
    "run": {"shard_size": 4},
}

#: Marks what tests a promise once more, in another way: for the long form.
LONG = pytest.mark.reliability

#: The same with one worker, which starts faster.
ONE_JOB: dict[str, Any] = CONFIG | {"extract": CONFIG["extract"] | {"jobs": 1}}

#: Settings that change every result.
SHORTER: dict[str, Any] = ONE_JOB | {"audio": {"window_s": 0.1, "window_hop_s": 0.1}}


class Scanner:
    """A process that runs scans in children of its own; see scanner.py."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - until `close`
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "scanner.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def scan(self, inputs: Path, run: Path, **order: Any) -> dict[str, Any]:
        """Run one scan to its end, whatever that is; returns code (negative: the signal), error, counts, seconds."""
        order = {"mode": "resume", "config": ONE_JOB, "plugins": [str(PLUGIN)], **order}
        order |= {"inputs": str(inputs), "run": str(run)}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def errors(self) -> str:
        """What scans and their helpers have written to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)
        self._errors.close()


def make_corpus(folder: Path, n_files: int = 24) -> Path:
    """Write short recordings in several formats and folders; one is empty, one is text, one ends early.

    Beside every fifth lies a file that says who speaks when.
    """
    for index in range(n_files):
        path = folder / f"speaker{index % 3}" / f"take{index:03d}.{('wav', 'flac', 'ogg')[index % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        n_samples = 1600 + 800 * (index % 7)
        if index % 5 == 0:
            turns = (f"SPEAKER x 1 0.0{turn} 0.05 <NA> <NA> {turn} <NA> <NA>\n" for turn in range(2))
            path.with_suffix(".rttm").write_text("".join(turns))
        voice = synthetic_voice(n_samples / 8000, 8000, seed=index)
        soundfile.write(path, (1 + index % 9) / 9 * voice, 8000)
    (folder / "speaker0" / "empty.wav").write_bytes(b"")
    (folder / "speaker1" / "notes.wav").write_text("these are no samples")
    whole = folder / "speaker2" / "take002.ogg"
    (folder / "speaker2" / "broken.flac").write_bytes(whole.read_bytes()[:900])
    return folder


def results(run: Path, table: str = "files") -> pd.DataFrame:
    """A table of a run without times, in a fixed order."""
    frame = pd.read_parquet(run / table)
    keys = list(TABLES[table].keys)
    frame = frame.drop(columns=[name for name in TIMING_COLUMNS if name in frame]).sort_values(keys, ignore_index=True)
    categories = frame.select_dtypes("category").columns
    return frame.astype(dict.fromkeys(categories, object))


def assert_readable(run: Path) -> None:
    """R2: whatever a reader finds is whole; and no row is there without its windows, or twice."""
    if not any((run / "files").glob("*.parquet")):
        return
    files = results(run)
    assert files["clip_id"].is_unique
    for table, kind in TABLES.items():
        if not kind.counted_by:
            continue
        promised = files.set_index("clip_id")[kind.counted_by]
        counts = results(run, table).groupby("clip_id").size()
        assert (counts.reindex(promised.index, fill_value=0) == promised).all(), table


def assert_same(run: Path, reference: Path) -> None:
    """R1: row for row what an undisturbed run gives."""
    for table in TABLES:
        pd.testing.assert_frame_equal(results(run, table), results(reference, table))


def assert_sound(run: Path) -> None:
    assert check_run(run) == []
