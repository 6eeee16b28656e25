"""The audit sample: known probabilities, the same for the same run, and a sample of its design wherever one stops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.errors import DataError, RunError
from ser_batch.reviews.sample import (
    AuditSample,
    _rates,
    answers_needed,
    choose_unit,
    draw_sample,
    load_sample,
    save_sample,
)
from ser_batch.run.read import Run, open_run

N_FILES = 3_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(make_run(tmp_path_factory.mktemp("sample") / "run", N_FILES))


@pytest.fixture(scope="module")
def sample(run: Run) -> AuditSample:
    return draw_sample(run)


def test_the_items_are_what_the_run_says_of_those_files(run: Run, sample: AuditSample) -> None:
    files = load_results(run.folder).set_index("clip_id")
    assert sample.unit == "files"
    assert len({item.clip_id for item in sample.items}) == len(sample.items)
    for item in sample.items[:50]:
        row = files.loc[item.clip_id]
        assert (item.model_label, item.start_s) == (row.emotion, 0.0)
        assert item.model_confidence == pytest.approx(row.confidence, abs=1e-6)
        assert item.end_s == pytest.approx(row.duration_s, abs=1e-3)
        stratum = sample.strata[item.stratum]
        assert stratum.label == item.model_label
        assert stratum.low - 1e-6 <= item.model_confidence <= stratum.high + 1e-6


def test_strata_hold_every_labelled_file_once(run: Run, sample: AuditSample) -> None:
    files = load_results(run.folder)
    n_by_label = Counter(files.emotion.dropna())
    assert sample.n_units == files.emotion.notna().sum()
    for label in LABELS:
        assert sum(stratum.n_units for stratum in sample.strata if stratum.label == label) == n_by_label[label]


def test_inclusion_probabilities_weigh_back_to_the_archive(sample: AuditSample) -> None:
    weighed: Counter[int] = Counter()
    for item in sample.items[: sample.n_wanted]:
        weighed[item.stratum] += 1 / item.inclusion_probability
    for number, stratum in enumerate(sample.strata):
        assert weighed[number] == pytest.approx(stratum.n_units, rel=1e-6)


@pytest.mark.parametrize("n_answers", [60, 200, 400])
def test_wherever_one_stops_each_stratum_had_its_share(sample: AuditSample, n_answers: int) -> None:
    asked = Counter(item.stratum for item in sample.items[:n_answers])
    goal = Counter(item.stratum for item in sample.items[: sample.n_wanted])
    for number in goal:
        assert asked[number] == pytest.approx(n_answers * goal[number] / sample.n_wanted, abs=1.6)


def test_over_many_draws_every_file_comes_as_often_as_it_is_said(tmp_path: Path) -> None:
    plan = RunPlan(failed_share=0.0, long_every=10**9)
    made = open_run(make_run(tmp_path / "run", 120, plan))
    times: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for number in range(300):
        made.info["run_id"] = f"draw-{number}"
        drawn = draw_sample(made, half_width=0.1)
        times.update(item.clip_id for item in drawn.items[: drawn.n_wanted])
        expected.update({item.clip_id: item.inclusion_probability for item in drawn.items})
    z = [(times[name] - n) / np.sqrt(max(n * (1 - n / 300), 1)) for name, n in expected.items()]
    assert len(expected) > 100
    assert np.abs(z).max() < 4.5


def test_rare_labels_get_more_than_their_share() -> None:
    rates = _rates(np.array([900, 900, 200]), [0, 0, 1])
    assert rates == pytest.approx([0.35, 0.35, 0.3])


def test_the_same_run_gives_the_same_sample_and_it_is_read_as_it_was_written(
    run: Run, sample: AuditSample, tmp_path: Path
) -> None:
    assert draw_sample(run) == sample
    assert load_sample(tmp_path) is None
    save_sample(tmp_path, sample)
    assert load_sample(tmp_path) == sample


def test_a_damaged_sample_is_named_with_the_cure(tmp_path: Path, sample: AuditSample) -> None:
    save_sample(tmp_path, sample)
    path = tmp_path / "reviews" / "audit.json"
    whole = path.read_text()
    changes = [('"seed"', '"sead"'), ('"stratum": 0', '"stratum": 99'), ('"clip_id": "', '"clip_id": 5, "x": "')]
    changes += [
        ('"unit": "files"', '"unit": "tapes"'),
        ('"n_units": ', '"n_units": -'),
        ('"low": ', '"low": "", "x": '),
    ]
    broken = [whole.replace(old, new, 1) for old, new in changes]
    assert whole not in broken
    for text in ("{", "[]", "{}", '{"format": 9}', *broken):
        path.write_text(text)
        with pytest.raises(DataError, match=r"audit\.json cannot be read: .* Restore it from a copy; or delete it"):
            load_sample(tmp_path)


def test_how_many_answers_a_half_width_needs() -> None:
    """Of one huge stratum at a coin's accuracy it is z² / 4 h², as in every textbook; never more than there are."""
    alone = (np.array([10**9]), np.array([1.0]), np.array([0.5]))
    assert answers_needed(0.05, *alone) == 385
    assert answers_needed(0.03, *alone) == 1_068
    assert answers_needed(0.05, np.array([200]), *alone[1:]) == 132
    assert answers_needed(0.001, np.array([200]), *alone[1:]) == 200


def test_long_recordings_are_asked_about_window_by_window(tmp_path: Path) -> None:
    run = open_run(make_run(tmp_path / "run", 200, RunPlan(long_every=3)))
    assert choose_unit(run) == "windows"
    drawn = draw_sample(run)
    windows = load_results(run.folder, "windows")
    assert drawn.n_units == len(windows)
    keys = set(zip(windows.clip_id, windows.start_s.round(3), windows.end_s.round(3), strict=True))
    assert {(item.clip_id, item.start_s, item.end_s) for item in drawn.items} <= keys
    columns = [f"p_{label}" for label in LABELS]
    confidence = windows.set_index(["clip_id", "start_s"])[columns].max(axis=1)
    for item in drawn.items[:20]:
        assert item.model_confidence == pytest.approx(confidence[item.clip_id, item.start_s], abs=1e-6)


def test_files_that_are_gone_are_not_asked_about(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 100, RunPlan(failed_share=0.0))
    gone = load_results(folder).clip_id[::2]
    for path in (folder / "files").glob("*.parquet"):
        table = pq.read_table(path)
        place = table.column_names.index("vanished")
        flags = pa.array([name in set(gone) for name in table.column("clip_id").to_pylist()])
        pq.write_table(table.set_column(place, table.schema.field("vanished"), flags), path)
    for unit in ("files", "windows"):
        drawn = draw_sample(open_run(folder), unit=unit)  # type: ignore[arg-type]
        assert drawn.items
        assert not {item.clip_id for item in drawn.items} & set(gone)


def test_a_run_without_labels_and_one_without_files_are_refused(tmp_path: Path) -> None:
    bare = open_run(make_run(tmp_path / "bare", 10, RunPlan(labels=())))
    with pytest.raises(RunError, match="has no labels to judge: it was made by `ser-batch features`"):
        draw_sample(bare, unit="files")
    broken = open_run(make_run(tmp_path / "broken", 5, RunPlan(failed_share=1.0)))
    with pytest.raises(DataError, match="holds no labelled file, so there is nothing to ask about"):
        draw_sample(broken)
