"""Counts that grow chunk by chunk, in memory that does not depend on the number of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.report.intervals import clustered_intervals, wilson_intervals

__all__ = ["Chunk", "Extremes", "FeatureSample", "Groups", "Reasons", "ShareRow"]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of the files table, and what several tallies need of them."""

    rows: pa.Table
    labels: tuple[str, ...]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column as float64, NaN where undefined."""
        values = self.rows.column(column).cast(pa.float64())
        return np.asarray(pc.fill_null(values, float("nan")).to_numpy())

    @cached_property
    def emotion(self) -> NDArray[np.int64]:
        """Place of each file's emotion in the model's order; -1 where there is none."""
        if not self.labels:
            return np.full(len(self.rows), -1)
        names = self.rows.column("emotion").cast(pa.string())
        found = pc.index_in(names, value_set=pa.array(self.labels, pa.string()), skip_nulls=True)
        return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)

    @cached_property
    def status(self) -> NDArray[np.object_]:
        """Status of each file."""
        return np.asarray(self.rows.column("status").cast(pa.string()).to_pandas(), object)

    def take(self, places: Sequence[int] | NDArray[Any]) -> list[dict[str, Any]]:
        """Return rows as dictionaries."""
        rows: list[dict[str, Any]] = self.rows.take(pa.array(np.asarray(places, np.int64))).to_pylist()
        return rows


@dataclass(frozen=True)
class ShareRow:
    """The emotions of one group."""

    name: str
    n_files: int
    #: Files per label.
    counts: tuple[int, ...]
    #: Share of each label, in [0, 1].
    shares: tuple[float, ...]
    #: Ends of its 95 % interval; NaN where none can be given.
    low: tuple[float, ...]
    high: tuple[float, ...]


class Groups:
    """Emotions by group: a folder, or a column of the user's metadata."""

    #: Beyond this many groups of one kind, the rest is counted as one.
    MOST_GROUPS = 5_000
    REST = "(all others)"
    NOT_GIVEN = "(not given)"

    def __init__(self, title: str, n_labels: int, clustered: bool) -> None:
        self.title = title
        self.n_labels = n_labels
        self.clustered = clustered
        self._codes: dict[str, int] = {}
        self._clusters: dict[str, int] = {}
        #: (group, cluster) -> files per label.
        self._counts: dict[tuple[int, int], NDArray[np.int64]] = {}

    def add(self, names: pa.ChunkedArray, emotion: NDArray[np.int64], clusters: pa.ChunkedArray | None) -> None:
        """Count files: their group, their emotion and, where known, the cluster (speaker) that they belong to."""
        group = self._coded(names, self._codes, self.MOST_GROUPS)
        cluster = np.zeros_like(group) if clusters is None else self._coded(clusters, self._clusters, 1_000_000)
        labelled = emotion >= 0
        n_clusters = int(cluster.max(initial=0)) + 1
        keys = (group[labelled] * n_clusters + cluster[labelled]) * self.n_labels + emotion[labelled]
        found, counts = np.unique(keys, return_counts=True)
        for key, n in zip(found.tolist(), counts.tolist(), strict=True):
            pair, label = divmod(key, self.n_labels)
            counter = self._counts.setdefault(divmod(pair, n_clusters), np.zeros(self.n_labels, np.int64))
            counter[label] += n

    def _coded(self, values: pa.ChunkedArray, codes: dict[str, int], most: int) -> NDArray[np.int64]:
        if pa.types.is_nested(values.type):  # Arrow has no text for lists
            values = pa.chunked_array(
                [pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())]
            )
        names = pc.fill_null(values.cast(pa.string()), "")
        names = pc.if_else(pc.equal(names, ""), self.NOT_GIVEN, names)
        encoded = names.combine_chunks().dictionary_encode()
        local = []
        for name in encoded.dictionary.to_pylist():
            known = name in codes or len(codes) < most
            local.append(codes.setdefault(name if known else self.REST, len(codes)))
        return np.asarray(local, np.int64)[np.asarray(encoded.indices)]

    @property
    def n_groups(self) -> int:
        """Number of groups seen."""
        return len(self._codes)

    def rows(self) -> list[ShareRow]:
        """Return the groups, the largest first, with 95 % intervals."""
        by_group: dict[int, list[NDArray[np.int64]]] = {}
        for (group, _), counts in self._counts.items():
            by_group.setdefault(group, []).append(counts)
        names = {code: name for name, code in self._codes.items()}
        rows = [self._row(names[group], np.array(counts)) for group, counts in by_group.items()]
        return sorted(rows, key=lambda row: (-row.n_files, row.name))

    def _row(self, name: str, counts: NDArray[np.int64]) -> ShareRow:
        total = counts.sum(axis=0)
        interval = clustered_intervals(counts) if self.clustered else wilson_intervals(total)
        return ShareRow(
            name=name,
            n_files=int(total.sum()),
            counts=tuple(total.tolist()),
            shares=tuple((total / max(total.sum(), 1)).tolist()),
            low=tuple(interval[:, 0].tolist()),
            high=tuple(interval[:, 1].tolist()),
        )


