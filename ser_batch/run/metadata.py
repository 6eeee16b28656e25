"""The user's table about the files: checked before a scan begins, and kept in the run in one form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ser_batch.run.parquet import as_parquet
from ser_batch.stages.discover import Found
from ser_batch.tables.match import match_rows
from ser_batch.tables.table import read_table

__all__ = ["FileTable", "read_file_table"]


@dataclass(frozen=True, slots=True, eq=False)
class FileTable:
    """What a table says of each file."""

    #: A row per path, sorted by its first column, ``clip_id``; rows of files that are not here (yet) are kept.
    rows: pa.Table
    #: How much of it matches, and what was taken for granted, one line each.
    notices: tuple[str, ...]

    def as_parquet(self) -> memoryview:
        """Return the table as a run keeps it."""
        return as_parquet(self.rows)


def read_file_table(path: str | os.PathLike[str], found: Found) -> FileTable:
    """Read the table given to ``scan --metadata`` and match it with the files found.

    Raises
    ------
    InputError
        The table cannot be read.
    DataError
        It is no table, or its rows match no file or contradict each other.
    """
    table = read_table(Path(path))
    matching = match_rows(table, found.root, found.clip_ids)
    named = {found.clip_ids[place]: row for place, row in matching.row_of.items()} | matching.unknown
    clip_ids = sorted(named)
    order = pa.array([named[clip_id] for clip_id in clip_ids], pa.int64())
    columns = {"clip_id": pa.array(clip_ids, pa.string())}
    columns |= {name: table.typed(name).take(order) for name in table.columns if name != matching.key}
    return FileTable(pa.table(columns), (matching.summary(), *table.notes))
