"""The user's table about the files, joined to the rows of a run as they are read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ser_batch.errors import DataError

__all__ = ["Selection", "apart", "keyed", "with_metadata"]

#: Names by which earlier versions found the key column of a metadata table; they kept it as it was given.
_KEYS = ("clip_id", "path", "file", "filename")


def keyed(table: pa.Table, root: str, taken: Collection[str]) -> tuple[pa.Table, int]:
    """Bring the user's table to the form in which it is joined.

    Parameters
    ----------
    table : pyarrow.Table
        Its key column has one of a few names, or is the first.
    root : str
        Folder of the recordings: paths of the table may begin with it.
    taken : collection of str
        Columns of the run; one of the table with such a name gets the suffix ``_metadata``.

    Returns
    -------
    table : pyarrow.Table
        With ``clip_id`` and the other columns; of rows that name one path, the first.
    n_more : int
        How many rows named a path again.

    Raises
    ------
    DataError
        It has no columns, or two of one name.
    """
    if len(set(table.column_names)) < max(len(table.column_names), 1):
        raise DataError("it has no columns, or two of one name.")
    key = next((name for name in _KEYS if name in table.column_names), table.column_names[0])
    keys = _clip_ids(table.column(key).cast(pa.string()), root)
    rows = pa.table({"key": keys, "row": pa.array(range(len(keys)))}).group_by("key").aggregate([("row", "min")])
    first = rows.column("row_min").combine_chunks().sort()
    columns = {"clip_id": keys.take(first)}
    for name in table.column_names:
        if name != key:
            free = name
            while free in taken or free in columns:
                free = f"{free}_metadata"
            columns[free] = table.column(name).take(first)
    return pa.table(columns), len(keys) - len(rows)


def _clip_ids(paths: pa.ChunkedArray, root: str) -> pa.ChunkedArray:
    """Bring paths to the form of clip_id: relative to the root, with slashes."""
    root = root.rstrip("/") + "/"
    inside = pc.starts_with(paths, root)
    paths = pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(root)), paths)
    return pc.replace_substring_regex(paths, r"^(\./)+", "")


def apart(metadata: pa.Table, stored: Sequence[str]) -> pa.Table:
    """Rename the columns of a metadata table that the rows to be joined, such as segments with speakers, have too."""
    taken = ({*stored} - {"clip_id"}) | {*metadata.column_names}
    names: list[str] = []
    for name in metadata.column_names:
        free = name
        while free != "clip_id" and free in stored:
            free = f"{free}_metadata"
            while free in taken:
                free = f"{free}_metadata"
        names.append(free)
    return metadata.rename_columns(names)


def with_metadata(rows: pa.Table, metadata: pa.Table, names: set[str]) -> pa.Table:
    """Add columns `names` of `metadata` to `rows`, matched by ``clip_id``; null where there is no match."""
    places = pc.index_in(rows.column("clip_id"), value_set=metadata.column("clip_id").combine_chunks())
    for name in metadata.column_names:
        if name in names and name != "clip_id":
            rows = rows.append_column(name, metadata.column(name).take(places))
    return rows


@dataclass(frozen=True)
class Selection:
    """Which columns and rows are read, and what is done to them after the join with the metadata."""

    wanted: list[str]
    stored: list[str]
    pushed: pc.Expression | None
    extra: pa.Table | None
    extra_names: set[str]
    late: pc.Expression | None

    def finished(self, rows: pa.Table) -> pa.Table:
        if self.extra is not None and self.extra_names:
            rows = with_metadata(rows, self.extra, self.extra_names)
        return rows if self.late is None else rows.filter(self.late)
