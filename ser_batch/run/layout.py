"""The tables of a run: the one list by which they are stored, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TABLES", "TableKind", "TableName", "tables_of"]

TableName = Literal["files", "windows", "embeddings"]


@dataclass(frozen=True, slots=True)
class TableKind:
    """What is known of a table before it is made."""

    #: Columns by which its rows are told apart and ordered; the first is ``clip_id``.
    keys: tuple[str, ...] = ("clip_id", "window_index")
    #: Whether every run has it; of the others, `run.json` and each line of the journal say which there are.
    is_required: bool = True
    #: Whether a run with a model has its probabilities here, too.
    has_probabilities: bool = True
    #: Whether every file has as many rows here as its row in ``files`` says it has windows.
    is_by_window: bool = True


#: In the order in which a commit writes them; a row in ``files``, the last, promises the rows of the others.
TABLES: dict[TableName, TableKind] = {
    "embeddings": TableKind(is_required=False, has_probabilities=False),
    "windows": TableKind(),
    "files": TableKind(keys=("clip_id",), is_by_window=False),
}


def tables_of(n_embedding: int) -> tuple[TableName, ...]:
    """Return the tables of a run whose embeddings have so many numbers."""
    return tuple(name for name in TABLES if name != "embeddings" or n_embedding)
