"""The parts of a run on disk: how they are written, and what is found of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ser_batch.errors import RunError
from ser_batch.records import ClipOutcome, ClipRef, Status
from ser_batch.run.folder import writing
from ser_batch.run.journal import Filesystem
from ser_batch.run.rows import RowMaker
from ser_batch.run.store import RunStore

PROVENANCE = {"run_id": "r", "fingerprint": "f", "tool_version": "0"}


def tables(*clip_ids: str, maker: RowMaker | None = None) -> dict[str, object]:
    maker = maker or RowMaker((), (), PROVENANCE)
    outcomes = [ClipOutcome(ClipRef(clip_id, "", 1, 1), Status.FAILED, "decode", "E", "no") for clip_id in clip_ids]
    return maker.tables(outcomes)


def new_store(folder: Path) -> RunStore:
    store = RunStore(folder)
    store.create()
    return store


@pytest.mark.parametrize("name", ["files/.part-00000.parquet.tmp", "windows/.part-00000.parquet.tmp"])
def test_a_link_under_a_staged_name_is_not_followed(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / "run").mkdir()
    store = new_store(tmp_path / "run")
    (tmp_path / "run" / name).symlink_to(precious)
    store.commit(store.stage(0, tables("a.wav"), 1))
    assert precious.read_text() == "precious"
    paths = [store.path(table, 0) for table in ("windows", "files")]
    assert all(path.is_file() and not path.is_symlink() for path in paths)


@pytest.mark.parametrize("name", ["run.json", "metadata.parquet"])
def test_a_link_under_a_hidden_name_is_not_followed(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / f".{name}.tmp").symlink_to(precious)
    Filesystem().replace(tmp_path / name, b"{}\n")
    assert precious.read_text() == "precious"
    assert (tmp_path / name).read_bytes() == b"{}\n" and not (tmp_path / name).is_symlink()


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EACCES, "Make the folder of the run writable"),
        (errno.EROFS, "Make the folder of the run writable"),
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.ELOOP, "A link stands in its place"),
        (errno.EEXIST, "Something else stands in its place: move it away"),
        (errno.EIO, "Mend the disk"),
    ],
)
def test_a_disk_that_refuses_gets_the_cure_that_fits(number: int, cure: str) -> None:
    with pytest.raises(RunError, match=rf"Cannot write run\.json of the run: .* {cure}"), writing("run.json"):
        raise OSError(number, os.strerror(number))


def test_the_journal_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / "journal.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        Filesystem().append(tmp_path / "journal.jsonl", b"{}\n")
    assert precious.read_text() == "precious"
