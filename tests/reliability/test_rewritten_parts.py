"""Parts that somebody has written anew, with a journal that fits them: each command says one line or does its work."""

from __future__ import annotations

import hashlib
import io
import random
import re
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import PLUGIN

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode, SerBatchError
from ser_batch.reviews.choice import tasks_for_adapt, tasks_for_audit, tasks_like
from ser_batch.run.compare import compare_runs
from ser_batch.run.journal import JOURNAL, Entry, Written
from ser_batch.run.layout import TABLES, TableName
from ser_batch.run.parquet import footer_crc32
from ser_batch.run.read import open_run
from ser_batch.run.verify import check_run

NUMBERS = [0.0, 1.0, -1.0, 2.5, float("nan"), float("inf"), -float("inf"), 1e308, 1e-320]
WHOLE = [0, 1, -1, 7, 2**31 - 1, -(2**31)]
TEXTS = ["", "x", "\0", "\x1b[2J", "\ufffe", "../../etc/passwd", "/etc/passwd", "a\nb", "x" * 5_000, "calm", "ok", "Ü"]
TYPES = [
    *(pa.string(), pa.int64(), pa.float64(), pa.float32(), pa.bool_(), pa.binary(), pa.null(), pa.uint64()),
    *(pa.list_(pa.int8()), pa.timestamp("ns"), pa.dictionary(pa.int8(), pa.string()), pa.large_string()),
]
#: What readers count on most.
KEYS = ("clip_id", "start_s", "end_s", "window_index", "segment_index", "n_windows", "n_segments", "channel", "weights")


