"""`load_results`: the tables of a run in pandas."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ser_batch.run.copy import readable
from ser_batch.run.layout import TABLES, TableName
from ser_batch.run.read import ReplacedError, open_run
from ser_batch.run.schema import matrix_of
from ser_batch.run.where import Where

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunWarning", "TableName", "load_results"]


class RunWarning(UserWarning):
    """Something of a run cannot be read or is not finished; the rest is returned."""


def load_results(
    run: str | os.PathLike[str],
    table: TableName = "files",
    columns: Sequence[str] | None = None,
    where: Where | None = None,
    metadata: bool = True,
) -> pd.DataFrame:
    """Load the results of a run into pandas.

    Parameters
    ----------
    run : path
        Folder that ``ser-batch scan`` wrote, or the address in a bucket, such as ``s3://bucket/runs/archive``, to which
        it was copied; its tables `files` and `windows` and the wanted one are fetched each time.
    table : {"files", "windows", "segments", "embeddings"}
        One row per file found, or one row per window, or segment, of every analysed file.
    columns : sequence of str, optional
        Columns to read; only these are read from disk. All by default, but for what was heard in segments: ``weights``
        and ``embeddings`` are read where they are named.
    where : sequence of tuples, optional
        Rows to keep, as ``[(column, operator, value), …]`` with operators ``== != < <= > >= in`` and ``not in``; all
        conditions must hold. A list of such lists keeps rows for which one of them holds. Row groups whose statistics
        rule a condition out are not read; rows are stored in the order of ``clip_id``, so this helps most there.
    metadata : bool
        Add the columns of the table given to ``scan --metadata``, missing where a file is not in it. A column whose
        name is taken gets the suffix ``_metadata``.

    Returns
    -------
    pandas.DataFrame
        In the order of ``clip_id``, then ``window_index`` or ``segment_index``. ``status``, ``emotion`` and the like
        are categorical, ``modified`` is a UTC timestamp, undefined numbers are NaN; whole numbers and truth values are
        of pandas' nullable types (``Int32``, ``boolean``), so a missing one does not change the type of its column.
        docs/results-schema.md lists all columns. Of ``embeddings``, unless `columns` are given: one float16 column
        per number, with ``clip_id`` and ``window_index`` as the index, so that ``frame.to_numpy()`` is the matrix
        (n_windows, n_numbers) and ``frame.index`` says whose rows they are.

    Raises
    ------
    RunError
        Not a run, a run of a newer schema, a table that the run does not have, an unknown column or operator, or a
        status or emotion that no row can have.

    Warns
    -----
    RunWarning
        The run is not finished, or parts of it cannot be read; what can be read is returned.

    Examples
    --------
    >>> frame = load_results("runs/archive", columns=["clip_id", "confidence"], where=[("emotion", "==", "fear")])
    >>> windows = load_results("runs/archive", "windows", where=[("clip_id", "==", "tapes/014.flac")])
    """
    with readable(run, [table]) as there:
        for attempts_left in (2, 1, 0):
            opened = open_run(there.folder)
            try:
                result = opened.read(table, columns=columns, where=where, metadata=metadata)
                break
            except ReplacedError:
                if not attempts_left:
                    raise
    for notice in opened.notices:
        warnings.warn(there.told(notice), RunWarning, stacklevel=2)
    if table == "embeddings" and columns is None:
        return _matrix_frame(result)
    return result.to_pandas(split_blocks=True, self_destruct=True, types_mapper=_nullable)


def _matrix_frame(rows: pa.Table) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - reports read runs without pandas

    ids = rows.select(TABLES["embeddings"].keys).to_pandas()
    return pd.DataFrame(matrix_of(rows.column("embedding")), index=pd.MultiIndex.from_frame(ids), copy=False)


def _nullable(kind: pa.DataType) -> Any:
    import pandas as pd  # noqa: PLC0415 - reports read runs without pandas

    types = {
        pa.int16(): pd.Int16Dtype,
        pa.int32(): pd.Int32Dtype,
        pa.int64(): pd.Int64Dtype,
        pa.bool_(): pd.BooleanDtype,
    }
    return types[kind]() if kind in types else None