@dataclass
class Reasons:
    """Why files were skipped, failed or broke off, counted by (status, stage, error type)."""

    MOST_KINDS = 500
    N_EXAMPLES = 3

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    #: Kind -> first files with their messages.
    examples: dict[tuple[str, str, str], list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> None:
        """Count the files that are not ok."""
        names = ["status", "stage", "error_type"]
        rows = chunk.rows.select([*names, "clip_id", "error_message"])
        rows = rows.filter(pa.array(chunk.status != "ok"))
        for name in names:
            rows = rows.set_column(
                rows.column_names.index(name), name, rows.column(name).cast(pa.string()).fill_null("")
            )
        for found in rows.group_by(names, use_threads=False).aggregate([("clip_id", "count")]).to_pylist():
            kind = (found["status"], found["stage"], found["error_type"])
            if kind not in self.counts and len(self.counts) >= self.MOST_KINDS:
                kind = (kind[0], "", "(other)")
            self.counts[kind] += found["clip_id_count"]
            examples = self.examples.setdefault(kind, [])
            if len(examples) < self.N_EXAMPLES:
                same = rows.filter(pc.and_(*[pc.equal(rows.column(n), found[n]) for n in names[:2]]))
                same = same.filter(pc.equal(same.column("error_type"), found["error_type"]))
                for row in same.slice(0, self.N_EXAMPLES - len(examples)).to_pylist():
                    examples.append((row["clip_id"], row["error_message"] or ""))


class Extremes:
    """The rows with the highest values of something."""

    def __init__(self, n_kept: int) -> None:
        self.n_kept = n_kept
        self._kept: list[tuple[float, str, dict[str, Any]]] = []

    def add(self, chunk: Chunk, values: NDArray[np.float64]) -> None:
        """Offer rows; NaN never counts. Of equal values the first in the order of rows is kept."""
        floor = self._kept[-1][0] if len(self._kept) == self.n_kept else -np.inf
        places = np.flatnonzero(values > floor)
        if len(places) > self.n_kept:
            places = places[np.argsort(-values[places], kind="stable")[: self.n_kept]]
        for place, row in zip(places, chunk.take(places), strict=True):
            self._kept.append((float(values[place]), row["clip_id"], row))
        self._kept.sort(key=lambda item: (-item[0], item[1]))
        del self._kept[self.n_kept :]

    def rows(self) -> list[tuple[float, dict[str, Any]]]:
        """Return (value, row), the highest value first."""
        return [(value, row) for value, _, row in self._kept]


class FeatureSample:
    """An even sample of rows, for the median and the spread of features."""

    MOST_ROWS = 50_000

    def __init__(self, columns: Sequence[str], n_rows: int) -> None:
        self.columns = tuple(columns)
        self._step = max(1, -(-n_rows // self.MOST_ROWS))
        self._seen = 0
        self._rows: list[NDArray[np.float32]] = []

    def add(self, chunk: Chunk) -> None:
        """Keep every n-th row."""
        places = np.arange(-self._seen % self._step, len(chunk.rows), self._step)
        self._seen += len(chunk.rows)
        if self.columns:
            rows = chunk.rows.take(pa.array(places))
            self._rows.append(np.column_stack([rows.column(name).to_numpy() for name in self.columns]))

    def spread(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the median of each feature and a robust deviation from it.

        The deviation is the larger of 1.4826 times the median deviation and of the range from the 5th to the 95th
        percentile over 3.29: both are the standard deviation of a normal distribution; the second keeps features that
        are nearly always 0 from looking unusual whenever they are not.
        """
        if not self._rows:
            return np.full(len(self.columns), np.nan), np.full(len(self.columns), np.nan)
        values = np.concatenate(self._rows).astype(np.float64)
        median = np.full(values.shape[1], np.nan)
        deviation = np.full(values.shape[1], np.nan)
        defined = ~np.isnan(values).all(axis=0)
        if not defined.any():
            return median, deviation
        low, median[defined], high = np.nanpercentile(values[:, defined], [5, 50, 95], axis=0)
        from_median = 1.4826 * np.nanmedian(np.abs(values[:, defined] - median[defined]), axis=0)
        deviation[defined] = np.maximum(from_median, (high - low) / 3.29)
        return median, deviation
