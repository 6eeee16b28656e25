"""How a run writes Parquet: so that every reader gives the same answers."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ser_batch.errors import RunError
from ser_batch.text import printable

__all__ = ["as_parquet", "ends_of", "footer_crc32", "openable"]


def as_parquet(table: pa.Table, row_group_size: int = 2**17) -> memoryview:
    """Serialise a table in memory: a shard is small, and its hash and length are needed before it is on disk.

    A column that holds NaN gets no statistics. Parquet's leave NaN out, and readers that trust them (DuckDB) then find
    no row for ``isnan(x)``.
    """
    exact = [
        field.name
        for field, column in zip(table.schema, table.columns, strict=True)
        if not pa.types.is_nested(field.type) and not _has_nan(column)
    ]
    texts = [
        field.name for field in table.schema if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        # Measured numbers seldom repeat: a dictionary of them takes more time and more room than they do.
        use_dictionary=texts,
        row_group_size=row_group_size,
        write_statistics=exact,
        # A bit that flips on the disk is an error at reading, not another number.
        write_page_checksum=True,
    )
    return memoryview(sink.getvalue())


def openable(folder: Path) -> Path:
    """Return a folder by a name under which pyarrow opens the files in it: to it, ``s3:x`` is no folder but an address.

    Raises
    ------
    RunError
        The name holds bytes that are not UTF-8; pyarrow cannot write them.
    """
    if not folder.is_absolute() and ":" in "".join(folder.parts[:1]):
        folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError:
        raise RunError(
            f"{printable(folder)} cannot be used for a run: its name holds bytes that are not UTF-8. Give another "
            f"folder, or a link to it that has another name."
        ) from None
    return folder


def ends_of(footer: pq.FileMetaData) -> tuple[str, str] | None:
    """Return the first and the last clip_id of a file, by the statistics of its row groups; None without these."""
    column = footer.schema.names.index("clip_id") if "clip_id" in footer.schema.names else 0
    groups = [footer.row_group(group).column(column).statistics for group in range(footer.num_row_groups)]
    known = bool(groups) and all(statistics is not None and statistics.has_min_max for statistics in groups)
    return (min(g.min for g in groups), max(g.max for g in groups)) if known else None


def footer_crc32(file: BinaryIO) -> int:
    """Return the checksum of a file's footer, which says what lies where; Parquet protects only the pages.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    n_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(n_bytes - 8, 0))
    n_footer = int.from_bytes(file.read(4), "little")
    file.seek(max(n_bytes - 8 - n_footer, 0))
    return zlib.crc32(file.read())


def _has_nan(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(column.type):
        return False
    return bool(pc.any(pc.is_nan(column)).as_py())
