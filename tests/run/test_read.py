"""`load_results` and `open_run`: what pandas gets from a run, and what is said of a run that is not whole."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from synthetic_run import LABELS, SPECS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import RunError
from ser_batch.run.load import RunWarning
from ser_batch.run.read import open_run, run_info
from ser_batch.run.schema import SCHEMA_VERSION, files_schema, windows_schema
from ser_batch.run.where import parse_conditions

N_FILES = 1_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), N_FILES, RunPlan(shard_size=100, long_every=20))


def change_info(folder: Path, **values: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def small_run(folder: Path, n_files: int = 40, **values: object) -> Path:
    make_run(folder, n_files, RunPlan(shard_size=20, failed_share=0.0))
    change_info(folder, **values)
    return folder


# What pandas gets


def test_the_columns_are_those_of_the_schema_in_its_order(run: Path) -> None:
    assert list(load_results(run).columns) == files_schema(LABELS, SPECS, {}).names
    assert list(load_results(run, "windows").columns) == windows_schema(LABELS, SPECS, {}).names


def test_a_row_for_every_file_and_types_that_pandas_works_with(run: Path) -> None:
    files = load_results(run)
    assert len(files) == N_FILES
    assert files.clip_id.is_unique
    for name in ("status", "stage", "error_type", "emotion"):
        assert isinstance(files[name].dtype, pd.CategoricalDtype), name
    assert str(files.modified.dtype) == "datetime64[ns, UTC]"
    assert files.confidence.dtype == np.float32
    assert files.loc[files.status == "failed", "confidence"].isna().all()
    assert set(files.emotion.cat.categories) == set(LABELS)


def test_missing_values_do_not_change_the_type_of_a_column(run: Path) -> None:
    whole = load_results(run, where=[("status", "==", "ok")])
    assert whole.dtypes.equals(load_results(run).dtypes)
    assert str(whole.source_rate_hz.dtype) == "Int32"
    assert str(whole.uncertain.dtype) == "boolean"


def test_columns_are_given_in_the_order_asked_for(run: Path) -> None:
    assert list(load_results(run, columns=["confidence", "clip_id"]).columns) == ["confidence", "clip_id"]


@pytest.mark.parametrize(
    ("where", "query"),
    [
        ([("emotion", "==", "fear")], "emotion == 'fear'"),
        ([("confidence", ">", 0.8), ("emotion", "in", ["fear"])], "confidence > 0.8 and emotion in ['fear']"),
        ([[("emotion", "==", "fear")], [("duration_s", ">", 20)]], "emotion == 'fear' or duration_s > 20"),
        ([("status", "!=", "ok")], "status != 'ok'"),
        ([("clip_id", "<", "letters")], "clip_id < 'letters'"),
        ([("clip_id", ">=", "radio/tape-2"), ("clip_id", "<=", "s")], "'radio/tape-2' <= clip_id <= 's'"),
        ([("clip_id", "not in", ["radio/tape-00/clip-0000002.flac"])], "clip_id != 'radio/tape-00/clip-0000002.flac'"),
    ],
)  # fmt: skip
def test_conditions_select_what_pandas_would_select(
    run: Path, where: list[tuple[str, str, object]], query: str
) -> None:
    everything = load_results(run)
    expected = everything.query(query)
    found = load_results(run, where=where)
    assert 0 < len(found) < len(everything)
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), check_categorical=False)


def test_columns_that_are_only_conditions_are_not_returned(run: Path) -> None:
    assert list(load_results(run, columns=["clip_id"], where=[("confidence", ">", 0.9)]).columns) == ["clip_id"]


def test_rows_come_in_the_order_of_clip_id_though_a_grown_run_stores_them_otherwise(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    for table in ("files", "windows"):
        first, second = sorted((folder / table).glob("part-*.parquet"))
        first.rename(folder / table / "part-00009.parquet")
        assert second.exists()
    assert load_results(folder).clip_id.is_monotonic_increasing
    windows = load_results(folder, "windows")
    pd.testing.assert_frame_equal(windows, windows.sort_values(["clip_id", "window_index"], ignore_index=True))


# Other readers


def test_pandas_duckdb_and_polars_read_the_folders_as_they_stand(run: Path) -> None:
    files = load_results(run)
    by_pandas = pd.read_parquet(run / "files")
    assert list(by_pandas.columns) == list(files.columns)
    for name in ("clip_id", "status", "confidence", "modified", "duration_s", "p_fear", "prosodic__f0_median_hz"):
        pd.testing.assert_series_equal(by_pandas[name], files[name], check_categorical=False)
    query = f"SELECT emotion, count(*) AS n FROM '{run}/files/*.parquet' WHERE emotion IS NOT NULL GROUP BY emotion"
    by_duckdb = dict(duckdb.sql(query).fetchall())
    by_polars = polars.read_parquet(f"{run}/files/*.parquet")["emotion"].drop_nulls().value_counts()
    expected = files.emotion.value_counts().to_dict()
    assert by_duckdb == expected
    assert dict(by_polars.iter_rows()) == expected


@pytest.fixture(scope="module")
def undefined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with values that are undefined (NaN) and others that are missing (null)."""
    return make_run(tmp_path_factory.mktemp("undefined"), 400, RunPlan(seed=9, shard_size=64, failed_share=0.1))


