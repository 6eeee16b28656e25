"""One small training that several tests look at."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from labelled_clips import write_folder

from ser_batch.cli.main import main
from ser_batch.errors import ExitCode

N_CLIPS = 36


@dataclass(frozen=True, slots=True)
class Trained:
    """Two clips of each of six labels by each of three speakers, learnt with the configuration ``quick``."""

    data: Path
    model: Path
    report: Path
    #: Scores and where they are, on standard output; what is told on the way, on standard error.
    out: str
    err: str


def train_quickly(folder: Path) -> Trained:
    """Train in `folder`, by the command line."""
    data = write_folder(folder / "raw", n_speakers=3, n_takes=2)
    options = {"--data": data, "--output": folder / "own.safetensors", "--report": folder / "report"}
    pairs = [part for key, value in {**options, "--cache": folder / "cache"}.items() for part in (key, str(value))]
    out, err = io.StringIO(), io.StringIO()
    streams = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err))
    with pytest.MonkeyPatch.context() as patch, streams[0], streams[1]:
        patch.setenv("SER_BATCH_PLUGINS", "")
        code = main(["train", "--config", "quick", "--device", "cpu", "--jobs", "2", *pairs])
    assert code == ExitCode.OK, err.getvalue()
    return Trained(data, folder / "own.safetensors", folder / "report", out.getvalue(), err.getvalue())
