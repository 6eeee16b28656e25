"""Two runs over the same recordings: which files got another label, and what else differs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.run.layout import TABLES
from ser_batch.run.read import Run, open_run
from ser_batch.run.schema import TIMING_COLUMNS

__all__ = ["NO_LABEL", "Comparison", "SegmentChanges", "compare_runs"]

#: Stands for the emotion of a file that has none.
NO_LABEL = "none"

_TIMES = ("start_s", "end_s")
_LABEL_COLUMNS = ("clip_id", "status", "emotion", "confidence", "vanished")


@dataclass(eq=False)
class SegmentChanges:
    """How segments of files in both runs differ. The same one has the same times, channel, speaker and source."""

    n_common: int
    #: Segments that one run alone has.
    n_only: tuple[int, int]
    #: Those with another label: as `Comparison.changed`, with start_s, end_s and speaker.
    changed: pa.Table
    #: Column -> (segments that differ, largest difference), as in `Comparison.columns`.
    columns: dict[str, tuple[int, float]]

    @property
    def is_equal(self) -> bool:
        return not (any(self.n_only) or len(self.changed) or self.columns)


@dataclass(eq=False)
class Comparison:
    """How the second run differs from the first. Files that have vanished are left out on both sides."""

    #: Labels of either run, in its model's order.
    labels: tuple[tuple[str, ...], tuple[str, ...]]
    n_files: tuple[int, int]
    n_common: int
    #: Files that have a label in both.
    n_labelled: int
    #: clip_ids that one run alone has.
    only: tuple[list[str], list[str]]
    #: Labels in both -> files; `NO_LABEL` where there is none.
    transitions: Counter[tuple[str, str]]
    #: Statuses in both -> files, where they differ.
    statuses: Counter[tuple[str, str]]
    #: Mean absolute difference of confidence over files that have a label in both; NaN where there is no such file.
    confidence_shift: float
    #: Files whose label differs, or whose status where one of them has no label: clip_id, before, after,
    #: confidence_before, confidence_after, labelled (whether both have a label), and by, the largest change of a
    #: probability (NaN for unknown).
    changed: pa.Table
    #: Column -> (files that differ, largest difference; NaN for what is no number). Empty unless asked for.
    columns: dict[str, tuple[int, float]] = field(default_factory=dict)
    #: Columns that one of the runs does not have.
    missing_columns: list[str] = field(default_factory=list)
    #: Tables that one of the runs does not have. Empty unless asked for.
    missing_tables: list[str] = field(default_factory=list)
    #: None unless asked for, and where one of the runs has no such table.
    segments: SegmentChanges | None = None

    @property
    def is_equal(self) -> bool:
        is_same = self.segments is None or self.segments.is_equal
        others = (self.columns, self.missing_columns, self.missing_tables)
        return is_same and not (any(self.only) or len(self.changed) or any(others))


def compare_runs(
    first: Run | str | os.PathLike[str], second: Run | str | os.PathLike[str], tolerance: float | None = None
) -> Comparison:
    """Compare the table ``files`` of two runs by clip_id.

    Parameters
    ----------
    first, second : Run or path
    tolerance : float, optional
        Compare all columns but times, too, with this as the largest difference of a number that counts as none:
        absolute, or relative for numbers above 1. Without, labels alone are read and compared.

    Raises
    ------
    RunError
        One of them is no run or cannot be read.
    """
    runs = [run if isinstance(run, Run) else open_run(run) for run in (first, second)]
    names = [[name for name in run.schema("files").names if name not in TIMING_COLUMNS] for run in runs]
    common = [name for name in names[0] if name in names[1]]
    compared = common if tolerance is not None else [name for name in common if name in _LABEL_COLUMNS]
    a, b = (_present(run.read(columns=compared, metadata=False)) for run in runs)
    ids_a, ids_b = (table.column("clip_id").combine_chunks() for table in (a, b))
    place = pc.index_in(ids_a, value_set=ids_b)
    both_a, both_b = a.filter(place.is_valid()), b.take(place.drop_null())
    joined = _joined(both_a, both_b)
    labelled = joined.filter(joined.column("labelled"))
    shift = np.abs(_numbers(labelled, "confidence_before") - _numbers(labelled, "confidence_after"))
    result = Comparison(
        labels=(runs[0].labels, runs[1].labels),
        n_files=(len(a), len(b)),
        n_common=len(joined),
        n_labelled=len(labelled),
        only=(
            ids_a.filter(place.is_null()).to_pylist(),
            ids_b.filter(pc.invert(pc.is_in(ids_b, value_set=ids_a))).to_pylist(),
        ),
        transitions=_pairs(joined, "label_a", "label_b"),
        statuses=Counter({pair: n for pair, n in _pairs(joined, "status_a", "status_b").items() if pair[0] != pair[1]}),
        confidence_shift=float(np.nanmean(shift)) if len(shift) else float("nan"),
        changed=_changed(joined, ["clip_id"]),
    )
    if tolerance is not None:
        result.missing_columns = sorted({*names[0]} ^ {*names[1]})
        result.missing_tables = [name for name in TABLES if runs[0].has_table(name) != runs[1].has_table(name)]
        result.columns = _differences(both_a, both_b, tolerance)
        if all(run.has_table("segments") for run in runs):
            result.segments = _segments(runs, both_a.column("clip_id").combine_chunks(), tolerance)
    return result


def _segments(runs: Sequence[Run], clip_ids: pa.Array, tolerance: float) -> SegmentChanges:
    names = [set(run.schema("segments").names) - {"segment_index", *TABLES["segments"].by_name} for run in runs]
    found = [run.read("segments", columns=sorted(names[0] & names[1]), metadata=False) for run in runs]
    a, b = (rows.filter(pc.is_in(rows.column("clip_id"), value_set=clip_ids)) for rows in found)
    place = pc.index_in(_stretches(a), value_set=_stretches(b))
    both_a, both_b = a.filter(place.is_valid()), b.take(place.drop_null())
    # A segment has no status of its own.
    sides = [rows.append_column("status", pa.repeat(NO_LABEL, len(rows))) for rows in (both_a, both_b)]
    joined = _joined(*sides)
    for name in ("start_s", "end_s", "speaker"):
        joined = joined.append_column(name, both_a.column(name))
    return SegmentChanges(
        n_common=len(joined),
        n_only=(len(a) - len(joined), len(b) - len(joined)),
        changed=_changed(joined, ["clip_id", "start_s", "end_s", "speaker"]),
        columns=_differences(both_a, both_b, tolerance),
    )


def _stretches(rows: pa.Table) -> pa.Array:
    """Return what tells segments apart, as text."""
    told = [rows.column(name).cast(pa.string()) for name in ("clip_id", "channel", "speaker", "source")]
    times = [pc.round(pc.multiply(rows.column(name), 1000)).cast(pa.string()) for name in _TIMES]
    key = pc.binary_join_element_wise(*told, *times, "\0", null_handling="replace", null_replacement="")
    return key.combine_chunks()


def _changed(joined: pa.Table, keys: list[str]) -> pa.Table:
    """Return the rows whose label differs."""
    columns = [*keys, "before", "after", "confidence_before", "confidence_after", "labelled", "by"]
    return joined.filter(pc.not_equal(joined.column("before"), joined.column("after"))).select(columns)


def _differences(a: pa.Table, b: pa.Table, tolerance: float) -> dict[str, tuple[int, float]]:
    """Return what differs, column by column."""
    found = {name: _difference(a.column(name), b.column(name), tolerance) for name in a.column_names}
    return {name: difference for name, difference in found.items() if difference}


def _present(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.invert(rows.column("vanished"))).drop_columns(["vanished"])


def _joined(a: pa.Table, b: pa.Table) -> pa.Table:
    """Put what labels are about side by side."""
    columns = {"clip_id": a.column("clip_id")}
    for side, when, rows in (("a", "before", a), ("b", "after", b)):
        status, emotion = rows.column("status").cast(pa.string()), pa.nulls(len(rows), pa.string())
        confidence = pa.nulls(len(rows), pa.float32())
        if "emotion" in rows.column_names:
            emotion, confidence = rows.column("emotion").cast(pa.string()), rows.column("confidence")
        columns |= {
            f"status_{side}": status,
            f"label_{side}": pc.fill_null(emotion, NO_LABEL),
            when: pc.coalesce(emotion, status),
            f"confidence_{when}": confidence,
        }
    probabilities = [name for name in a.column_names if name.startswith("p_")]
    by = np.full(len(a), np.nan)
    for name in probabilities:
        by = np.fmax(by, np.abs(_numbers(a, name) - _numbers(b, name)))
    columns["labelled"] = pc.and_(*(pc.not_equal(columns[f"label_{side}"], NO_LABEL) for side in "ab"))
    return pa.table({**columns, "by": pa.array(by)})


def _pairs(rows: pa.Table, left: str, right: str) -> Counter[tuple[str, str]]:
    found = rows.select([left, right]).group_by([left, right]).aggregate([([], "count_all")]).to_pylist()
    return Counter({(row[left], row[right]): row["count_all"] for row in found})


def _numbers(rows: pa.Table, column: str) -> NDArray[np.float64]:
    return np.asarray(pc.fill_null(rows.column(column).cast(pa.float64()), float("nan")).to_numpy())


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