@pytest.mark.parametrize("name", ["prosodic__f0_median_hz", "prosodic__f0_median_st", "confidence", "duration_s"])
def test_every_reader_gives_the_same_answers_where_values_are_undefined(undefined: Path, name: str) -> None:
    """Rows that are undefined, missing, and above the median; the mean and the highest of those that are defined."""
    folder, parts = undefined / "files", f"{undefined}/files/*.parquet"
    column = pa.chunked_array([pq.read_table(path).column(name).combine_chunks() for path in sorted(folder.iterdir())])
    values, is_null = column.to_numpy(), column.is_null().to_numpy()
    defined = values[~np.isnan(values)].astype(np.float64)
    middle = float(np.median(defined))
    n_high = int((defined > middle).sum())
    expected = (int(np.isnan(values).sum() - is_null.sum()), int(is_null.sum()), n_high)
    expected += (pytest.approx(defined.mean()), defined.max())
    assert expected[1] > 10
    assert (expected[0] > 5) == (name == "prosodic__f0_median_hz")

    def sql(answer: str, condition: str) -> float:
        (row,) = duckdb.sql(f"SELECT {answer} FROM '{parts}' WHERE {condition}").fetchall()
        return float(row[0])

    told = f"NOT isnan({name})"
    by_duckdb = [sql("count(*)", condition) for condition in (f"isnan({name})", f"{name} IS NULL")]
    by_duckdb += [sql("count(*)", f"{told} AND {name} > {middle!r}")]
    assert (*by_duckdb, sql(f"avg({name}::DOUBLE)", told), sql(f"max({name})", told)) == expected

    rows, item = polars.scan_parquet(parts), polars.col(name).cast(polars.Float64)
    by_polars = [rows.filter(wanted).collect().height for wanted in (item.is_nan(), item.is_null())]
    rows = rows.filter(item.is_not_nan())
    by_polars.append(rows.filter(item > middle).collect().height)
    assert (*by_polars, *rows.select(item.mean(), item.max().alias("max")).collect().row(0)) == expected

    dataset, field = ds.dataset(folder), ds.field(name)
    by_pyarrow = [dataset.count_rows(filter=wanted) for wanted in (field.is_nan(), field.is_null(), field > middle)]
    told_values = dataset.to_table(filter=~field.is_nan()).column(name).cast(pa.float64())
    assert (*by_pyarrow, pc.mean(told_values).as_py(), pc.max(told_values).as_py()) == expected

    frame = pd.read_parquet(folder, columns=[name])[name].astype(float)
    n_high_by_pandas = len(pd.read_parquet(folder, columns=[name], filters=[(name, ">", middle)]))
    assert (frame.isna().sum(), n_high_by_pandas, frame.mean(), frame.max()) == (
        expected[0] + expected[1],
        *expected[2:],
    )


# Reading only what is needed


@pytest.mark.skipif(sys.platform != "linux", reason="bytes read are counted by /proc")
def test_a_condition_on_clip_id_reads_the_row_groups_that_may_hold_it_and_no_others(tmp_path: Path) -> None:
    plan = RunPlan(shard_size=20_000, row_group_size=1_000, long_every=10**9)
    folder = make_run(tmp_path, 40_000, plan)

    def bytes_read(**arguments: object) -> int:
        before = io_bytes()
        load_results(folder, **arguments)
        return io_bytes() - before

    load_results(folder, columns=["clip_id"])  # imports are not what is measured
    everything = bytes_read()
    one_file = bytes_read(where=[("clip_id", "==", "radio/tape-03/clip-0000014.flac")])
    one_column = bytes_read(columns=["confidence"])
    # One row group of 40, and the footers of both parts.
    assert one_file < 0.2 * everything
    assert one_column < 0.25 * everything


def io_bytes() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_parts_that_cannot_hold_the_wanted_names_are_not_opened(run: Path) -> None:
    opened = open_run(run)
    assert opened.n_rows("files") == N_FILES
    wanted = opened.read("files", ["clip_id"]).column("clip_id")[250].as_py()
    # Make every other part unreadable: the answer still comes.
    for part in (run / "files").glob("part-*.parquet"):
        if part.name != "part-00002.parquet":
            part.rename(part.with_suffix(".hidden"))
    try:
        assert opened.read("files", where=[("clip_id", "==", wanted)]).num_rows == 1
        assert opened.read("files", where=[("clip_id", "in", [wanted, "zzz"])]).num_rows == 1
    finally:
        for part in (run / "files").glob("*.hidden"):
            part.rename(part.with_suffix(".parquet"))


