"""Python and numpy values as Arrow columns, and back.

pyarrow imports pandas, half a second, as soon as it converts from or to numpy by itself, or looks at a list: too much
for a scan of few files, or of one that may have nothing to do. What is here does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["as_column", "large_strings", "numbers_of"]


def as_column(
    values: Sequence[Any] | NDArray[Any], kind: pa.DataType, missing: NDArray[np.bool_] | None = None
) -> pa.Array:
    """Return values as a column.

    Parameters
    ----------
    values : sequence, or array (n,)
        Numbers, booleans or texts; None in a sequence is null.
    kind : DataType
        Of numbers, booleans, times, texts, or texts out of a dictionary.
    missing : bool (n,), optional
        Which values of an array are null.
    """
    if pa.types.is_dictionary(kind):
        return pc.dictionary_encode(as_column(values, kind.value_type)).cast(kind)
    if not isinstance(values, np.ndarray):
        if pa.types.is_string(kind):
            return large_strings(values).cast(kind)
        missing = np.fromiter((value is None for value in values), bool, len(values))
        values = [0 if value is None else value for value in values] if missing.any() else values
    if pa.types.is_boolean(kind):
        data = np.packbits(np.asarray(values, bool), bitorder="little")
    else:
        data = np.ascontiguousarray(values, "i8" if pa.types.is_timestamp(kind) else kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(values), [_validity(missing), pa.py_buffer(data)])


def _validity(missing: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if missing is None or not missing.any() else pa.py_buffer(np.packbits(~missing, bitorder="little"))


def large_strings(texts: Sequence[str | None]) -> pa.LargeStringArray:
    """Return texts, of any length together, as a column; None is null."""
    missing = np.fromiter((text is None for text in texts), bool, len(texts))
    encoded = [(text or "").encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return pa.LargeStringArray.from_buffers(
        len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)), _validity(missing)
    )


def numbers_of(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> NDArray[Any]:
    """Return a column as numpy; what it has at nulls is undefined."""
    array = column.cast(kind)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return np.frombuffer(array.buffers()[1] or b"", kind.to_pandas_dtype(), len(array), array.offset * kind.byte_width)
