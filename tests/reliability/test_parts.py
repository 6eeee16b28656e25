"""Parts are what the journal says: copies, parts of other runs and newer ones, flipped bits, deleted parts."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import ONE_JOB, assert_same, assert_sound, make_corpus

from ser_batch import load_results
from ser_batch.errors import RunError
from ser_batch.run.layout import TABLES
from ser_batch.run.load import RunWarning
from ser_batch.run.read import open_run
from ser_batch.run.schema import METADATA_KEY, SCHEMA_VERSION
from ser_batch.run.verify import check_run


def snapshot(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture
def run(reference, tmp_path) -> Path:
    return shutil.copytree(reference, tmp_path / "run")


@pytest.fixture(scope="module")
def other(scanner, tmp_path_factory) -> Path:
    """A run over other files."""
    folder = tmp_path_factory.mktemp("other")
    make_corpus(folder / "audio", 6)
    for path in sorted((folder / "audio").rglob("*.*")):
        path.rename(path.with_name(f"other_{path.name}"))
    assert scanner.scan(folder / "audio", folder / "run")["code"] == 1
    return folder / "run"


@pytest.fixture(params=["journal", "no journal"])
def with_journal(request, run) -> bool:
    if request.param == "no journal":
        (run / "journal.jsonl").unlink()
    return request.param == "journal"


def put(source: Path, run: Path, name: str, part: int = 1) -> None:
    for table in TABLES:
        shutil.copy(source / table / f"part-{part:05d}.parquet", run / table / name)


@pytest.mark.parametrize("name", ["part-00001 (copy).parquet", "part-1.parquet", "part-00001.parquet.bak.parquet"])
def test_a_copy_beside_the_parts_doubles_nothing(scanner, corpus, run, reference, with_journal, name):
    put(run, run, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        pd.testing.assert_frame_equal(load_results(run), load_results(reference))
    assert scanner.scan(corpus, run)["n_processed"] == 0
    words = "is no part of the run; what reads the whole folder may take it for one"
    assert check_run(run) == [f"{table}/{name} {words}" for table in TABLES]


def test_a_copy_that_has_the_next_number_is_dropped_and_said(scanner, corpus, run, reference, with_journal):
    put(run, run, "part-00007.parquet")
    answer = scanner.scan(corpus, run)
    assert answer["n_processed"] == 0
    assert any("Part 7" in said and "a second time" in said for said in answer["said"])
    assert_same(run, reference)
    assert_sound(run)


@pytest.mark.parametrize("mode", ["resume", "restart", "recompute"])
def test_a_part_of_another_run_is_neither_taken_in_nor_deleted(scanner, corpus, run, other, with_journal, mode):
    put(other, run, "part-00007.parquet")
    before = snapshot(run)
    answer = scanner.scan(corpus, run, mode=mode)
    assert answer["code"] == 7
    assert "part-00007.parquet is of another run" in answer["error"] and "Move it" in answer["error"]
    assert snapshot(run) == before


def altered(path: Path, rows: pa.Table, **provenance: object) -> None:
    """Write rows with the provenance of the part at `path`, changed as told."""
    metadata = json.loads(pq.read_schema(path).metadata[METADATA_KEY]) | provenance
    pq.write_table(rows.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)}), path)


def test_a_part_that_holds_some_rows_again_is_neither_taken_in_nor_deleted(scanner, corpus, run):
    put(run, run, "part-00007.parquet")
    path = run / "files" / "part-00007.parquet"
    rows = pq.read_table(path)
    ids = pa.array(["new.wav", *rows.column("clip_id").to_pylist()[1:]])
    altered(path, rows.set_column(0, rows.schema.field(0), ids))
    before = snapshot(run)
    answer = scanner.scan(corpus, run)
    assert answer["code"] == 7 and "holds rows of which other parts hold some already" in answer["error"]
    assert snapshot(run) == before


def test_a_part_that_the_journal_lost_is_taken_in(scanner, corpus, run, reference):
    """As from a backup of the journal that is a little older than the parts."""
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (run / "journal.jsonl").write_bytes(b"".join(lines[:-2]))
    assert scanner.scan(corpus, run)["n_processed"] == 0
    assert_same(run, reference)
    assert_sound(run)


@pytest.mark.parametrize("mode", ["resume", "restart", "recompute", "retry"])
def test_a_run_of_a_newer_schema_is_not_written_into(scanner, corpus, run, mode):
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(manifest | {"schema_version": SCHEMA_VERSION + 1, "tool_version": "9.9"}))
    before = snapshot(run)
    answer = scanner.scan(corpus, run, mode=mode)
    assert answer["code"] == 7 and "Upgrade ser-batch" in answer["error"]
    assert snapshot(run) == before


def test_a_part_of_a_newer_schema_is_not_taken_in(scanner, corpus, run):
    path = run / "files" / "part-00006.parquet"
    altered(path, pq.read_table(path), schema_version=SCHEMA_VERSION + 1)
    (run / "journal.jsonl").unlink()
    before = snapshot(run)
    answer = scanner.scan(corpus, run)
    assert answer["code"] == 7 and f"has results schema {SCHEMA_VERSION + 1}" in answer["error"]
    assert snapshot(run) == before


def test_the_journal_of_another_run_is_refused(scanner, corpus, run, other):
    shutil.copy(other / "journal.jsonl", run / "journal.jsonl")
    before = snapshot(run)
    answer = scanner.scan(corpus, run)
    assert answer["code"] == 7 and "are of two runs" in answer["error"]
    assert snapshot(run) == before


def test_a_flipped_bit_is_an_error_at_reading_and_never_another_number(run, reference):
    """Wherever it lies in the pages, which have checksums of their own, or in the footer, whose is in the journal."""
    rng = random.Random(4)
    told = 0
    for table in TABLES:
        whole = load_results(reference, table)
        path = run / table / "part-00002.parquet"
        data = path.read_bytes()
        n_pages = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        for number in range(60):
            damaged = bytearray(data)
            place = rng.randrange(4, n_pages) if number % 2 else rng.randrange(n_pages, len(data))
            damaged[place] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", RunWarning)
                    pd.testing.assert_frame_equal(load_results(run, table), whole)
            except RunError as error:
                assert "is damaged" in str(error), error
                told += 1
            except RunWarning as warning:
                assert "cannot be read and is left out" in str(warning)
                told += 1
            else:
                assert number % 2, "every flip in the footer is seen"
        path.write_bytes(data)
    assert told > 60


def test_a_flipped_bit_in_a_page_of_numbers_is_named_with_the_cure(run):
    path = run / "files" / "part-00002.parquet"
    column = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).names.index("p_angry"))
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"A part of .*files is damaged .*CRC.* Delete it and scan again"):
        load_results(run)
    assert len(load_results(run, columns=["clip_id"])) == 27, "what is not touched can be read"


@pytest.mark.parametrize("table", TABLES)
def test_a_part_that_was_deleted_is_missed(run, with_journal, table):
    (run / table / "part-00002.parquet").unlink()
    with pytest.warns(RunWarning, match=r"part-00002\.parquet is missing, with all that it held"):
        load_results(run, table)


def test_a_part_of_which_nothing_is_left_is_missed(run, with_journal):
    for table in TABLES:
        (run / table / "part-00002.parquet").unlink()
    words = "part-00002.parquet is missing" if with_journal else "has 23 rows, and its run.json says 27"
    with pytest.warns(RunWarning, match=words):
        load_results(run)


def test_a_part_that_was_deleted_is_named_where_it_cannot_be_done_without(run, capsys):
    from ser_batch.cli.main import main  # noqa: PLC0415

    (run / "files" / "part-00002.parquet").unlink()
    assert main(["status", str(run)]) == 7
    assert "part-00002.parquet is missing. Scan again" in capsys.readouterr().err


def test_a_part_that_is_replaced_while_it_is_read(run):
    opened = open_run(run)
    assert opened.n_rows("files") == 27
    (run / "files" / "part-00002.parquet").rename(run / "gone")
    with pytest.raises(RunError, match="was replaced meanwhile: read again"):
        opened.read("files")
    (run / "gone").rename(run / "files" / "part-00002.parquet")
    assert len(opened.read("files")) == 27


def test_results_are_read_while_the_run_is_made_anew(scanner, corpus, run, reference):
    """Each time either what was there before or some of what is new, and whole."""
    import threading  # noqa: PLC0415

    ended = threading.Event()
    seen = []

    def read() -> None:
        while not ended.is_set():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RunWarning)
                seen.append(len(load_results(run)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(2):
            assert scanner.scan(corpus, run, mode="restart", config=ONE_JOB)["code"] == 1
    finally:
        ended.set()
        reader.join()
    assert set(seen) <= {0, 4, 8, 12, 16, 20, 24, 27} and 27 in seen
    assert_same(run, reference)