# The user's metadata


@pytest.fixture
def with_metadata(tmp_path: Path) -> Path:
    folder = small_run(tmp_path / "run", root="/archive", metadata={"path": "metadata.csv"})
    names = load_results(folder, columns=["clip_id"], metadata=False).clip_id
    rows = pd.DataFrame({"path": names[:30], "speaker": [f"s{i % 3}" for i in range(30)], "status": "kept"})
    rows.loc[0, "path"] = "/archive/" + rows.loc[0, "path"]
    rows.loc[1, "path"] = "./" + rows.loc[1, "path"]
    rows.to_csv(folder / "metadata.csv", index=False)
    return folder


def test_metadata_columns_are_joined_by_path_however_it_is_written(with_metadata: Path) -> None:
    files = load_results(with_metadata)
    assert files.speaker[:3].tolist() == ["s0", "s1", "s2"]
    assert files.speaker[30:].isna().all()
    assert "speaker" in load_results(with_metadata, "windows").columns
    assert "speaker" not in load_results(with_metadata, metadata=False).columns


def test_a_metadata_column_does_not_replace_one_of_the_run(with_metadata: Path) -> None:
    files = load_results(with_metadata)
    assert set(files.status) <= {"ok", "partial", "skipped", "failed"}
    assert files.status_metadata[0] == "kept"


@pytest.mark.parametrize("and_more", [[], [("emotion", "in", LABELS)]])
def test_conditions_may_name_metadata(with_metadata: Path, and_more: list[tuple[str, str, object]]) -> None:
    found = load_results(with_metadata, columns=["clip_id"], where=[("speaker", "==", "s1"), *and_more])
    everything = load_results(with_metadata)
    expected = everything[everything.speaker == "s1"]
    if and_more:
        expected = expected[expected.emotion.notna()]
    assert found.clip_id.tolist() == expected.clip_id.tolist()


def test_a_value_that_a_category_of_the_metadata_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run", metadata={"path": "metadata.parquet"})
    names = load_results(folder, columns=["clip_id"], metadata=False).clip_id
    rooms = pd.Series(["hall", "studio"] * 20, dtype="category")
    pd.DataFrame({"path": names, "room": rooms}).to_parquet(folder / "metadata.parquet")
    assert len(load_results(folder, where=[("room", "==", "hall")])) == 20
    with pytest.raises(RunError, match="can have the room 'Hall'"):
        load_results(folder, where=[("room", "==", "Hall")])


def test_a_path_named_twice_is_said_and_its_first_row_is_used(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run", metadata={"path": "metadata.parquet"})
    name = load_results(folder, columns=["clip_id"], metadata=False).clip_id[0]
    pq.write_table(pa.table({"clip_id": [name, name], "speaker": ["first", "second"]}), folder / "metadata.parquet")
    with pytest.warns(RunWarning, match=r"names 1 paths more than once; the first row"):
        files = load_results(folder)
    assert len(files) == 40
    assert files.speaker[0] == "first"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.parquet", b"not Parquet"),
        ("metadata.csv", b""),
        ("metadata.csv", b"path,x\n"),
        ("metadata.csv", b"path,x,x\na,b,c\n"),
        ("metadata.csv", b"path,x\na,b,c\n"),
        ("metadata.csv", b"path,x\n\x81,\xff\n"),
        ("metadata.csv", None),
    ],
)
def test_metadata_that_cannot_be_read_costs_its_columns_only(tmp_path: Path, name: str, content: bytes | None) -> None:
    """Earlier versions kept a table as it was given, whatever was in it."""
    folder = small_run(tmp_path / "run", metadata={"path": name})
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.warns(RunWarning, match=r"metadata table .* cannot be read, so its columns are missing"):
        assert len(load_results(folder)) == 40


