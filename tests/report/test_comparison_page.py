"""Two runs compared: what changed, and which files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from synthetic_run import RunPlan, make_run

from ser_batch import load_results
from ser_batch.errors import RunError
from ser_batch.report.build import build_report

OTHER_LABELS = ("anger", "fear", "happiness", "neutral", "sadness")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    names = [f"tape/{i:04}.flac" for i in range(600)]
    info = {"model": {"name": "other", "sha256": "1" * 64}}
    return (
        make_run(folder / "before", 0, RunPlan(clip_ids=names[:580], seed=1)),
        make_run(folder / "after", 0, RunPlan(clip_ids=names[20:], seed=2, labels=OTHER_LABELS, info=info)),
    )


@pytest.fixture(scope="module")
def joined(runs: tuple[Path, Path]) -> pd.DataFrame:
    before, after = (load_results(run, columns=["clip_id", "status", "emotion", "confidence"]) for run in runs)
    both = before.merge(after, on="clip_id", suffixes=("_before", "_after"))
    both["emotion_before"] = both.emotion_before.astype(object)
    both["emotion_after"] = both.emotion_after.astype(object)
    return both


def test_the_page_names_the_files_and_what_differs(runs: tuple[Path, Path], joined: pd.DataFrame) -> None:
    path = build_report(runs[0], runs[1])
    assert path == runs[1] / "comparison.html"
    html = path.read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html).group(1))
    labelled = joined.dropna(subset=["emotion_before", "emotion_after"])
    assert {row[0] for row in data["rows"]} == set(labelled[labelled.emotion_before != labelled.emotion_after].clip_id)
    assert data["labels"][-1] == "neutral"
    assert "model.sha256" in html
    assert "neutral" in html


def test_a_run_compared_with_itself_has_no_change(runs: tuple[Path, Path], tmp_path: Path) -> None:
    html = build_report(runs[0], runs[0], output=tmp_path / "same.html").read_text()
    assert re.search(r"No label changed: all \d+ files", html)


def test_runs_without_common_files_say_so(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, 0, RunPlan(clip_ids=[f"{name}.wav"])) for name in ("a", "b")]
    html = build_report(*runs).read_text()
    assert "No file has a label in both runs" in html


def test_a_run_without_labels_cannot_be_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    features = make_run(tmp_path / "features", 5, RunPlan(labels=()))
    with pytest.raises(RunError, match="no labels to compare"):
        build_report(runs[0], features)