def rewrite(run: Path, table: TableName, part: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a part anew, and the journal as if a scan had."""
    path = run / table / f"part-{part:05d}.parquet"
    rows, stream = change(pq.read_table(path)), io.BytesIO()
    pq.write_table(rows, stream, write_page_checksum=True)
    data = stream.getvalue()
    path.write_bytes(data)
    written = Written(len(rows), len(data), hashlib.sha256(data).hexdigest(), footer_crc32(stream))
    lines = []
    for line in (run / JOURNAL).read_bytes().splitlines():
        entry = Entry.parse(line)
        if entry.part == part:
            entry = replace(entry, tables={**entry.tables, table: written}, sums={})
        lines.append(entry.line())
    (run / JOURNAL).write_bytes(b"".join(lines))


def odd_value(kind: pa.DataType, rng: random.Random) -> Any:
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        n_items = kind.list_size if pa.types.is_fixed_size_list(kind) else rng.randrange(4)
        return [odd_value(kind.value_type, rng) for _ in range(n_items)]
    if pa.types.is_integer(kind):
        least = 0 if pa.types.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
        return max(least, min(rng.choice(WHOLE), 2 ** (kind.bit_width - 1) - 1))
    if pa.types.is_floating(kind):
        return rng.choice(NUMBERS[:7])
    if pa.types.is_boolean(kind):
        return rng.random() < 0.5
    if pa.types.is_timestamp(kind):
        return rng.choice([0, 2**62, -(2**62)])
    if pa.types.is_binary(kind):
        return b"\xff"
    return None if pa.types.is_null(kind) else rng.choice(TEXTS)


def odd_column(field: pa.Field, rows: pa.Table, share: float, rng: random.Random) -> pa.Array:
    """Return a column of which a share of the values is odd."""
    old = rows.column(field.name).to_pylist() if share < 1 else [None] * len(rows)

    def value(was: Any) -> Any:
        if rng.random() >= share:
            return was
        return None if field.nullable and rng.random() < 0.2 else odd_value(field.type, rng)

    return pa.array([value(was) for was in old], field.type)


def changed(rows: pa.Table, rng: random.Random) -> pa.Table:
    """Change one thing about a table."""
    known = [name for name in KEYS if name in rows.column_names]
    name = rng.choice(known if rng.random() < 0.6 else rows.column_names)
    at = rows.column_names.index(name)
    field = rows.schema.field(at)
    kind = rng.choice(["values", "values", "values", "type", "drop", "rename", "add", "twice", "fewer", "shuffled"])
    if kind == "values":
        return rows.set_column(at, field, odd_column(field, rows, rng.choice([0.2, 1.0]), rng))
    if kind in ("type", "add"):
        new = pa.field(name if kind == "type" else rng.choice([*TEXTS[:4], "p_x", name]), rng.choice(TYPES))
        column = odd_column(new, rows, 1.0, rng)
        return rows.set_column(at, new, column) if kind == "type" else rows.append_column(new, column)
    if kind == "drop":
        return rows.remove_column(at)
    if kind == "rename":
        return rows.rename_columns([rng.choice(TEXTS[:4]) if place == at else old for place, old in
                                    enumerate(rows.column_names)])  # fmt: skip
    if kind == "twice":
        return pa.concat_tables([rows, rows.slice(0, rng.randrange(len(rows) + 1))])
    if kind == "fewer":
        return rows.slice(0, rng.randrange(len(rows) + 1))
    return rows.take(rng.sample(range(len(rows)), len(rows)))


ASKED = {
    "status": [],
    "verify": [],
    "show": ["--json"],
    "diff": ["../whole"],
    "label": ["--labels", "calm,angry", "-o", "../other", "--plugin", str(PLUGIN), "--no-report"],
    "complete": ["--no-report"],
    "retry": ["--plugin", str(PLUGIN), "--jobs", "1", "--quiet", "--no-report"],
    "report": ["-o", "../report.html"],
}
EXPORTS = [(form, table) for form in ("csv", "jsonl") for table in TABLES if table != "embeddings"]
TRACKS = ("audacity", "textgrid", "elan", "srt", "rttm")
EXPORTS += [(form, table) for form in TRACKS for table in ("windows", "segments")]
SLOW = ("retry", "report")


def attack(reference: Path, folder: Path, rng: random.Random, n_commands: int, capsys: Any, slow: bool = False) -> None:
    run = Path(shutil.copytree(reference, folder / "run"))
    (folder / "whole").symlink_to(reference)
    done = []
    for path in rng.sample(sorted(run.glob("*/part-*.parquet")), rng.choice([1, 1, 2])):
        seed = rng.randrange(2**32)
        done.append(f"{path.parent.name}/{path.name} {seed}")
        with suppress(pa.ArrowException, OverflowError):  # what no column can hold
            rewrite(
                run, path.parent.name, int(path.stem[5:]), lambda rows, seed=seed: changed(rows, random.Random(seed))
            )
    if rng.random() < 0.2:
        (run / JOURNAL).unlink()
    commands = [[name, *more] for name, more in ASKED.items() if name not in SLOW]
    commands += [["export", "--to", form, "--table", table, "-o", f"../{form}"] for form, table in EXPORTS]
    chosen = rng.sample(commands, n_commands)
    if slow:
        name = rng.choice(SLOW)
        chosen.append([name, *ASKED[name]])
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # of sums of numbers that no scan writes
        patch.chdir(run)
        for table in TABLES:
            with suppress(SerBatchError):
                load_results(run, table)
        for ask in (tasks_for_audit, tasks_for_adapt, lambda run: tasks_like(run, "speaker1/take001.flac")):
            with suppress(SerBatchError):
                ask(open_run(run))
        for command, *more in chosen:
            code = main([command, str(run), *more])
            said = capsys.readouterr().err
            assert code in {*ExitCode} - {ExitCode.UNFORESEEN}, (done, command, more, said)
            assert "Traceback" not in said, (done, command, said)
    shutil.rmtree(folder)


@pytest.mark.timeout(120)
def test_whatever_parts_hold_each_command_says_one_line_or_does_its_work(reference, tmp_path, capsys):
    rng = random.Random(1)
    for number in range(10):
        attack(reference, tmp_path / str(number), rng, 2, capsys)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(10))
def test_long_a_thousand_runs_with_rewritten_parts(reference, tmp_path, capsys, seed):
    rng = random.Random(seed)
    for number in range(100):
        attack(reference, tmp_path / str(number), rng, 5, capsys, slow=number % 10 == 0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows.drop_columns(["duration_s"]), "it has no column 'duration_s'"),
        (lambda rows: rows.append_column("clip_id", rows.column("clip_id")), "its column 'clip_id' is there twice"),
        (lambda rows: rows.append_column("x", pa.array(["x"] * len(rows))), "its column 'x' is of type string"),
        (
            lambda rows: rows.cast(pa.schema([field.with_nullable(True) for field in rows.schema])),
            "its column 'clip_id' may lack values",
        ),
    ],
)
def test_a_part_whose_columns_are_none_of_a_run_is_damaged(reference, tmp_path, change, problem):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    rewrite(run, "files", 1, change)
    assert any("part-00001.parquet is damaged" in line and problem in line for line in check_run(run))
    opened = open_run(run)
    names = [name for rows in opened.tables("files", ["clip_id"]) for name in rows.column("clip_id").to_pylist()]
    assert 0 < len(names) < len(load_results(reference))
    assert any("part-00001.parquet cannot be read and is left out" in line and problem in line
               for line in opened.notices)  # fmt: skip


def with_values(name: str, *values: Any) -> Callable[[pa.Table], pa.Table]:
    """Put values into the first rows of a column."""

    def change(rows: pa.Table) -> pa.Table:
        at, column = rows.column_names.index(name), rows.column(name).to_pylist()
        column[: len(values)] = values
        return rows.set_column(at, rows.schema.field(at), pa.array(column, rows.schema.field(at).type))

    return change


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("files", lambda rows: rows.drop_columns(["reader"])),  # as of an earlier version, but for one part alone
        ("files", with_values("n_windows", -1)),
        ("files", with_values("n_windows", 10**6)),
        ("segments", with_values("weights", None)),
        ("segments", lambda rows: rows.drop_columns(["weights"])),
    ],
)
def test_a_run_whose_parts_do_not_fit_is_not_labelled(reference, tmp_path, capsys, table, change):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    rewrite(run, table, 0, change)
    assert main(["label", str(run), *ASKED["label"][:2], "-o", str(tmp_path / "other"), *ASKED["label"][4:]]) == 7
    said = capsys.readouterr().err
    assert re.search("do not fit together|does not fit|has no column 'weights'", said) and said.count("\n") == 1


def test_segments_whose_times_are_none_are_compared(reference, tmp_path):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    rewrite(run, "segments", 0, with_values("end_s", float("nan"), float("inf")))
    segments = compare_runs(run, reference, tolerance=0.0).segments
    assert segments is not None and segments.n_only == (2, 2)


def test_what_sounds_like_a_clip_is_found_where_windows_are_lost(reference, tmp_path):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    whole = {task.unit.clip_id for task in tasks_like(open_run(run), "speaker1/take001.flac")}
    (run / "windows" / "part-00000.parquet").unlink()
    found = {task.unit.clip_id for task in tasks_like(open_run(run), "speaker1/take001.flac")}
    assert found and found < whole


def test_parts_without_segments_are_labelled_by_a_model_of_a_plugin(reference, tmp_path, capsys):
    """As of an archive in which nothing says who speaks."""
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    for part in range(len(list((run / "segments").iterdir()))):
        rewrite(run, "segments", part, lambda rows: rows.slice(0, 0))
    command = ["label", str(run), *ASKED["label"][:2], "-o", str(tmp_path / "other"), *ASKED["label"][4:]]
    assert main(command) == ExitCode.SOME_FILES_FAILED, capsys.readouterr().err
    assert len(load_results(tmp_path / "other")) == len(load_results(reference))


@pytest.mark.parametrize("form", ["srt", "textgrid", "elan"])
def test_times_that_are_none_make_no_track(reference, tmp_path, capsys, form):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    rewrite(run, "segments", 0, with_values("end_s", float("inf")))
    assert main(["export", str(run), "--to", form, "-o", str(tmp_path / "tracks")]) == ExitCode.RUN
    said = capsys.readouterr().err
    assert "segments holds a time that is none" in said and said.count("\n") == 1
