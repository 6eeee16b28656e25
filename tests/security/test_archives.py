"""No file of a folder that is scanned is executed, whatever it is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from repository import REPOSITORY

from ser_batch.dsp.voice import synthetic_voice

#: What processes of a scan import, and would find first if they looked in the working directory.
MODULES = (
    "psutil",
    "joblib",
    "multiprocessing",
    "numpy",
    "pickle",
    "soundfile",
    "numba",
    "pyarrow",
    "pluggy",
    "jinja2",
    "resource",
    "faulthandler",
    "click",
)


@pytest.mark.parametrize("command", ["ser-batch", "python -m ser_batch"])
def test_a_scan_inside_an_archive_executes_nothing_that_lies_there(tmp_path: Path, command: str) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    soundfile.write(archive / "a.wav", synthetic_voice(2.0), 22_050)
    for name in MODULES:
        (archive / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
    (tmp_path / "quick.toml").write_text('[extract]\nextractors = ["quality"]\n')
    # As pip makes it: Python looks beside the script, not in the working directory.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ser-batch").write_text("from ser_batch.__main__ import main\nmain()\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    script = [sys.executable, *(["-m", "ser_batch"] if " " in command else [tmp_path / "bin" / "ser-batch"])]
    done = subprocess.run(
        [*script, "features", ".", "-o", "../run", "--jobs", "1", "--config", tmp_path / "quick.toml"],
        cwd=archive,
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert [name for name in MODULES if (tmp_path / name).exists()] == []
