"""The tables of a run: the one list by which they are stored, read and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["ATTEMPTS", "PLAN_ID", "TABLES", "TableKind", "TableName", "staged_by", "tables_of"]

#: Folder of a run in which nodes work: a folder per plan.
ATTEMPTS = ".attempts"
#: Name of such a folder.
PLAN_ID = re.compile(r"[0-9a-f]{12}")

TableName = Literal["files", "windows", "segments", "embeddings"]


@dataclass(frozen=True, slots=True)
class TableKind:
    """What is known of a table before it is made."""

    #: Columns by which its rows are told apart and ordered; the first is ``clip_id``.
    keys: tuple[str, ...] = ("clip_id", "window_index")
    #: Whether every run has it; of the others, `run.json` and each line of the journal say which there are.
    is_required: bool = True
    #: Whether a run with a model has its probabilities here, too.
    has_probabilities: bool = True
    #: Column of ``files`` that says how many rows a file has here; "" where it has one.
    counted_by: str = "n_windows"
    #: Columns that are read only by those who name them: lists as long as a segment, which few tools show.
    by_name: tuple[str, ...] = ()
    #: How a run gets it that does not have it.
    cure: str = ""


#: In the order in which a commit writes them; a row in ``files``, the last, promises the rows of the others.
TABLES: dict[TableName, TableKind] = {
    "embeddings": TableKind(is_required=False, has_probabilities=False, cure="with a model that has them"),
    "segments": TableKind(
        keys=("clip_id", "segment_index"),
        is_required=False,
        counted_by="n_segments",
        by_name=("weights", "embeddings"),
        cure="by `ser-batch scan --segments auto`",
    ),
    "windows": TableKind(),
    "files": TableKind(keys=("clip_id",), counted_by=""),
}


def tables_of(n_embedding: int, has_segments: bool) -> tuple[TableName, ...]:
    """Return the tables of a run whose embeddings have so many numbers, and that looks for segments or not."""
    is_there = {"embeddings": n_embedding > 0, "segments": has_segments}
    return tuple(name for name in TABLES if is_there.get(name, True))


def staged_by(run_dir: Path, attempt: str, table: TableName) -> Path:
    """Return where a node stages a table of a part; `attempt` is ``PLAN/NODE-NUMBER``."""
    plan, _, name = attempt.partition("/")
    return run_dir / ATTEMPTS / plan / "staged" / f"{name}.{table}.parquet"
