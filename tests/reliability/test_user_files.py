"""Tables and configurations as anybody may have saved, edited or cut them: each is used, or refused in one line."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nasty import damaged

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.config import load_config
from ser_batch.corpora.labels import label_rows
from ser_batch.errors import ExitCode, SerBatchError
from ser_batch.records import ClipOutcome, SegmentOutcome, Status
from ser_batch.run.metadata import read_file_table
from ser_batch.run.rows import RowMaker
from ser_batch.segments.files import read_segments
from ser_batch.segments.table import read_archive_segments
from ser_batch.stages.discover import Found, discover
from ser_batch.training.train_config import TrainConfig, load_train_config

#: Draws are plain choices, so that a failure shrinks to the few that matter.
DRAWS = st.randoms(use_true_random=False)
LONG = settings(max_examples=2_500, deadline=None, suppress_health_check=list(HealthCheck))
SHORT = settings(LONG, max_examples=40, database=None, derandomize=True)

CELLS = [
    "", " ", "0", "007", "-1", "1,5", "1e400", "9" * 400, "NaN", "inf", "true", "2026-02-31", "2026-03-01 25:00",
    "\0", "\x1b[2J", "\ufffe", "\u202e", '"', "'", ";", "\t", "a\nb", "x" * 2_000, "../../etc/passwd", "/nowhere", "Ü",
]  # fmt: skip
NAMES = ["clip_id", "file", "path", "emotion", "speaker", "status", "status_metadata", "", " ", "p_x", "Größe", "a\nb"]

ARROW = [
    pa.array([None] * 3), pa.array([1, None, 2**63 - 1]), pa.array([2**64 - 1, 0, 1], pa.uint64()),
    pa.array([float("nan"), 1e308, None]), pa.array([b"\xff", b"", None]), pa.array([[1], [], None]),
    pa.array([{"a": 1}, None, {}]), pa.array(["x", "x", None]).dictionary_encode(), pa.array([True, None, False]),
    pa.array([datetime.date.max, datetime.date.min, None]), pa.array([decimal.Decimal("1.50"), None, None]),
    pa.array([2**62, -(2**62), None], pa.timestamp("ms")), pa.array([0, 2**62, None], pa.timestamp("ns", "Asia/Tokyo")),
    pa.array([0, 1, None], pa.duration("us")), pa.array([0, 1, None], pa.time64("ns")), pa.array([1.5, None, 2]),
    pa.array(["a", "", None], pa.large_string()), pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
]  # fmt: skip


def as_text(rows: list[list[str]], rng: random.Random) -> bytes:
    text = io.StringIO(newline="")
    quoting, ends = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), rng.choice(["\n", "\r\n"])
    csv.writer(text, delimiter=rng.choice(",;\t"), lineterminator=ends, quoting=quoting).writerows(rows)
    return text.getvalue().encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"]), "ignore")


def as_excel(rows: list[list[str]], rng: random.Random) -> bytes:
    odd = [7, 1e308, True, datetime.datetime(1900, 1, 1), datetime.time(1), datetime.timedelta(1), None]
    book = openpyxl.Workbook()
    for row in rows:
        cells = [cell if rng.random() < 0.8 else rng.choice(odd) for cell in row]
        book.active.append([cell if not isinstance(cell, str) or cell.isprintable() else "?" for cell in cells])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def as_parquet(rows: list[list[str]], rng: random.Random) -> bytes:
    names = pa.array(["speaker0/take000.wav", "speaker1/take001.flac", "gone.wav"])
    columns = [names, *(rng.choice(ARROW) for _ in rows[0][1:])]
    stream = io.BytesIO()
    pq.write_table(pa.table(columns, names=rows[0]), stream)
    return stream.getvalue()


WRITERS: dict[str, Callable[[list[list[str]], random.Random], bytes]] = {
    ".csv": as_text,
    ".tsv": as_text,
    ".txt": as_text,
    ".xlsx": as_excel,
    ".parquet": as_parquet,
}


def some_table(folder: Path, clip_ids: list[str], rng: random.Random) -> Path:
    """Write a table about the files of a corpus: most of it makes sense."""
    header = [rng.choice(NAMES[:3]), *(rng.choice(NAMES) for _ in range(rng.randrange(4)))]
    rows = [[name, *(rng.choice(CELLS) for _ in header[1:])] for name in rng.sample(clip_ids, rng.randrange(4))]
    for row in rows:
        if rng.random() < 0.1:
            row[rng.randrange(len(row)) :] = [rng.choice(CELLS)] * rng.randrange(3)
    suffix = rng.choice(list(WRITERS))
    path = folder / f"table{suffix}"
    # By a seed that is drawn: how long a workbook is depends on the time, and how much is drawn must not.
    path.write_bytes(damaged(WRITERS[suffix]([header, *rows], rng), random.Random(rng.randrange(2**32))))
    return path


def read_by_all(path: Path, found: Found, audio: Path, run: Path, rng: random.Random) -> None:
    """Do with a table all that is done with tables; whatever raises something else than our own errors is at fault."""
    files = [audio / name for name in found.clip_ids]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr("sys.stdout", io.StringIO())
        patch.setattr("sys.stderr", io.StringIO())
        warnings.simplefilter("ignore", UserWarning)
        try:
            label_rows(path, audio, files, ("emotion",))
        except SerBatchError as error:
            assert_one_line(error)
        kept = run / "metadata.parquet"
        kept.unlink(missing_ok=True)
        try:
            kept.write_bytes(read_file_table(path, found).as_parquet())
        except SerBatchError as error:
            assert_one_line(error)
            # As an earlier version kept it, or somebody put it there.
            kept = run / f"metadata{path.suffix}"
            shutil.copyfile(path, kept)
        info = json.loads((run / "run.json").read_text()) | {"metadata": {"path": kept.name}}
        (run / "run.json").write_text(json.dumps(info))
        assert len(load_results(run)) > 0
        command = rng.choice([["show"], ["export", "--to", "csv", "-o", str(run.parent / "t.csv")], ["status"]])
        assert main([*command[:1], str(run), *command[1:]]) in {*ExitCode} - {ExitCode.UNFORESEEN}, command


def assert_one_line(error: SerBatchError) -> None:
    assert len(str(error)) < 2_000, error


@pytest.fixture(scope="module")
def place(reference: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found, Path, Path]:
    folder = tmp_path_factory.mktemp("tables")
    shutil.copytree(reference, folder / "run")
    return folder, discover([corpus]), corpus, folder / "run"


def attack_tables(place: tuple[Path, Found, Path, Path], rng: random.Random) -> None:
    folder, found, audio, run = place
    read_by_all(some_table(folder, list(found.clip_ids), rng), found, audio, run, rng)


@SHORT
@given(rng=DRAWS)
def test_odd_tables_are_used_or_refused_in_a_line(place: tuple[Path, Found, Path, Path], rng: random.Random) -> None:
    attack_tables(place, rng)


@pytest.mark.reliability
@LONG
@given(rng=DRAWS)
def test_long_thousands_of_odd_tables(place: tuple[Path, Found, Path, Path], rng: random.Random) -> None:
    attack_tables(place, rng)


@pytest.mark.parametrize("column", ARROW, ids=lambda column: str(column.type)[:20])
def test_no_type_of_a_column_breaks_a_reader(
    place: tuple[Path, Found, Path, Path], column: pa.Array, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pandas writes categories, columns of nothing but None, and times to the nanosecond."""
    _, found, _, run = place
    pq.write_table(
        pa.table([pa.array(found.clip_ids[1:4]), column], names=["clip_id", "odd"]), run / "metadata.parquet"
    )
    info = json.loads((run / "run.json").read_text()) | {"metadata": {"path": "metadata.parquet"}}
    (run / "run.json").write_text(json.dumps(info))
    assert "odd" in load_results(run)
    for command in (["show"], ["export", "--to", "jsonl", "-o", str(run.parent / "rows.jsonl")]):
        assert main([command[0], str(run), *command[1:]]) == 0, capsys.readouterr().err


