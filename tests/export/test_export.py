"""`ser-batch export`: tables for spreadsheets and scripts, tracks that independent readers of each format accept."""

from __future__ import annotations

import codecs
import csv
import json
import unicodedata
from datetime import date
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from praatio import textgrid
from pympi import Elan
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode, RunError
from ser_batch.export.names import TrackNames
from ser_batch.export.track_formats import TRACK_FORMATS
from ser_batch.export.tracks import export_tracks, merged_stretches, tracks_of
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
    stretches = merged_stretches(start_s, end_s, probabilities, ("joy", "fear"))
    assert [(s.start_s, s.end_s, s.emotion) for s in stretches] == [(0.0, 3.0, "joy"), (3.0, 5.2, "fear")]
    assert stretches[0].probability == pytest.approx(0.85)
    assert merged_stretches(start_s[:0], end_s[:0], probabilities[:0], ("joy", "fear")) == ()


class Counted:
    """pyarrow.compute, counting the values that are handed to it."""

    def __init__(self) -> None:
        self.n_values = 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(pc, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.n_values += sum(len(item) for item in (*arguments, *options.values()) if hasattr(item, "__len__"))
            return function(*arguments, **options)

        return counted


def test_four_times_the_recordings_are_four_times_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_batch.run.read._PARTS_AT_ONCE", 4)
    monkeypatch.setattr("ser_batch.run.read._ROWS_AT_ONCE", 64)
    n_values = []
    for n_files in (250, 1_000):
        run = make_run(tmp_path / f"run-{n_files}", n_files, RunPlan(shard_size=16, long_every=10, long_windows=20))
        counted = Counted()
        monkeypatch.setattr("ser_batch.export.tracks.pc", counted)
        assert export_tracks(open_run(run), "audacity", tmp_path / f"tracks-{n_files}")[0] > 0.9 * n_files
        n_values.append(counted.n_values)
    assert n_values[1] / n_values[0] == pytest.approx(4, rel=0.1)


def test_a_slice_of_a_run_holds_the_windows_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_batch.run.read._PARTS_AT_ONCE", 2)
    run = make_run(tmp_path, 100, RunPlan(shard_size=16))
    (run / "windows" / "part-00003.parquet").unlink()
    slices = list(open_run(run).slices())
    assert [part.n_rows("files") for part in slices] == [32, 32, 32, 4]
    for part in slices:
        names = {name for rows in part.tables("windows", ["clip_id"]) for name in rows.column("clip_id").to_pylist()}
        assert names <= set(part.read(columns=["clip_id"]).column("clip_id").to_pylist())
    assert sum(part.n_rows("windows") for part in slices) == open_run(run).n_rows("windows")


# Names of tracks


@pytest.mark.parametrize("clip_id", ["../outside.wav", "/etc/passwd", "a/../../b.wav", "a//b.wav", "a/./b.wav"])
def test_a_name_that_leads_out_of_the_folder_is_refused(clip_id: str) -> None:
    with pytest.raises(RunError, match="lies outside"):
        TrackNames([clip_id], ".eaf")


def test_names_of_255_bytes_still_get_tracks(tmp_path: Path) -> None:
    long = ["ö" * 125 + ".wav", "ö" * 124 + ".wave"]
    # Bytes that are not UTF-8 stand in a clip_id as four characters each.
    escaped = ["\\xe4" * 200 + "/one.wav", "\\xe4" * 200 + "/two.wav"]
    run = make_run(tmp_path / "run", 0, RunPlan(clip_ids=[*long, *escaped], failed_share=0.0, seed=1))
    assert export_tracks(open_run(run), "textgrid", tmp_path / "tracks") == (4, 0)
    written = [path for path in (tmp_path / "tracks").rglob("*.TextGrid") if path.is_file()]
    assert len(written) == 4
    assert {path.name for path in written} >= {"one.wav.TextGrid", "two.wav.TextGrid"}


#: Pairs that are one name where case does not count, where accents are decomposed, where ends of names are cut off, or
#: where one is a folder.
ALIKE = [
    "Tape/One.wav", "tape/one.WAV",
    "stra\N{LATIN SMALL LETTER SHARP S}e.wav", "STRASSE.wav",
    "\N{LATIN SMALL LETTER U WITH DIAERESIS}.wav", "u\N{COMBINING DIAERESIS}.wav",
    "end./x.wav", "end/x.wav",
    "both.wav", "BOTH.wav.txt/inside.wav",
]  # fmt: skip


def folded(path: PurePath) -> str:
    """A path as the most forgiving of file systems sees it."""
    plain = "/".join(name.rstrip(". ") for name in path.parts)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", plain).casefold())


def test_recordings_whose_names_some_file_system_takes_for_one_have_tracks_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, RunPlan(clip_ids=[*ALIKE, "alone.wav"], failed_share=0.0))
    assert export_tracks(open_run(run), "audacity", tmp_path / "tracks") == (len(ALIKE) + 1, 0)
    written = [path.relative_to(tmp_path / "tracks") for path in (tmp_path / "tracks").rglob("*.txt")]
    folders = {folded(parent) for path in written for parent in path.parents}
    files = [folded(path) for path in written if (tmp_path / "tracks" / path).is_file()]
    assert len(files) == len(set(files)) == len(ALIKE) + 1
    assert folders.isdisjoint(files)
    assert PurePath("alone.wav.txt") in written
    # The same names when only some of them are exported, and whoever comes first.
    assert export_tracks(open_run(run), "audacity", tmp_path / "some", [("clip_id", "==", "tape/one.WAV")]) == (1, 0)
    (some,) = (path for path in (tmp_path / "some").rglob("*.txt"))
    assert some.relative_to(tmp_path / "some") in written


