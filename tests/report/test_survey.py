"""What one pass over the files finds, against pandas on the same table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.report.moments import MOST_STEPS, find_moments
from ser_batch.report.survey import LOW_MARGIN, Survey, survey_run
from ser_batch.run.read import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), 3_000, RunPlan(seed=5))


@pytest.fixture(scope="module")
def files(run: Path) -> pd.DataFrame:
    return load_results(run)


@pytest.fixture(scope="module")
def survey(run: Path) -> Survey:
    return survey_run(open_run(run))


def test_counts_and_sums_are_those_of_pandas(survey: Survey, files: pd.DataFrame) -> None:
    assert survey.n_rows == len(files)
    assert dict(survey.status) == files.status.value_counts().to_dict()
    assert survey.audio_s == pytest.approx(files.duration_s.sum())
    assert survey.n_labelled == files.emotion.notna().sum()
    assert survey.n_uncertain == files.uncertain.sum()
    assert survey.n_low_margin == (files.margin < LOW_MARGIN).sum()
    np.testing.assert_allclose(survey.probability_sum, files[[f"p_{label}" for label in LABELS]].sum(), rtol=1e-5)
    for stage in ("decode", "extract", "predict"):
        assert survey.stage_s[stage] == pytest.approx(files[f"time_{stage}_s"].sum(), rel=1e-5)


def test_emotions_by_folder_are_those_of_pandas(survey: Survey, files: pd.DataFrame) -> None:
    (groups,) = survey.groups
    expected = pd.crosstab(files.clip_id.str.split("/").str[0], files.emotion)[list(LABELS)]
    assert {row.name: list(row.counts) for row in groups.rows()} == {
        name: list(row) for name, row in expected.iterrows()
    }
    sizes = [row.n_files for row in groups.rows()]
    assert sizes == sorted(sizes, reverse=True)


def test_the_histogram_counts_every_labelled_file_once(survey: Survey, files: pd.DataFrame) -> None:
    expected, _ = np.histogram(files.confidence.dropna().astype(float), bins=20, range=(0, 1))
    np.testing.assert_array_equal(survey.confidence.sum(axis=1), expected)


def test_flags_count_what_lies_beyond_the_stated_threshold(survey: Survey, files: pd.DataFrame) -> None:
    assert survey.flagged["noisy"] == ((files.quality__snr_db < 10).sum(), files.quality__snr_db.notna().sum())
    assert survey.flagged["clipped"][0] == (files.quality__clipped_fraction > 0.005).sum() > 0
    assert {flag.name: flag.rule for flag in survey.flags}["noisy"] == "quality__snr_db below 10 dB"


def test_reasons_are_counted_with_examples(survey: Survey, files: pd.DataFrame) -> None:
    broken = files[files.status != "ok"].fillna({"stage": "", "error_type": ""})
    expected = broken.groupby(["status", "stage", "error_type"], observed=True).size().to_dict()
    assert dict(survey.reasons.counts) == expected
    for kind, examples in survey.reasons.examples.items():
        assert 1 <= len(examples) <= 3
        for clip_id, message in examples:
            row = files.set_index("clip_id").loc[clip_id]
            assert (row.status, row.error_message or "") == (kind[0], message)


def test_the_surest_and_the_least_sure_are_the_extremes(survey: Survey, files: pd.DataFrame) -> None:
    for label in LABELS:
        best = files[files.emotion == label].nlargest(3, "confidence")
        assert [row["clip_id"] for row in survey.confident[label]] == best.clip_id.tolist()
    assert survey.unsure[0]["clip_id"] == files.clip_id[files.entropy.idxmax()]


def test_an_unusual_feature_is_found_and_each_file_named_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path, 2_000, RunPlan(failed_share=0.0))
    part = folder / "files" / "part-00003.parquet"
    table = pq.read_table(part)
    values = table.column("prosodic__f0_median_hz").to_pylist()
    values[17] = 900.0
    place = table.column_names.index("prosodic__f0_median_hz")
    changed = pa.array(values, pa.float32())
    pq.write_table(table.set_column(place, table.schema.field(place), changed), part)
    outliers = survey_run(open_run(folder)).outliers
    assert (outliers[0].row["clip_id"], outliers[0].feature, outliers[0].value) == (
        table.column("clip_id")[17].as_py(),
        "prosodic__f0_median_hz",
        900.0,
    )
    names = [outlier.row["clip_id"] for outlier in outliers]
    assert len(set(names)) == len(names) <= 8


def test_a_large_run_gives_an_even_sample_and_its_broken_files_first(run: Path, files: pd.DataFrame) -> None:
    table = survey_run(open_run(run), most_table_rows=300).table
    names = table.column("clip_id").to_pylist()
    assert 300 <= len(names) <= 375
    assert names[0] == files.clip_id[0]
    n_broken = sum(status != "ok" for status in table.column("status").to_pylist())
    assert n_broken >= 70
    assert len(survey_run(open_run(run), most_table_rows=3_000).table) == 3_000


def test_vanished_files_count_nowhere_but_as_vanished(tmp_path: Path) -> None:
    folder = make_run(tmp_path, 100, RunPlan(failed_share=0.0))
    part = folder / "files" / "part-00000.parquet"
    table = pq.read_table(part)
    place = table.column_names.index("vanished")
    pq.write_table(table.set_column(place, table.schema.field(place), [[i < 30 for i in range(100)]]), part)
    survey = survey_run(open_run(folder))
    assert (survey.n_rows, survey.n_vanished, survey.status.total()) == (100, 30, 70)
    assert survey.n_labelled <= 70


# The user's metadata


def with_metadata(folder: Path, rows: pd.DataFrame) -> Path:
    rows.to_parquet(folder / "metadata.parquet")
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"metadata": {"path": "metadata.parquet"}}))
    return folder


@pytest.fixture
def described(tmp_path: Path) -> Path:
    folder = make_run(tmp_path, 400, RunPlan(failed_share=0.0))
    names = load_results(folder, columns=["clip_id"]).clip_id
    numbers = np.arange(400)
    rows = pd.DataFrame(
        {
            "path": names,
            "speaker": [f"s{i % 8}" for i in numbers],
            "decade": pd.Series(numbers % 3).map({0: "early", 1: "middle", 2: "late"}),
            "date": [f"19{50 + i % 30}-0{1 + i % 9}-1{i % 10}" for i in numbers],
            "note": [f"note {i}" for i in numbers],
            "loudness": numbers * 0.5,
        }
    )
    return with_metadata(folder, rows)


def test_metadata_makes_groups_a_time_axis_and_clusters(described: Path) -> None:
    survey = survey_run(open_run(described))
    assert [groups.title for groups in survey.groups] == ["folder", "speaker", "decade"]
    assert survey.clustered_by == "speaker"
    assert [groups.clustered for groups in survey.groups] == [True, False, True]
    assert survey.over_time is not None
    assert survey.period == "year"
    assert {row.name for row in survey.over_time.rows()} == {str(year) for year in range(1950, 1980)}
    files = load_results(described)
    middle = next(row for row in survey.groups[2].rows() if row.name == "middle")
    assert middle.n_files == (files[files.emotion.notna()].decade == "middle").sum()
    assert all(low <= share <= high for low, share, high in zip(middle.low, middle.shares, middle.high, strict=True))


def test_files_without_a_value_are_a_group_that_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path, 30, RunPlan(failed_share=0.0))
    names = load_results(folder, columns=["clip_id"]).clip_id
    sexes = (["female", "", None] * 10)[:30]
    survey = survey_run(open_run(with_metadata(folder, pd.DataFrame({"path": names, "sex": sexes}))))
    assert {row.name for row in survey.groups[1].rows()} == {"female", "(not given)"}


def test_columns_that_make_no_groups_are_said(described: Path) -> None:
    notes = " ".join(survey_run(open_run(described)).grouping_notes)
    assert "'note' is not shown as groups: it has 400 values" in notes
    assert "'loudness' is not shown as groups: it holds double values" in notes


def test_paths_unknown_on_either_side_are_counted_in_a_notice(tmp_path: Path) -> None:
    folder = make_run(tmp_path, 50)
    names = load_results(folder, columns=["clip_id"]).clip_id[:40].tolist()
    opened = open_run(with_metadata(folder, pd.DataFrame({"path": [*names, "gone.wav", "lost.wav"], "speaker": "s"})))
    survey_run(opened)
    assert "The metadata table names 2 files that are not in this run." in opened.notices
    assert "10 files of this run are not in the metadata table." in opened.notices


# Inside recordings


def test_the_strongest_moment_is_where_the_emotion_of_the_file_peaks(run: Path, files: pd.DataFrame) -> None:
    rows = files[files.n_windows > 1][["clip_id", "emotion"]].to_dict("records")
    found = find_moments(open_run(run), rows, []).strongest_s
    windows = load_results(run, "windows").set_index("clip_id")
    for row in rows:
        own = windows.loc[row["clip_id"]]
        peak = own.iloc[own[f"p_{row['emotion']}"].argmax()]
        assert found[row["clip_id"]] == peak.start_s
    assert len(found) == len(rows) > 50


def test_timelines_are_the_longest_and_the_most_eventful(tmp_path: Path) -> None:
    names = [f"{i:03}.flac" for i in range(30)]
    folder = make_run(tmp_path, 0, RunPlan(clip_ids=names, long_every=1, long_windows=500, failed_share=0.0))
    opened = open_run(folder)
    longest = survey_run(opened).longest
    timelines = find_moments(opened, [], longest).timelines
    assert [timeline.reason for timeline in timelines] == ["longest"] * 3 + ["most eventful"] * 3
    windows = load_results(folder, "windows")
    for timeline in timelines:
        own = windows[windows.clip_id == timeline.clip_id]
        probabilities = own[[f"p_{label}" for label in LABELS]].to_numpy()
        assert timeline.n_changes == np.count_nonzero(np.diff(probabilities.argmax(axis=1)))
        assert len(timeline.steps_s) <= MOST_STEPS
        np.testing.assert_allclose(
            timeline.probabilities[0], probabilities[: timeline.windows_per_step].mean(axis=0), rtol=1e-5
        )
        np.testing.assert_array_equal(timeline.steps_s[1:, 0], timeline.steps_s[:-1, 1])
        assert timeline.duration_s == load_results(folder).set_index("clip_id").duration_s[timeline.clip_id]
    changes = [timeline.n_changes for timeline in timelines[3:]]
    assert changes == sorted(changes, reverse=True)


def test_each_channel_of_a_split_recording_has_a_timeline(tmp_path: Path) -> None:
    names = [f"{i:03}.flac" for i in range(4)]
    folder = make_run(tmp_path, 0, RunPlan(clip_ids=names, long_every=1, long_windows=40, failed_share=0.0))
    for path in (folder / "windows").iterdir():
        rows = pq.read_table(path)
        channel = [1 + place % 2 if name == "000.flac" else None
                   for place, name in enumerate(rows.column("clip_id").to_pylist())]  # fmt: skip
        place = rows.schema.get_field_index("channel")
        pq.write_table(rows.set_column(place, rows.schema.field(place), pa.array(channel, pa.int16())), path)
    opened = open_run(folder)
    timelines = find_moments(opened, [], survey_run(opened).longest).timelines
    windows = load_results(folder, "windows")
    others = sorted({*windows.clip_id} - {"000.flac"})
    assert len(others) > 1
    assert sorted((item.clip_id, item.channel, item.n_channels) for item in timelines) == [
        ("000.flac", 1, 2),
        ("000.flac", 2, 2),
        *((name, 0, 1) for name in others),
    ]
    columns = [f"p_{label}" for label in LABELS]
    for item in timelines:
        own = windows[(windows.clip_id == item.clip_id) & (windows.channel.fillna(0) == item.channel)]
        np.testing.assert_allclose(item.probabilities, own[columns].to_numpy(), rtol=1e-5)