TOML = [
    "0", "-1", "9" * 25, "9" * 5_000, "0x" + "f" * 5_000, "1e400", "1e-320", "nan", "inf", "true", "2026-03-01",
    '""', '"x"', '"cpu"', '"\\u0000"', "[]", "[1]", '["x", "x"]', '["mel"]', "[[]]", "[" * 2_000, "{x = {y = [{}]}}",
]  # fmt: skip


def some_toml(base: dict[str, dict[str, Any]], rng: random.Random) -> bytes:
    """Write a configuration: known sections and keys with odd values, and odd ones."""
    lines = []
    for section in rng.sample(list(base), rng.randrange(1, len(base) + 1)):
        lines.append(f"[{section}]" if rng.random() < 0.95 else rng.choice([f"[[{section}]]", f"{section} = 1", "[x]"]))
        for key in rng.sample(list(base[section]), rng.randrange(min(4, len(base[section])))):
            value = rng.choice(TOML) if rng.random() < 0.6 else json.dumps(base[section][key])
            lines.append(f"{key} = {value}" if rng.random() < 0.95 else f"{key}.x = {value}")
    return damaged("\n".join(lines).encode(), rng)


def attack_toml(folder: Path, rng: random.Random) -> None:
    for load in (load_config, load_train_config):  # two for each draw
        path = folder / "odd.toml"
        path.write_bytes(some_toml((load(None) if load is load_config else TrainConfig()).as_dict(), rng))
        try:
            config = load(path)
        except SerBatchError as error:
            assert_one_line(error)
            continue
        # What was taken is what a file could say, and can be said again.
        assert config == type(config)().with_values(config.as_dict())
        json.dumps(config.as_dict(), allow_nan=False)


