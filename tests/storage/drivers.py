"""Scans in processes of their own, which may be killed while they wait for an answer of the store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import soundfile
from repository import REPOSITORY
from s3_server import Front

from ser_batch import load_results
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.run.layout import TABLES, TableName
from ser_batch.run.schema import TIMING_COLUMNS

_FAULTS = REPOSITORY / "tests" / "reliability"

#: Parts of two files, all tables.
CONFIG: dict[str, Any] = {
    "predict": {"model": "guess", "device": "cpu"},
    "extract": {"extractors": ["loudness"], "jobs": 1, "timeout_s": 0.0},
    "run": {"shard_size": 2},
}


class Driver:
    """A process that runs one scan after the other, each in a child; `tests/reliability/scanner.py` says how."""

    def __init__(self) -> None:
        command = [sys.executable, str(_FAULTS / "scanner.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, inputs: Path, run: str, **order: Any) -> None:
        """Begin a scan."""
        order = {"mode": "resume", "config": CONFIG, "plugins": [str(_FAULTS / "faulty_plugin.py")], **order}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order | {"inputs": str(inputs), "run": run}) + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Wait for the end of the scan that was begun; returns code (negative: the signal), error, n_processed."""
        assert self._process.stdout
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def scan(self, inputs: Path, run: str, **order: Any) -> dict[str, Any]:
        self.begin(inputs, run, **order)
        return self.end()

    def send(self, number: int) -> None:
        """Send a signal to the scan that runs, if one does."""
        for child in psutil.Process(self._process.pid).children():
            # What scans before have left behind may be gone, or wait to be buried.
            with suppress(psutil.Error):
                if any("scanner.py" in word for word in child.cmdline()):
                    os.kill(child.pid, number)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)


def kill_at_change(front: Front, driver: Driver, number: int, is_done: bool) -> None:
    """Have the scan of a driver killed at its n-th request that changes anything, before or after that is done."""
    left = number

    def counted(method: str, path: str) -> int | None:
        nonlocal left
        left -= method in ("PUT", "DELETE", "POST")
        if left:
            return None
        left = -1
        driver.send(signal.SIGKILL)
        return 0 if is_done else 503

    front.behave()
    if is_done:
        front.then = counted
    else:
        front.answer = counted


def make_archive(folder: Path, n_files: int) -> Path:
    """Write short voices, some of them with segments beside them, and a file that is none."""
    for number in range(n_files):
        path = folder / f"speaker{number % 2}" / f"take{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        voice = synthetic_voice(0.2 + 0.1 * (number % 6), 8_000, seed=number)
        soundfile.write(path, np.asarray(voice), 8_000)
        if number % 3 == 0:
            path.with_suffix(".rttm").write_text("SPEAKER x 1 0.00 0.10 <NA> <NA> ann <NA> <NA>\n")
    (folder / "speaker1" / "notes.wav").write_text("these are no samples")
    return folder


def tables(run: str | Path, names: Iterable[TableName] = tuple(TABLES)) -> dict[TableName, pd.DataFrame]:
    """Return tables of a run, without times."""
    frames = {name: load_results(run, name) for name in names}
    return {
        name: frame.drop(columns=[column for column in TIMING_COLUMNS if column in frame])
        for name, frame in frames.items()
    }


def assert_same(run: str | Path, reference: dict[TableName, pd.DataFrame]) -> None:
    for name, frame in tables(run, reference).items():
        pd.testing.assert_frame_equal(frame, reference[name])
