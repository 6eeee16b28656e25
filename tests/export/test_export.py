"""`ser-batch export`: tables for spreadsheets and scripts, tracks that independent readers of each format accept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from praatio import textgrid
from pympi import Elan
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode, RunError
from ser_batch.export.tracks import merged_segments, track_path, tracks_of
from ser_batch.run.read import open_run

NAMES = ["a b/x.mp3", "a b/x.wav", "a b/ünï.wav", "long.flac", "tapes/1/x.wav"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = RunPlan(clip_ids=NAMES, long_every=3, long_windows=12, failed_share=0.0, shard_size=2, seed=4)
    return make_run(tmp_path_factory.mktemp("run"), 0, plan)


@pytest.fixture(scope="module")
def expected(run: Path) -> dict[str, list[tuple[float, float, str]]]:
    """Stretches of each recording, worked out from the windows table by pandas."""
    windows = load_results(run, "windows")
    windows["emotion"] = windows[[f"p_{label}" for label in LABELS]].idxmax(axis=1).str.removeprefix("p_")
    durations = load_results(run).set_index("clip_id").duration_s
    stretches = {}
    for clip_id, rows in windows.groupby("clip_id"):
        rows["end_s"] = rows.end_s.clip(upper=durations[clip_id])
        number = (rows.emotion != rows.emotion.shift()).cumsum()
        merged = rows.groupby(number).agg(
            start_s=("start_s", "first"), end_s=("end_s", "last"), emotion=("emotion", "first")
        )
        stretches[clip_id] = list(merged.itertuples(index=False, name=None))
    assert any(len(stretch) > 4 for stretch in stretches.values())
    return stretches


def export(run: Path, file_format: str, target: Path | str, *more: str) -> int:
    return main(["export", str(run), "--to", file_format, "-o", str(target), *more])


def assert_stretches(
    found: list[tuple[float, float, str]], wanted: list[tuple[float, float, str]], within_s: float
) -> None:
    assert [label for _, _, label in found] == [label for _, _, label in wanted]
    for (start, end, _), (start_wanted, end_wanted, _) in zip(found, wanted, strict=True):
        assert start == pytest.approx(start_wanted, abs=within_s)
        assert end == pytest.approx(end_wanted, abs=within_s)


# Tracks, read back by libraries that are not ours


def test_textgrids_are_read_by_praatio_with_the_right_times(run: Path, tmp_path: Path, expected: dict) -> None:
    assert export(run, "textgrid", tmp_path) == ExitCode.OK
    for clip_id, stretches in expected.items():
        grid = textgrid.openTextgrid(str(tmp_path / f"{clip_id}.TextGrid"), includeEmptyIntervals=True)
        assert grid.tierNames == ("emotion", "probability")
        assert grid.maxTimestamp == pytest.approx(stretches[-1][1], abs=1e-6)
        assert_stretches([tuple(entry) for entry in grid.getTier("emotion").entries], stretches, within_s=1e-6)
        assert all(0 < float(entry.label) <= 1 for entry in grid.getTier("probability").entries)


def test_elan_files_are_read_by_pympi_with_the_right_times(run: Path, tmp_path: Path, expected: dict) -> None:
    assert export(run, "elan", tmp_path) == ExitCode.OK
    for clip_id, stretches in expected.items():
        document = Elan.Eaf(str(tmp_path / f"{clip_id}.eaf"))
        found = [
            (start / 1000, end / 1000, label) for start, end, label in document.get_annotation_data_for_tier("emotion")
        ]
        assert_stretches(sorted(found), stretches, within_s=0.0005)
        (linked,) = document.get_linked_files()
        assert linked["MEDIA_URL"].startswith("file:///nowhere/archive/")


def test_rttm_lines_have_ten_fields_and_the_right_times(run: Path, tmp_path: Path, expected: dict) -> None:
    assert export(run, "rttm", tmp_path) == ExitCode.OK
    columns = ["type", "file", "channel", "start", "length", "text", "type2", "emotion", "confidence", "lookahead"]
    for clip_id, stretches in expected.items():
        lines = pd.read_csv(
            tmp_path / f"{clip_id}.rttm", sep=" ", names=columns, keep_default_na=False, index_col=False
        )
        assert set(lines.type) == {"SPEAKER"}
        assert set(lines.file) == {clip_id.replace(" ", "%20")}
        found = list(zip(lines.start, lines.start + lines.length, lines.emotion, strict=True))
        assert_stretches(found, stretches, within_s=0.0011)


def test_audacity_labels_are_three_columns_with_the_right_times(run: Path, tmp_path: Path, expected: dict) -> None:
    assert export(run, "audacity", tmp_path) == ExitCode.OK
    for clip_id, stretches in expected.items():
        rows = pd.read_csv(tmp_path / f"{clip_id}.txt", sep="\t", names=["start", "end", "label"])
        assert_stretches(list(rows.itertuples(index=False, name=None)), stretches, within_s=1e-6)


def test_recordings_that_differ_in_suffix_or_folder_alone_keep_their_own_tracks(run: Path, tmp_path: Path) -> None:
    export(run, "audacity", tmp_path)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")}
    assert written == {f"{name}.txt" for name in NAMES}


def test_only_the_recordings_asked_for_get_tracks(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, "rttm", tmp_path, "--where", "clip_id in long.flac") == ExitCode.OK
    assert [path.name for path in tmp_path.rglob("*.rttm")] == ["long.flac.rttm"]
    assert "1 tracks" in capsys.readouterr().out


def test_a_track_spread_over_two_reads_is_one_track(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_run(run)
    wanted = opened.read("files", ["clip_id", "duration_s"])
    whole = list(tracks_of(opened, wanted))
    monkeypatch.setattr("ser_batch.run.read._ROWS_AT_ONCE", 5)
    assert list(tracks_of(opened, wanted)) == whole
    assert [track.clip_id for track in whole] == NAMES


def test_overlapping_windows_share_a_border_midway_between_their_centres() -> None:
    start_s = np.array([0.0, 1.0, 2.0, 3.0])
    end_s = np.array([3.0, 4.0, 5.0, 5.2])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    segments = merged_segments(start_s, end_s, probabilities, ("joy", "fear"))
    assert [(s.start_s, s.end_s, s.emotion) for s in segments] == [(0.0, 3.0, "joy"), (3.0, 5.2, "fear")]
    assert segments[0].probability == pytest.approx(0.85)
    assert merged_segments(start_s[:0], end_s[:0], probabilities[:0], ("joy", "fear")) == ()


@pytest.mark.parametrize("clip_id", ["../outside.wav", "/etc/passwd", "a/../../b.wav"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, clip_id: str) -> None:
    with pytest.raises(RunError, match="lies outside"):
        track_path(tmp_path, clip_id, ".eaf")


def test_a_name_of_255_bytes_still_gets_a_track(tmp_path: Path) -> None:
    name = "ö" * 125 + ".wav"
    path = track_path(tmp_path, f"a/{name}", ".TextGrid")
    assert len(path.name.encode()) <= 255
    assert path.parent == tmp_path / "a"
    assert path != track_path(tmp_path, f"a/{'ö' * 124}.wave", ".TextGrid")


# Tables


@pytest.mark.parametrize("table", ["files", "windows"])
def test_csv_holds_every_row_and_column_of_the_table(run: Path, tmp_path: Path, table: str) -> None:
    assert export(run, "csv", tmp_path / "out.csv", "--table", table) == ExitCode.OK
    found = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, na_values=[""])
    wanted = load_results(run, table)
    assert list(found.columns) == list(wanted.columns)
    assert found.clip_id.tolist() == wanted.clip_id.tolist()
    for name in wanted.select_dtypes("number"):
        np.testing.assert_allclose(
            found[name].to_numpy(float), wanted[name].to_numpy(float, na_value=np.nan), rtol=1e-6, err_msg=name
        )


def test_json_lines_hold_every_row_with_null_for_undefined(run: Path, tmp_path: Path) -> None:
    assert export(run, "jsonl", tmp_path / "out.jsonl", "--where", "n_windows > 1") == ExitCode.OK
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    wanted = load_results(run, where=[("n_windows", ">", 1)])
    assert [row["clip_id"] for row in rows] == wanted.clip_id.tolist()
    assert "NaN" not in (tmp_path / "out.jsonl").read_text()
    assert pd.to_datetime(rows[0]["modified"]) == wanted.modified[0]


def test_a_table_of_many_pieces_has_one_header(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_batch.run.read._ROWS_AT_ONCE", 2)
    monkeypatch.setattr("ser_batch.run.read._PARTS_AT_ONCE", 1)
    export(run, "csv", tmp_path / "out.csv")
    assert pd.read_csv(tmp_path / "out.csv").clip_id.tolist() == NAMES


def test_standard_output_takes_a_table_and_nothing_else(run: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert export(run, "csv", "-") == ExitCode.OK
    out = capfdbinary.readouterr().out
    assert out.startswith(b'"clip_id"')
    assert len(out.splitlines()) == 1 + len(NAMES)


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("textgrid", "-"), ExitCode.USAGE, "give a folder"),
        (("csv", "/nowhere/out.csv"), ExitCode.INPUT, "cannot be written"),
        (("csv", "out.csv", "--where", "emotoin == fear"), ExitCode.RUN, "Did you mean 'emotion'"),
        (("csv", "out.csv", "--where", "emotion in anger,Fear"), ExitCode.RUN, "Did you mean 'fear'"),
    ],
)
def test_a_wrong_wish_is_answered_with_a_line(
    run: Path, arguments: tuple[str, ...], code: ExitCode, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, *arguments) == code
    assert told in capsys.readouterr().err


def test_files_without_windows_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", 60, RunPlan(failed_share=0.5))
    n_with = (load_results(run).n_windows > 0).sum()
    assert export(run, "audacity", tmp_path / "tracks") == ExitCode.OK
    assert f"{n_with} tracks; {60 - n_with} files have none" in capsys.readouterr().out


def test_a_run_without_a_model_has_no_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", 3, RunPlan(labels=()))
    assert export(run, "elan", tmp_path / "tracks") == ExitCode.RUN
    assert "no emotions to export" in capsys.readouterr().err
    assert export(run, "csv", tmp_path / "out.csv") == ExitCode.OK
