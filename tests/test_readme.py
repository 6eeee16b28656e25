"""The README's own commands, on the samples, as a stranger would type them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from repository import REPOSITORY

from ser_batch.cli.main import main

README = (REPOSITORY / "README.md").read_text()


def blocks(heading: str, language: str) -> list[str]:
    """Return the code blocks below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.+?)```", section, re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """Return the words of each command of a block."""
    return [shlex.split(line[2:], comments=True) for line in block.splitlines() if line.startswith("$ ")]


def python(code: str) -> str:
    """Run Python in the current folder; return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def call(program: str, *arguments: str) -> int:
    """Run a command of the page in the current folder, ``ser-batch`` in this process; return its exit code."""
    if program == "ser-batch":
        return main(list(arguments))
    assert (program, arguments[0]) == ("python", "-c")
    python(arguments[1])
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the five lines were typed, and which is the current one."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("samples", "broken"):
        shutil.copytree(REPOSITORY / "data" / name, folder / "data" / name)
    five, broken = blocks("Five lines", "console")
    assert len(commands(five)) == 5
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert [call(*words) for words in commands(five)] == [0] * 5
        assert "ends with code 1" in broken
        assert [call(*words) for words in commands(broken)] == [1]
        yield folder


@pytest.fixture(scope="module")
def files(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "runs/samples/files").set_index("clip_id")


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_sample_is_a_row_that_is_ok_where_somebody_is_heard(files: pd.DataFrame) -> None:
    assert set(files.index) == names_in(REPOSITORY / "data/samples")
    assert f"label {len(files)} sample files" in README
    assert f"label the {len(files)} sample files" in README
    mute = files[files["status"] != "ok"]
    assert sorted(mute.index) == ["odd/silence.flac", "odd/twenty_milliseconds.wav"]
    assert (mute["status"] == "skipped").all() and (mute["error_message"] == "no voice").all()


def test_every_broken_file_is_a_row_that_says_what_happened(folder: Path) -> None:
    files = pd.read_parquet(folder / "runs/broken/files").set_index("clip_id")
    assert set(files.index) == names_in(REPOSITORY / "data/broken")
    assert files.loc["text_named.wav", "status"] == "failed"
    assert files.loc["broken_in_the_middle.flac", "status"] in {"partial", "failed"}
    assert files["error_message"].str.len().gt(10).all()


def test_the_two_commands_are_those_that_ci_runs_and_need_no_more_than_python() -> None:
    two = blocks("Install", "console")[0]
    ci = (REPOSITORY / ".ci/run").read_text()
    assert [words[0] for words in commands(two)] == ["sh", "sh"]
    for words in commands(two):
        assert shlex.join(words) in ci
        done = subprocess.run(
            words,
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "PYTHON": "false", "VENV": "nowhere"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("Python 3.11 or newer is needed.")


def test_a_run_holds_what_the_architecture_says(folder: Path) -> None:
    page = (REPOSITORY / "docs/architecture.md").read_text()
    shown = page.split("## A run on disk")[1].split("```")[1]
    assert {path.name for path in (folder / "runs/samples").iterdir()} <= set(
        re.findall(r"^  ([\w.]+)", shown, re.MULTILINE)
    )


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
    # Windows lie on the voice: where nobody pauses they begin 3 s apart, the first before the recording does.
    assert windows["start_s"].iloc[0] < 1
    assert duration_s - 1 < windows["end_s"].iloc[-1] <= duration_s
    assert windows["start_s"].diff()[2:].between(3 - 1e-6, 5).all()


def test_features_of_the_samples_are_what_was_made(files: pd.DataFrame) -> None:
    f0_hz = files["prosodic__f0_median_hz"]
    assert f0_hz["voices/low_slow.flac"] < f0_hz["voices/middle.flac"] < f0_hz["voices/very_high.flac"]
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
    code = blocks("In Python", "python")[0] + "\nprint(emotion, *(f'{value:.6f}' for value in probabilities.values()))"
    last = python(code).splitlines()[-1].split()
    row = files.loc["voices/low_slow.flac"]
    assert last[0] == row["emotion"]
    expected = [row[column] for column in files if column.startswith("p_")]
    np.testing.assert_allclose([float(word) for word in last[1:]], expected, atol=1e-4)
