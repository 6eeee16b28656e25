"""One table of a run as CSV, for spreadsheets, or as JSON lines, for programs."""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ser_batch.atomic import open_atomic
from ser_batch.errors import InputError
from ser_batch.run.layout import TableName
from ser_batch.run.read import Run
from ser_batch.run.where import Where

__all__ = ["TABLE_FORMATS", "export_table"]


def export_table(
    run: Run, table: TableName, file_format: str, target: str, where: Where | None = None, bom: bool = False
) -> int:
    """Write a table to one file, piece by piece, and return the number of rows.

    Parameters
    ----------
    run : Run
        An opened run.
    table : {"files", "windows", "segments", "embeddings"}
    file_format : str
        One of `TABLE_FORMATS`.
    target : str
        File to write, or ``-`` for standard output.
    where : optional
        As for `ser_batch.load_results`.
    bom : bool
        Begin with a byte order mark, by which Excel knows UTF-8.

    Raises
    ------
    RunError
        A condition cannot be used.
    InputError
        The file cannot be written.
    """
    n_rows = 0
    with _opened(target) as stream:
        if bom:
            stream.write(codecs.BOM_UTF8)
        write = TABLE_FORMATS[file_format](stream)
        for rows in run.pieces(table, where):
            write(rows)
            n_rows += len(rows)
    return n_rows


@contextmanager
def _opened(target: str) -> Iterator[IO[bytes]]:
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with open_atomic(Path(target)) as stream:
            yield stream
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}. Give another file with -o.") from None


def _csv(stream: IO[bytes]) -> Callable[[pa.Table], None]:
    is_first = [True]

    def write(rows: pa.Table) -> None:
        cells = {_FORMULA.sub(r"'\1", name): _cells(rows.column(name)) for name in rows.column_names}
        pacsv.write_csv(pa.table(cells), stream, pacsv.WriteOptions(include_header=is_first[0]))
        is_first[0] = False

    return write


#: What a spreadsheet would take for a formula, of whoever named the file.
_FORMULA = re.compile(r"^([=+\-@\t\r])")


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as CSV can hold it and a spreadsheet shows it."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        # An empty cell is what every reader takes for missing; "nan" is text to some.
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = pa.chunked_array([[None if item is None else _json(item) for item in column.to_pylist()]], pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.replace_substring_regex(column, _FORMULA.pattern, r"'\1")
    return column


def _json_lines(stream: IO[bytes]) -> Callable[[pa.Table], None]:
    def write(rows: pa.Table) -> None:
        for row in rows.to_pylist():
            stream.write(_json(row).encode() + b"\n")

    return write


def _json(value: Any) -> str:
    return json.dumps(
        _defined(value), default=lambda item: item.isoformat() if hasattr(item, "isoformat") else str(item)
    )


def _defined(value: Any) -> Any:
    """Return a value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _defined(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


TABLE_FORMATS: dict[str, Callable[[IO[bytes]], Callable[[pa.Table], None]]] = {"csv": _csv, "jsonl": _json_lines}
