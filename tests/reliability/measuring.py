"""Measures two recordings in a process of its own, on a machine that lacks something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import results
from repository import REPOSITORY

COMPILING = "Compiling the voice analyses"


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


NEEDS_MOUNTS = pytest.mark.skipif(
    subprocess.run("unshare -rm true", shell=True, capture_output=True, check=False).returncode != 0,
    reason="needs mounts of its own",
)