def test_no_name_can_pass_for_one_with_a_mark() -> None:
    marked = TrackNames(["a.wav", "A.wav"], ".txt").path("a.wav").name
    forged = marked.removesuffix(".txt")
    names = TrackNames(["a.wav", "A.wav", forged, forged.upper()], ".txt")
    assert len({folded(names.path(name)) for name in ("a.wav", "A.wav", forged, forged.upper())}) == 4


def test_labels_and_names_of_any_kind_make_tracks_that_can_be_read(tmp_path: Path) -> None:
    labels = ("fear\tand\nanger", "\x1b[31m", 'quote"d & <tagged>', "\ufffe")
    names = ["a b%20c.wav", "a%20b c.wav", "\x07.wav"]
    plan = RunPlan(labels=labels, clip_ids=names, long_every=1, long_windows=12, failed_share=0.0)
    run = make_run(tmp_path / "run", 0, plan)
    n_segments = {track.clip_id: len(track.stretches) for part in open_run(run).slices()
                  for track in tracks_of(part, part.read(columns=["clip_id", "duration_s"]))}  # fmt: skip
    for file_format in TRACK_FORMATS:
        assert export(run, file_format, tmp_path / file_format) == ExitCode.OK
    for name, n in n_segments.items():
        grid = textgrid.openTextgrid(str(tmp_path / f"textgrid/{name}.TextGrid"), includeEmptyIntervals=True)
        assert len(grid.getTier("emotion").entries) == n
        document = Elan.Eaf(str(tmp_path / f"elan/{name}.eaf"))
        assert len(document.get_annotation_data_for_tier("emotion")) == n
        lines = (tmp_path / f"audacity/{name}.txt").read_text().splitlines()
        assert [len(line.split("\t")) for line in lines] == [3] * n
    ids = {(tmp_path / f"rttm/{name}.rttm").read_text().split(" ")[1] for name in names}
    assert {unquote(name) for name in ids} == set(names)


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


FORMULAS = ["=cmd|' /C calc'!A0", "+1-1", "-2+3", "@SUM(A1)", "\t=1+1", "\r=1+1"]


def test_no_cell_of_a_csv_begins_as_a_formula_does(tmp_path: Path) -> None:
    info = {"metadata": {"path": "metadata.parquet"}}
    run = make_run(tmp_path / "run", 0, RunPlan(clip_ids=[f"{text}.wav" for text in FORMULAS], info=info))
    files = load_results(run, metadata=False)
    about = pd.DataFrame({"path": files.clip_id, "=note": FORMULAS, "change": np.linspace(-1, 1, len(FORMULAS))})
    about.to_parquet(run / "metadata.parquet")
    assert export(run, "csv", tmp_path / "out.csv") == ExitCode.OK
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    text = [i for i, name in enumerate(header) if name in ("clip_id", "'=note")]
    assert len(text) == 2
    for row, name, note in zip(rows, files.clip_id, about["=note"], strict=True):
        assert [row[i] for i in text] == [f"'{name}", f"'{note}"]
    # Numbers stay numbers.
    assert float(rows[0][header.index("change")]) == -1
    assert rows[0][header.index("prosodic__intensity_mean_db")].startswith("-")
    assert export(run, "jsonl", tmp_path / "out.jsonl") == ExitCode.OK
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["clip_id"] for row in found] == files.clip_id.tolist()


def test_a_mark_of_utf_8_is_written_once_and_on_demand(run: Path, tmp_path: Path) -> None:
    for name, more in (("plain.csv", ()), ("excel.csv", ("--bom",))):
        assert export(run, "csv", tmp_path / name, *more) == ExitCode.OK
    plain, excel = ((tmp_path / name).read_bytes() for name in ("plain.csv", "excel.csv"))
    assert excel == codecs.BOM_UTF8 + plain
    assert "ünï".encode() in plain


def test_metadata_of_any_type_is_exported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 3, RunPlan(info={"metadata": {"path": "metadata.parquet"}}))
    columns = {
        "path": load_results(run, metadata=False).clip_id.tolist(),
        "kind": pa.array(["a", None, "=b"]).dictionary_encode(),
        "day": pa.array([date(1987, 5, 1), None, None], pa.date32()),
        "price": pa.array([Decimal("1.50"), None, None], pa.decimal128(5, 2)),
        "raw": pa.array([b"\xff", None, b""], pa.binary()),
        "tags": pa.array([["x", "y"], None, []], pa.list_(pa.string())),
        "place": pa.array([{"lat": 1.5, "lon": float("nan")}, None, None]),
        "huge": pa.array([float("inf"), float("nan"), None]),
        "nothing": pa.nulls(3),
    }
    pq.write_table(pa.table(columns), run / "metadata.parquet")
    assert export(run, "jsonl", tmp_path / "out.jsonl") == ExitCode.OK
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)
    assert (first["kind"], first["day"], first["price"]) == ("a", "1987-05-01", "1.50")
    assert (first["tags"], first["place"], first["huge"]) == (["x", "y"], {"lat": 1.5, "lon": None}, None)
    assert export(run, "csv", tmp_path / "out.csv") == ExitCode.OK
    found = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, dtype=str)
    assert found.kind.tolist() == ["a", "", "'=b"]
    assert (found.day[0], found.price[0], found.huge[0]) == ("1987-05-01", "1.50", "inf")
    assert [json.loads(cell) for cell in (found.tags[0], found.place[0])] == [first["tags"], first["place"]]


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("textgrid", "-"), ExitCode.USAGE, "give a folder"),
        (("jsonl", "out.jsonl", "--bom"), ExitCode.USAGE, "--bom is for --to csv"),
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
