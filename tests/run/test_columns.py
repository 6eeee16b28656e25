"""Columns made without pandas are those that pyarrow makes."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ser_batch.run.columns import as_column, large_strings, numbers_of
from ser_batch.run.parquet import as_parquet

WORDS = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", None, "", "ä\U0001f600"], pa.string()),
        (["ok", None, "failed", "ok"], WORDS),
        ([1, None, -(2**62)], pa.int64()),
        ([None, 48_000], pa.int32()),
        ([2, 1, None], pa.int16()),
        ([None, 0.5, float("inf")], pa.float32()),
        ([1.25, None], pa.float64()),
        ([True, None, False] * 5, pa.bool_()),
        ([0, None, 10**18], pa.timestamp("ns", tz="UTC")),
        ([None, None], pa.string()),
        ([], pa.string()),
        ([], WORDS),
        ([], pa.bool_()),
    ],
)
def test_a_column_of_a_list_is_that_of_pyarrow(values, kind):
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    expected = pa.array(values, plain)
    found = as_column(values, kind)
    found.validate(full=True)
    assert found.type == kind and found.null_count == expected.null_count
    assert found.cast(plain).equals(expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, bool])
def test_a_column_of_an_array_is_that_of_pyarrow(dtype):
    values = np.arange(19).astype(dtype)
    missing = np.arange(19) % 3 == 1
    found = as_column(values, pa.from_numpy_dtype(dtype), missing)
    found.validate(full=True)
    assert found.equals(pa.array(values, mask=missing))
    assert as_column(values, pa.from_numpy_dtype(dtype)).equals(pa.array(values))


def test_numbers_beyond_their_type_are_refused():
    with pytest.raises(OverflowError):
        as_column([40_000], pa.int16())


def test_texts_and_numbers_come_back_as_they_were():
    texts = ["one", "", "drei"]
    assert large_strings(texts).to_pylist() == texts
    column = pa.chunked_array([[1, 2], [3]], pa.int32())
    np.testing.assert_array_equal(numbers_of(column, pa.int64()), [1, 2, 3])


def test_dictionaries_are_kept_of_texts_alone():
    """Of numbers that do not repeat, they would take more room than these."""
    numbers = np.arange(300, dtype=np.float32)
    texts = as_column(["ok", None, "failed"] * 100, WORDS)
    table = pa.table({"x": as_column(numbers, pa.float32()), "status": texts})
    data = as_parquet(table)
    assert pq.read_table(io.BytesIO(data)).equals(table)
    columns = [pq.read_metadata(io.BytesIO(data)).row_group(0).column(place) for place in range(2)]
    assert [column.has_dictionary_page for column in columns] == [False, True]
