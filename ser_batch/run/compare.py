"""Two runs over the same audio: which files got another label, and by how much."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.run.read import Run, open_run
from ser_batch.run.schema import TIMING_COLUMNS

__all__ = ["Comparison", "LabelChange", "compare_runs"]


@dataclass(frozen=True, slots=True)
class LabelChange:
    """One file whose label differs."""

    clip_id: str
    #: Emotion in either run; the status where there is none.
    old: str
    new: str
    #: Largest change of a probability; NaN where one of the runs has none.
    by: float


@dataclass(eq=False)
class Comparison:
    """How run B differs from run A; times are not compared."""

    n_common: int = 0
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    #: The largest change first.
    changes: list[LabelChange] = field(default_factory=list)
    #: Column -> (rows that differ, largest difference; NaN for what is no number).
    columns: dict[str, tuple[int, float]] = field(default_factory=dict)
    #: Columns that one of the runs does not have.
    missing_columns: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return not (self.only_a or self.only_b or self.changes or self.columns or self.missing_columns)


def compare_runs(run_a: str | os.PathLike[str], run_b: str | os.PathLike[str], tolerance: float = 1e-4) -> Comparison:
    """Compare the file-level tables of two runs by clip_id.

    Parameters
    ----------
    run_a, run_b : path
    tolerance : float
        Largest difference of a number that counts as none: absolute, or relative for numbers above 1.

    Raises
    ------
    RunError
        One of them is no run or cannot be read.
    """
    first, second = open_run(run_a), open_run(run_b)
    names_a, names_b = (_compared(run) for run in (first, second))
    names = [name for name in names_a if name in names_b]
    a, b = (run.read(columns=names, metadata=False) for run in (first, second))
    ids_a, ids_b = (table.column("clip_id").combine_chunks() for table in (a, b))
    place = pc.index_in(ids_a, value_set=ids_b)
    common_a = a.filter(place.is_valid())
    common_b = b.take(place.drop_null())
    result = Comparison(
        n_common=len(common_a),
        only_a=ids_a.filter(place.is_null()).to_pylist(),
        only_b=ids_b.filter(pc.invert(pc.is_in(ids_b, value_set=ids_a))).to_pylist(),
        missing_columns=sorted({*names_a} ^ {*names_b}),
    )
    for name in names:
        if found := _difference(common_a.column(name), common_b.column(name), tolerance):
            result.columns[name] = found
    result.changes = _label_changes(common_a, common_b)
    return result


def _compared(run: Run) -> list[str]:
    return [name for name in run.schema("files").names if name not in TIMING_COLUMNS]


def _difference(a: pa.ChunkedArray, b: pa.ChunkedArray, tolerance: float) -> tuple[int, float] | None:
    if pa.types.is_floating(a.type) and pa.types.is_floating(b.type):
        x, y = (np.asarray(column.to_numpy(), np.float64) for column in (a, b))
        apart = np.abs(x - y)
        unlike = np.isnan(x) != np.isnan(y)
        differs = (apart > tolerance * np.maximum(1, np.abs(np.nan_to_num(x)))) | unlike
        if not differs.any():
            return None
        return int(differs.sum()), float(np.nanmax(np.where(unlike, np.nan, apart))) if not unlike.all() else np.nan
    x, y = (np.array(column.to_pylist(), dtype=object) for column in (a, b))
    n_rows = int((x != y).sum())
    return (n_rows, float("nan")) if n_rows else None


def _label_changes(a: pa.Table, b: pa.Table) -> list[LabelChange]:
    labels = [name for name in a.column_names if name.startswith("p_")]
    old, new = (_outcomes(table) for table in (a, b))
    rows = np.flatnonzero(old != new)
    clip_ids = a.column("clip_id")
    apart = np.full(len(old), np.nan)
    if labels:
        apart = np.abs(_matrix(a, labels) - _matrix(b, labels)).max(axis=1)
    changes = [LabelChange(clip_ids[int(row)].as_py(), old[row], new[row], float(apart[row])) for row in rows]
    return sorted(changes, key=lambda change: (not np.isnan(change.by), -change.by))


def _outcomes(table: pa.Table) -> NDArray[np.object_]:
    """Emotion of each row, or its status where it has none."""
    statuses = np.array(table.column("status").to_pylist(), dtype=object)
    if "emotion" not in table.column_names:
        return statuses
    emotions = np.array(table.column("emotion").to_pylist(), dtype=object)
    return np.where(emotions == None, statuses, emotions)  # noqa: E711 - element by element


def _matrix(table: pa.Table, names: list[str]) -> NDArray[np.float64]:
    return np.column_stack([np.asarray(table.column(name).to_numpy(), np.float64) for name in names])
