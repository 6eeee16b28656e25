"""Two runs compared, for the command `diff` and the page alike."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import LABELS, SPECS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.report.build import build_report
from ser_batch.run.compare import compare_runs
from ser_batch.run.schema import segments_schema

OTHER_LABELS = ("anger", "fear", "happiness", "neutral", "sadness")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    names = [f"tape/{i:04}.flac" for i in range(600)]
    return (
        make_run(folder / "before", 0, RunPlan(clip_ids=names[:580], seed=1)),
        make_run(folder / "after", 0, RunPlan(clip_ids=names[20:], seed=2, labels=OTHER_LABELS)),
    )


@pytest.fixture(scope="module")
def joined(runs: tuple[Path, Path]) -> pd.DataFrame:
    before, after = (load_results(run, columns=["clip_id", "status", "emotion", "confidence"]) for run in runs)
    both = before.merge(after, on="clip_id", suffixes=("_before", "_after"))
    for side in ("before", "after"):
        both[f"emotion_{side}"] = both[f"emotion_{side}"].astype(object)
        both[f"status_{side}"] = both[f"status_{side}"].astype(object)
    return both


def test_the_files_whose_label_changed_are_named(runs: tuple[Path, Path], joined: pd.DataFrame) -> None:
    result = compare_runs(*runs)
    assert (result.n_files, result.n_common) == ((580, 580), 560)
    outcomes = [joined[f"emotion_{side}"].fillna(joined[f"status_{side}"]) for side in ("before", "after")]
    expected = joined[outcomes[0] != outcomes[1]]
    changed = result.changed.to_pandas()
    assert changed.clip_id.tolist() == expected.clip_id.tolist()
    assert changed.before.tolist() == outcomes[0][expected.index].tolist()
    assert changed.after.tolist() == outcomes[1][expected.index].tolist()
    labelled = joined.dropna(subset=["emotion_before", "emotion_after"])
    assert result.n_labelled == len(labelled) > 100
    shift = (labelled.confidence_before - labelled.confidence_after).abs().mean()
    assert result.confidence_shift == pytest.approx(shift, rel=1e-6)


def test_changes_of_label_and_status_are_counted(runs: tuple[Path, Path], joined: pd.DataFrame) -> None:
    result = compare_runs(*runs)
    pairs = joined.fillna({"emotion_before": "none", "emotion_after": "none"})
    assert dict(result.transitions) == pairs.groupby(["emotion_before", "emotion_after"]).size().to_dict()
    moved = joined[joined.status_before != joined.status_after]
    assert sum(result.statuses.values()) == len(moved) > 0
    assert [names[0] for names in result.only] == ["tape/0000.flac", "tape/0580.flac"]
    assert [len(names) for names in result.only] == [20, 20]


def test_a_run_compared_with_itself_has_no_difference(runs: tuple[Path, Path]) -> None:
    result = compare_runs(runs[0], runs[0], tolerance=0.0)
    assert result.is_equal and result.confidence_shift == 0.0
    assert not compare_runs(*runs, tolerance=1e-4).is_equal


def test_runs_without_common_files_have_no_shift(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, 0, RunPlan(clip_ids=[f"{name}.wav"])) for name in ("a", "b")]
    assert np.isnan(compare_runs(*runs).confidence_shift)


def test_numbers_are_compared_within_the_tolerance(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_run(tmp_path / "run", 0, RunPlan(clip_ids=[f"tape/{i:04}.flac" for i in range(580)], seed=1))
    part = other / "files" / "part-00000.parquet"
    table = pq.read_table(part)
    place = table.column_names.index("prosodic__f0_sd_st")
    table = table.set_column(place, table.field(place), pa.array(table.column(place).to_numpy() + np.float32(0.01)))
    pq.write_table(table, part)
    assert compare_runs(runs[0], other, tolerance=0.1).is_equal
    found = compare_runs(runs[0], other, tolerance=1e-3).columns
    assert list(found) == ["prosodic__f0_sd_st"]
    assert found["prosodic__f0_sd_st"][1] == pytest.approx(0.01, rel=1e-2)


def test_vanished_files_are_left_out_by_the_command_and_by_the_page(tmp_path: Path, capsys) -> None:
    """A row that stays of a file that is gone says nothing about the audio of today."""
    names = [f"{i}.flac" for i in range(9)]
    first, second = (make_run(tmp_path / name, 0, RunPlan(clip_ids=names, seed=1)) for name in ("a", "b"))
    part = second / "files" / "part-00000.parquet"
    table = pq.read_table(part)
    gone = pa.array([name == "3.flac" for name in table.column("clip_id").to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("vanished"), table.schema.field("vanished"), gone), part)
    result = compare_runs(first, second, tolerance=0.0)
    assert (result.n_common, result.n_files, result.only) == (8, (9, 8), (["3.flac"], []))
    assert main(["diff", str(first), str(second)]) == 1
    assert "Only in RUN_A: 1 files\n  3.flac" in capsys.readouterr().out
    page = build_report(first, second, output=tmp_path / "page.html").read_text()
    assert re.search(r"9 in the first,\s+8 in the second", page)


def add_segments(run: Path, emotions: list[str], start_s: float = 0.0) -> Path:
    """Give a run a segment of 1 s for each emotion, all in its first file."""
    n, schema = len(emotions), segments_schema(LABELS, SPECS, {})
    columns = {field.name: pa.nulls(n, field.type) for field in schema} | {
        "clip_id": ["0.flac"] * n, "segment_index": range(n), "start_s": [start_s + i for i in range(n)],
        "end_s": [start_s + i + 1 for i in range(n)], "speaker": ["anna", *["ben"] * (n - 1)], "source": ["rttm"] * n,
        "context_s": [0.0] * n, "emotion": emotions, "confidence": [0.5] * n,
        **{f"p_{label}": [0.5 if label == emotion else 0.1 for emotion in emotions] for label in LABELS},
    }  # fmt: skip
    arrays = [
        pa.array(list(columns[field.name]), pa.string()).dictionary_encode().cast(field.type)
        if pa.types.is_dictionary(field.type)
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    (run / "segments").mkdir()
    pq.write_table(pa.table(arrays, schema=schema), run / "segments" / "part-00000.parquet")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"tables": ["segments", "windows", "files"]}))
    return run


def test_segments_are_compared_whatever_their_numbers(tmp_path: Path, capsys) -> None:
    plan = RunPlan(clip_ids=["0.flac", "1.flac"], seed=1, failed_share=0.0)
    runs = [make_run(tmp_path / name, 0, plan) for name in ("a", "b", "c", "d")]
    before, same, after, none = runs
    for run, emotions in ((before, ["fear", "anger"]), (same, ["fear", "anger"]), (after, ["anger", "fear"])):
        add_segments(run, emotions, start_s=1.0 if run is after else 0.0)
    assert compare_runs(before, same, tolerance=1e-4).is_equal
    assert main(["diff", str(before), str(same)]) == 0
    found = compare_runs(before, after, tolerance=1e-4).segments
    # The second segment of one is the first of the other by its time, but another one speaks in it.
    assert (found.n_common, found.n_only, len(found.changed)) == (0, (2, 2), 0)
    shutil.rmtree(after / "segments")
    add_segments(after, ["fear", "sadness"])
    capsys.readouterr()
    assert main(["diff", str(before), str(after)]) == 1
    told = capsys.readouterr().out
    assert "2 segments in both runs, 1 with another label." in told
    assert "   0.400  anger -> sadness  0.flac from 1.000 s to 2.000 s, ben\n" in told
    assert "segments and the largest difference" in told
    assert compare_runs(before, none, tolerance=1e-4).missing_tables == ["segments"]
