"""Exports of a run: one table as CSV or JSON lines, or one label track per recording."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from ser_batch.errors import InputError, RunError
from ser_batch.export.tracks import TRACK_FORMATS, track_path, tracks_of
from ser_batch.run.read import Run, TableName
from ser_batch.run.where import Where

__all__ = ["TABLE_FORMATS", "export_table", "export_tracks"]


def export_table(run: Run, table: TableName, file_format: str, target: str, where: Where | None = None) -> int:
    """Write a table to one file, piece by piece, and return the number of rows.

    Parameters
    ----------
    run : Run
        An opened run.
    table : {"files", "windows"}
    file_format : str
        One of `TABLE_FORMATS`.
    target : str
        File to write, or ``-`` for standard output.
    where : optional
        As for `ser_batch.load_results`.

    Raises
    ------
    RunError
        A condition cannot be used.
    InputError
        The file cannot be written.
    """
    n_rows = 0
    with _opened(target) as stream:
        write = TABLE_FORMATS[file_format](stream)
        for rows in run.pieces(table, where):
            write(_plain(rows))
            n_rows += len(rows)
    return n_rows


def export_tracks(run: Run, file_format: str, folder: Path, where: Where | None = None) -> tuple[int, int]:
    """Write a label track for each recording that has windows, in the tree of the recordings.

    Returns
    -------
    n_written, n_without : int
        Tracks written; selected files that have none because nothing of them was analysed.

    Raises
    ------
    RunError
        The run has no labels, a condition cannot be used, or a name leads out of `folder`.
    InputError
        A track cannot be written.
    """
    if not run.labels:
        raise RunError(f"{run.folder} was scanned without a model, so it has no emotions to export as tracks.")
    suffix, write = TRACK_FORMATS[file_format]
    wanted = run.read("files", ["clip_id", "duration_s"], where=where, metadata=True)
    n_written = 0
    for track in tracks_of(run, wanted):
        path = track_path(folder, track.clip_id, suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(write(track), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}. Give another folder with -o.") from None
        n_written += 1
    return n_written, len(wanted) - n_written


@contextmanager
def _opened(target: str) -> Iterator[IO[bytes]]:
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(target)
    # Nothing is visible before it is whole.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}. Give another file with -o.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _plain(rows: pa.Table) -> pa.Table:
    """Decode dictionaries, which text formats do not know."""
    for place, name in enumerate(rows.column_names):
        column = rows.column(name)
        if pa.types.is_dictionary(column.type):
            rows = rows.set_column(place, name, column.cast(column.type.value_type))
    return rows


def _csv(stream: IO[bytes]) -> Callable[[pa.Table], None]:
    is_first = [True]

    def write(rows: pa.Table) -> None:
        for place, name in enumerate(rows.column_names):
            if pa.types.is_floating(rows.column(name).type):
                values = rows.column(name)
                undefined = pc.is_nan(values)
                # An empty cell is what every reader takes for missing; "nan" is text to some.
                rows = rows.set_column(place, name, pc.if_else(undefined, pa.scalar(None, values.type), values))
        pacsv.write_csv(rows, stream, pacsv.WriteOptions(include_header=is_first[0]))
        is_first[0] = False

    return write


def _json_lines(stream: IO[bytes]) -> Callable[[pa.Table], None]:
    def write(rows: pa.Table) -> None:
        for row in rows.to_pylist():
            stream.write(json.dumps({name: _json_value(value) for name, value in row.items()}).encode() + b"\n")

    return write


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and math.isnan(value) else value


TABLE_FORMATS: dict[str, Callable[[IO[bytes]], Callable[[pa.Table], None]]] = {"csv": _csv, "jsonl": _json_lines}