@SHORT
@given(rng=DRAWS)
def test_odd_configurations_are_used_or_refused_in_a_line(tmp_path_factory: Any, rng: random.Random) -> None:
    attack_toml(tmp_path_factory.getbasetemp(), rng)


@pytest.mark.reliability
@LONG
@given(rng=DRAWS)
def test_long_thousands_of_odd_configurations(tmp_path_factory: Any, rng: random.Random) -> None:
    attack_toml(tmp_path_factory.getbasetemp(), rng)


TIMES = ["0", "0.25", "1.5", "-1", "1e400", "9" * 400, "NaN", "inf", "1,5", "", "00:00:01,000", "7e5", "x"]
CHANNELS = ["0", "1", "2", "-1", "40000", "9" * 30, "1.5", "inf", "x", ""]


def some_segments(folder: Path, rng: random.Random) -> Path:
    """Write a file that says who speaks when: most of it makes sense."""
    suffix = rng.choice([".rttm", ".srt", ".vtt", ".csv", ".json", ".TextGrid"])
    rows = []
    for number in range(rng.randrange(4)):
        odd = rng.random() < 0.3
        times = [rng.choice(TIMES), rng.choice(TIMES)] if odd else [str(number), str(number + 0.5)]
        rows.append([*times, rng.choice(CHANNELS), rng.choice([*CELLS, "anna"]), rng.choice([*CELLS, "\ud800"])])
    if suffix == ".rttm":
        lines = [f"SPEAKER x {row[2]} {row[0]} {row[1]} <NA> <NA> {row[3]} <NA> <NA>" for row in rows]
    elif suffix in (".srt", ".vtt"):
        lines = [f"{i}\n00:00:0{row[0]},000 --> 00:00:0{row[1]},000\n{row[4]}\n" for i, row in enumerate(rows)]
        lines = (["WEBVTT\n"] if suffix == ".vtt" else []) + lines
    elif suffix == ".csv":
        lines = [",".join(rng.sample(["start", "end", "channel", "speaker", "text"], 5)), *map(",".join, rows)]
    elif suffix == ".json":
        values = [float(rng.choice(TIMES[:4])), rng.choice([None, [], {}, 10**400, "1", True])]
        items = [
            {"start": row[0], "end": rng.choice([row[1], *values]), "speaker": row[3], "text": row[4]} for row in rows
        ]
        lines = [json.dumps(rng.choice([items, {"segments": items}, {"transcription": items}]))]
    else:
        intervals = "".join(f'{row[0]}\n{row[1]}\n"{row[4]}"\n' for row in rows)
        head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n5\n<exists>\n1\n"IntervalTier"\n"a"\n0\n5\n'
        lines = [f"{head}{len(rows)}\n{intervals}"]
    path = folder / f"said{suffix}"
    path.write_bytes(damaged("\n".join(lines).encode("utf-8", "surrogatepass"), rng))
    return path


def attack_segments(place: tuple[Path, Found, Path, Path], rng: random.Random) -> None:
    """Read it as the file beside a recording and as the table of an archive, and store what comes out."""
    folder, found, _, _ = place
    path = some_segments(folder, rng)
    maker = RowMaker((), (), {"run_id": "r", "fingerprint": "f", "tool_version": "0"}, has_segments=True)
    for read in (
        lambda: read_segments([path]).segments,
        lambda: [item for source in read_archive_segments(path, found.root, found.clip_ids).of.values()
                 for item in source.segments],
    ):  # fmt: skip
        try:
            segments = tuple(SegmentOutcome(item, 0.0, (), None) for item in read())
        except SerBatchError as error:
            assert_one_line(error)
            continue
        rows = maker.segments([ClipOutcome(found.ref(0), Status.OK, segments=segments)])
        assert len(rows) == len(segments)


@SHORT
@given(rng=DRAWS)
def test_odd_files_of_segments_are_used_or_refused_in_a_line(
    place: tuple[Path, Found, Path, Path], rng: random.Random
) -> None:
    attack_segments(place, rng)


@pytest.mark.reliability
@LONG
@given(rng=DRAWS)
def test_long_thousands_of_odd_files_of_segments(place: tuple[Path, Found, Path, Path], rng: random.Random) -> None:
    attack_segments(place, rng)