def test_a_table_of_an_earlier_version_is_read_whatever_saved_it(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run", metadata={"path": "metadata.csv"})
    name = load_results(folder, columns=["clip_id"], metadata=False).clip_id[0]
    (folder / "metadata.csv").write_bytes(f"path;Größe;status;status_metadata\n{name};1,5;a;b\n".encode("cp1252"))
    row = load_results(folder).iloc[0]
    # No column takes the place of another.
    assert (row["Größe"], row["status_metadata"], row["status_metadata_metadata"]) == (1.5, "a", "b")


# Runs that are not whole


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        load_results(tmp_path / "missing")
    with pytest.raises(RunError, match=r"it has no run\.json"):
        load_results(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        load_results(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(RunError, match="not a run of ser-batch"):
        load_results(tmp_path)


def test_a_run_of_a_newer_schema_names_both_versions_and_the_cure(tmp_path: Path) -> None:
    folder = small_run(tmp_path, schema_version=SCHEMA_VERSION + 1, tool_version="9.9")
    with pytest.raises(RunError, match=rf"9\.9 with results schema {SCHEMA_VERSION + 1}.*Upgrade ser-batch"):
        run_info(folder)


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_an_unfinished_run_gives_what_is_committed_and_a_warning(tmp_path: Path, state: str) -> None:
    folder = small_run(tmp_path, state=state)
    with pytest.warns(RunWarning, match="is there is shown|so far is shown"):
        assert len(load_results(folder)) == 40


def test_a_broken_part_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    folder = small_run(tmp_path)
    broken = folder / "files" / "part-00001.parquet"
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.warns(RunWarning, match=r"part-00001\.parquet cannot be read and is left out"):
        assert len(load_results(folder)) == 20


@pytest.mark.parametrize("labels", [LABELS, ()])
def test_an_empty_run_gives_no_rows_but_all_columns(tmp_path: Path, labels: tuple[str, ...]) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 1, "labels": labels, "state": "complete"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = load_results(tmp_path)
    assert len(files) == 0
    assert list(files.columns) == files_schema(labels, (), {}).names
    assert len(load_results(tmp_path, "windows", where=[("clip_id", "==", "x")])) == 0


def test_parts_that_gained_a_column_are_read_together(tmp_path: Path) -> None:
    folder = small_run(tmp_path)
    part = folder / "files" / "part-00001.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["voice_quality__hnr_db"]), part)
    files = load_results(folder)
    assert files.voice_quality__hnr_db[:20].notna().any()
    assert files.voice_quality__hnr_db[20:].isna().all()


def test_what_is_asked_wrongly_is_answered_with_the_nearest_right_thing(run: Path) -> None:
    with pytest.raises(RunError, match=r"no column 'emotoin'\. Did you mean 'emotion'"):
        load_results(run, columns=["emotoin"])
    with pytest.raises(RunError, match="no column 'confidense'"):
        load_results(run, where=[("confidense", ">", 0)])
    with pytest.raises(RunError, match="unknown operator '~'"):
        load_results(run, where=[("confidence", "~", 0)])
    with pytest.raises(RunError, match="A condition is"):
        load_results(run, where=[("confidence", ">")])
    with pytest.raises(RunError, match="can have the emotion 'Fear'"):
        load_results(run, where=[[("confidence", ">", 0)], [("emotion", "in", ["anger", "Fear"])]])
    with pytest.raises(RunError, match="no table 'clips'"):
        load_results(run, "clips")
    with pytest.raises(RunError, match="cannot be selected"):
        load_results(run, where=[("confidence", ">", "high")])


# Conditions as typed


def test_conditions_typed_as_text_take_the_type_of_their_column(run: Path) -> None:
    texts = ["confidence >= 0.5", "emotion in fear, sadness", "uncertain == false", "status != 'failed'", "n_windows=1"]
    assert parse_conditions(texts, open_run(run), "files") == [
        ("confidence", ">=", 0.5),
        ("emotion", "in", ["fear", "sadness"]),
        ("uncertain", "==", False),
        ("status", "!=", "failed"),
        ("n_windows", "=", 1.0),
    ]
    assert parse_conditions([], open_run(run), "files") is None
    (modified,) = parse_conditions(["modified > 2020-01-01T00:00:00Z"], open_run(run), "files") or []
    assert len(load_results(run, where=[modified])) == N_FILES


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("fear", "cannot be read. Write a column"),
        ("emotoin == fear", "Did you mean 'emotion'"),
        ("confidence > high", "'high' is not a value of type float"),
        ("uncertain == maybe", "'maybe' is not a value of type bool"),
        ("emotion == Fear", r"files can have the emotion 'Fear'\. Did you mean 'fear'"),
        ("emotion not in fear,hapiness", "Did you mean 'happiness'"),
        ("status = broken", "It is one of ok, partial, skipped, failed"),
    ],
)
def test_a_condition_that_cannot_be_read_says_why(run: Path, text: str, answer: str) -> None:
    with pytest.raises(RunError, match=answer):
        parse_conditions([text], open_run(run), "files")


@pytest.mark.parametrize("command", [["status"], ["show"], ["diff", "."], ["export", "--to", "csv", "-o", "-"]])
def test_whoever_stands_in_a_run_names_it_by_a_point(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(run)
    codes = [main([command[0], name, *command[1:]]) for name in (str(run), ".")]
    told = capsys.readouterr()
    assert codes[0] == codes[1] in (0, 1), told.err
    assert not told.err
