"""The README's own commands, on the samples, as a stranger would type them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from repository import REPOSITORY

README = (REPOSITORY / "README.md").read_text()

#: What becomes of the samples that are wrong on purpose; all others are ok.
ODD = {
    "odd/broken_in_the_middle.flac": {"partial", "failed"},
    "odd/text_named.wav": {"failed"},
}


def block(heading: str, language: str) -> str:
    """Return the first code block below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.+?)```", section, re.DOTALL)
    assert found
    return found[1]


def run(words: list[str], folder: Path, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "SER_BATCH_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=900,  # the first scan in a fresh clone compiles kernels: a minute, more on a busy machine
        check=False,
    )
    assert done.returncode in codes, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the five lines were typed."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(REPOSITORY / "data/samples", folder / "data/samples")
    lines = [line[2:] for line in block("Five lines", "console").splitlines() if line.startswith("$ ")]
    assert len(lines) == 5
    programs = {"ser-batch": [sys.executable, "-m", "ser_batch"], "python": [sys.executable]}
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        # Two samples are broken on purpose, which the README says, and so does the exit code of the scan.
        run([*programs[program], *arguments], folder, codes=(1,) if arguments[0] == "scan" else (0,))
    return folder


@pytest.fixture(scope="module")
def files(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "runs/samples/files").set_index("clip_id")


def test_every_sample_is_a_row_and_only_what_is_broken_fails(files: pd.DataFrame) -> None:
    samples = REPOSITORY / "data/samples"
    assert set(files.index) == {path.relative_to(samples).as_posix() for path in samples.rglob("*") if path.is_file()}
    assert f"label {len(files)} sample files" in README
    for clip_id, status in files["status"].items():
        assert status in ODD.get(str(clip_id), {"ok"}), files.loc[clip_id]
    assert files.loc[list(ODD), "error_message"].str.len().gt(10).all()


def test_rows_that_are_ok_have_probabilities_that_sum_to_1(files: pd.DataFrame) -> None:
    ok = files[files["status"] == "ok"]
    probabilities = ok[[column for column in ok if column.startswith("p_")]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    best = probabilities.idxmax(axis=1).str.removeprefix("p_")
    assert (best == ok["emotion"].astype(str)).all()


def test_the_long_recording_is_labelled_over_its_whole_length(folder: Path, files: pd.DataFrame) -> None:
    duration_s = files.loc["long/conversation.mp3", "duration_s"]
    assert duration_s > 180
    windows = pd.read_parquet(folder / "runs/samples/windows")
    windows = windows[windows["clip_id"] == "long/conversation.mp3"].sort_values("window_index")
    assert windows["start_s"].iloc[0] == 0
    assert windows["end_s"].iloc[-1] >= duration_s
    np.testing.assert_allclose(windows["start_s"].diff().dropna(), 3, atol=1e-6)


def test_features_of_the_samples_are_what_was_made(files: pd.DataFrame) -> None:
    f0_hz = files["prosodic__f0_median_hz"]
    assert f0_hz["voices/low_slow.flac"] < f0_hz["voices/middle.flac"] < f0_hz["voices/very_high.flac"]
    assert np.isnan(f0_hz["odd/silence.flac"])
    assert files.loc["voices/whispered.flac", "prosodic__voiced_fraction"] < 0.05
    clipped = files["quality__clipped_fraction"]
    assert clipped.idxmax() == "rooms/clipped.flac"
    assert files.loc["rooms/very_quiet.flac", "quality__level_dbfs"] < -40


def test_the_report_and_the_export_are_there(folder: Path) -> None:
    report = (folder / "runs/samples/report.html").read_text(encoding="utf-8")
    assert "conversation.mp3" in report
    assert "</html>" in report
    exported = list(folder.rglob("*.csv"))
    assert exported
    assert any("conversation.mp3" in path.read_text() for path in exported)


def test_the_python_example_runs_and_agrees_with_the_scan(folder: Path, files: pd.DataFrame) -> None:
    code = block("In Python", "python") + "\nprint(emotion, *(f'{value:.6f}' for value in probabilities.values()))"
    last = run([sys.executable, "-c", code], folder).splitlines()[-1].split()
    row = files.loc["voices/low_slow.flac"]
    assert last[0] == row["emotion"]
    expected = [row[column] for column in files if column.startswith("p_")]
    np.testing.assert_allclose([float(word) for word in last[1:]], expected, atol=1e-4)
