"""One pass over the files table: everything that the report says about files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.doubts import doubts_of_run
from ser_batch.report.flags import FLAGS, Flag
from ser_batch.report.grouping import Grouping, plan_groupings
from ser_batch.report.tallies import Chunk, Extremes, FeatureSample, Groups, Reasons, ShareRow
from ser_batch.run.join import with_metadata
from ser_batch.run.read import Run
from ser_batch.run.schema import TIMING_COLUMNS

__all__ = ["LOW_MARGIN", "N_CONFIDENCE_BINS", "Outlier", "Survey", "survey_run"]

#: A label whose probability leads the next one by less is called undecided.
LOW_MARGIN = 0.10

N_CONFIDENCE_BINS = 20

_N_CONFIDENT = 3
_N_UNSURE = 6
_N_LONGEST = 40
#: Recordings of fewer windows have no timeline worth drawing.
_LONG_FROM_WINDOWS = 4
_N_SLOWEST = 5
_N_OUTLIERS = 8

#: Deviations from the median from which a feature is called unusual.
_UNUSUAL_FROM = 6.0


@dataclass(frozen=True)
class Outlier:
    """A file with a feature far from what is usual in this run."""

    row: dict[str, Any]
    feature: str
    value: float
    median: float
    #: Distance from the median in robust deviations.
    distance: float


@dataclass
class Survey:
    """What one pass over the files table found. Arrays over labels are in the model's order."""

    labels: tuple[str, ...]
    n_rows: int = 0
    n_vanished: int = 0
    status: Counter[str] = field(default_factory=Counter)
    #: Audio analysed, in s.
    audio_s: float = 0.0
    everything: Groups = field(default_factory=lambda: Groups("All files", 0, False))
    groups: list[Groups] = field(default_factory=list)
    over_time: Groups | None = None
    #: Notes on groupings that were left out or cut.
    grouping_notes: list[str] = field(default_factory=list)
    clustered_by: str = ""
    #: day, month, year or decade: what `over_time` counts by.
    period: str = ""
    #: Sum of each label's probability over files.
    probability_sum: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    #: Files per (bin of confidence, label).
    confidence: NDArray[np.int64] = field(default_factory=lambda: np.zeros((N_CONFIDENCE_BINS, 0), np.int64))
    confidence_sum: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    n_uncertain: int = 0
    n_low_margin: int = 0
    #: Flag -> (files flagged, files for which the column is defined).
    flagged: dict[str, tuple[int, int]] = field(default_factory=dict)
    n_any_flag: int = 0
    reasons: Reasons = field(default_factory=Reasons)
    #: Processing time per stage, over all files, in s.
    stage_s: dict[str, float] = field(default_factory=dict)
    slowest: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    confident: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unsure: list[dict[str, Any]] = field(default_factory=list)
    outliers: list[Outlier] = field(default_factory=list)
    longest: list[dict[str, Any]] = field(default_factory=list)
    #: Rows for the table of files.
    table: pa.Table | None = None
    columns: tuple[str, ...] = ()

    @property
    def n_present(self) -> int:
        """Files that are not gone, which all other numbers are about."""
        return self.n_rows - self.n_vanished

    @property
    def n_analysed(self) -> int:
        """Files of which at least a part was analysed."""
        return self.status["ok"] + self.status["partial"]

    @cached_property
    def overall(self) -> ShareRow:
        """The emotions of all files; only where there is a labelled one."""
        return self.everything.rows()[0]

    @property
    def n_labelled(self) -> int:
        """Files that have an emotion."""
        return int(self.confidence.sum())

    @property
    def flags(self) -> list[Flag]:
        """The flags that could be checked in this run."""
        return [flag for flag in FLAGS if flag.name in self.flagged]


def survey_run(run: Run, most_table_rows: int = 10_000) -> Survey:
    """Read the files table once, in flat memory, and return what the report says of it.

    Parameters
    ----------
    run : Run
        An opened run.
    most_table_rows : int
        Rows kept for the table of files: all where they fit; else those that are not ok (up to a quarter) and an even
        sample of the rest.
    """
    schema = run.schema("files")
    surveyor = _Surveyor(run, schema, most_table_rows)
    for rows in surveyor.tables():
        surveyor.add(rows)
    return surveyor.finish()


class _Surveyor:
    def __init__(self, run: Run, schema: pa.Schema, most_table_rows: int) -> None:
        self.run = run
        self.labels = run.labels if "emotion" in schema.names else ()
        n_rows = run.n_rows("files")
        self.flags = [flag for flag in FLAGS if flag.column in schema.names]
        self.features = [
            field.name
            for field in schema
            if "__" in field.name
            and pa.types.is_floating(field.type)
            # What is odd in a recording's quality is flagged against fixed thresholds.
            and not field.name.startswith("quality__")
        ]
        self.survey = Survey(
            labels=self.labels,
            everything=Groups("All files", len(self.labels), clustered=False),
            probability_sum=np.zeros(len(self.labels)),
            confidence=np.zeros((N_CONFIDENCE_BINS, len(self.labels)), np.int64),
            confidence_sum=np.zeros(len(self.labels)),
            flagged={flag.name: (0, 0) for flag in self.flags},
            columns=tuple(schema.names),
        )
        self.grouping: Grouping = plan_groupings(run)
        self.survey.grouping_notes = self.grouping.notes
        self.survey.clustered_by = self.grouping.cluster_column
        self.survey.period = self.grouping.period
        clustered = bool(self.grouping.cluster_column)
        self.survey.everything.clustered = clustered
        self.survey.groups = [
            Groups(title, len(self.labels), clustered and title != self.grouping.cluster_column)
            for title in self.grouping.titles
        ]
        if self.grouping.date_column:
            self.survey.over_time = Groups(self.grouping.date_column, len(self.labels), clustered)
        self.sample = FeatureSample(self.features, n_rows)
        self.highest = [(Extremes(_N_OUTLIERS), Extremes(_N_OUTLIERS)) for _ in self.features]
        self.confident = [Extremes(_N_CONFIDENT) for _ in self.labels]
        self.unsure = Extremes(_N_UNSURE)
        self.longest = Extremes(_N_LONGEST)
        self.slowest = Extremes(_N_SLOWEST)
        self.table_step = max(1, -(-n_rows // most_table_rows))
        self.n_broken_left = most_table_rows // 4 if self.table_step > 1 else 0
        self.table: list[pa.Table] = []
        self.n_in_metadata = 0

    def tables(self) -> Iterator[pa.Table]:
        names = [name for name in self.run.schema("files").names if name not in ("modified",)]
        return self.run.tables("files", names)

    def add(self, rows: pa.Table) -> None:
        survey = self.survey
        first = survey.n_rows
        survey.n_rows += len(rows)
        present = pc.invert(rows.column("vanished"))
        survey.n_vanished += len(rows) - int(pc.sum(present).as_py() or 0)
        if self.run.metadata is not None:
            known = pc.is_in(rows.column("clip_id"), value_set=self.run.metadata.column("clip_id").combine_chunks())
            self.n_in_metadata += int(pc.sum(known).as_py() or 0)
            rows = with_metadata(rows, self.run.metadata, set(self.grouping.metadata_columns))
        rows = rows.filter(present)
        chunk = Chunk(rows, self.labels)
        survey.status.update(chunk.status.tolist())
        duration_s = chunk.numbers("duration_s")
        survey.audio_s += float(np.nansum(duration_s))
        survey.reasons.add(chunk)
        n_windows = chunk.numbers("n_windows")
        self.longest.add(chunk, np.where(n_windows >= _LONG_FROM_WINDOWS, n_windows, np.nan))
        self._add_times(chunk)
        self._add_features(chunk)
        if self.labels:
            self._add_emotions(chunk)
        self._add_table(chunk, first)

    def _add_times(self, chunk: Chunk) -> None:
        total = np.zeros(len(chunk.rows))
        for name in TIMING_COLUMNS:
            if name in chunk.rows.column_names:
                seconds = np.nan_to_num(chunk.numbers(name))
                stage = name.removeprefix("time_").removesuffix("_s")
                self.survey.stage_s[stage] = self.survey.stage_s.get(stage, 0.0) + float(seconds.sum())
                total += seconds
        self.slowest.add(chunk, np.where(total > 0, total, np.nan))

    def _add_features(self, chunk: Chunk) -> None:
        self.sample.add(chunk)
        for name, (high, low) in zip(self.features, self.highest, strict=True):
            values = chunk.numbers(name)
            high.add(chunk, values)
            low.add(chunk, -values)
        any_flag = np.zeros(len(chunk.rows), bool)
        for flag in self.flags:
            values = chunk.numbers(flag.column)
            hit = flag.holds(values)
            flagged, checked = self.survey.flagged[flag.name]
            self.survey.flagged[flag.name] = (flagged + int(hit.sum()), checked + int((~np.isnan(values)).sum()))
            any_flag |= hit
        self.survey.n_any_flag += int(any_flag.sum())

    def _add_emotions(self, chunk: Chunk) -> None:
        survey = self.survey
        emotion = chunk.emotion
        labelled = emotion >= 0
        clusters = chunk.rows.column(self.grouping.cluster_column) if self.grouping.cluster_column else None
        everyone = pa.chunked_array([pa.repeat(pa.scalar("All files"), len(chunk.rows))])
        survey.everything.add(everyone, emotion, clusters)
        for groups, names in zip(survey.groups, self.grouping.names(chunk.rows), strict=True):
            groups.add(names, emotion, clusters if groups.clustered else None)
        if survey.over_time is not None:
            survey.over_time.add(self.grouping.periods(chunk.rows), emotion, clusters)
        for i, label in enumerate(self.labels):
            survey.probability_sum[i] += float(np.nansum(chunk.numbers(f"p_{label}")))
        confidence = chunk.numbers("confidence")
        bins = np.clip((confidence[labelled] * N_CONFIDENCE_BINS).astype(int), 0, N_CONFIDENCE_BINS - 1)
        np.add.at(survey.confidence, (bins, emotion[labelled]), 1)
        np.add.at(survey.confidence_sum, emotion[labelled], confidence[labelled])
        survey.n_uncertain += int(pc.sum(chunk.rows.column("uncertain")).as_py() or 0)
        margin = chunk.numbers("margin")
        survey.n_low_margin += int(np.sum(margin < LOW_MARGIN))
        for i, extremes in enumerate(self.confident):
            extremes.add(chunk, np.where(emotion == i, confidence, np.nan))
        self.unsure.add(chunk, chunk.numbers("entropy"))

    def _add_table(self, chunk: Chunk, first: int) -> None:
        keep = (first + np.arange(len(chunk.rows))) % self.table_step == 0
        if self.n_broken_left > 0:
            broken = np.flatnonzero((chunk.status != "ok") & ~keep)[: self.n_broken_left]
            keep[broken] = True
            self.n_broken_left -= len(broken)
        names = [name for name in chunk.rows.column_names if name in self._table_columns]
        self.table.append(chunk.rows.select(names).filter(pa.array(keep)))

    @property
    def _table_columns(self) -> set[str]:
        probabilities = {f"p_{label}" for label in self.labels}
        flags = {flag.column for flag in self.flags}
        plain = {"clip_id", "status", "stage", "error_type", "error_message", "duration_s", "n_windows"}
        return (
            plain | {"emotion", "confidence", "margin", "uncertain"} | probabilities | flags | set(self.grouping.shown)
        )

    def finish(self) -> Survey:
        survey = self.survey
        self._check_metadata()
        if survey.n_labelled:
            counts = dict(zip(self.labels, survey.everything.rows()[0].counts, strict=True))
            self.run.notices += doubts_of_run(self.run.info, counts)
        survey.slowest = self.slowest.rows()
        survey.longest = [row for _, row in self.longest.rows()]
        survey.confident = {
            label: [row for _, row in extremes.rows()]
            for label, extremes in zip(self.labels, self.confident, strict=True)
        }
        survey.unsure = [row for _, row in self.unsure.rows()]
        survey.outliers = self._outliers()
        survey.table = pa.concat_tables(self.table).unify_dictionaries().combine_chunks() if self.table else None
        return survey

    def _check_metadata(self) -> None:
        if self.run.metadata is None:
            return
        n_unknown = len(self.run.metadata) - self.n_in_metadata
        n_without = self.survey.n_rows - self.n_in_metadata
        if n_unknown:
            self.run.notices.append(f"The metadata table names {n_unknown:,} files that are not in this run.")
        if n_without:
            self.run.notices.append(f"{n_without:,} files of this run are not in the metadata table.")

    def _outliers(self) -> list[Outlier]:
        median, deviation = self.sample.spread()
        found: list[Outlier] = []
        for i, (name, ends) in enumerate(zip(self.features, self.highest, strict=True)):
            if not 0 < deviation[i] < np.inf:
                continue
            for row in (row for end in ends for _, row in end.rows()):
                distance = abs(row[name] - median[i]) / deviation[i]
                if distance >= _UNUSUAL_FROM:
                    found.append(Outlier(row, name, row[name], float(median[i]), float(distance)))
        found.sort(key=lambda item: (-item.distance, item.row["clip_id"]))
        return _varied(found)


def _varied(outliers: Sequence[Outlier]) -> list[Outlier]:
    """Keep each file once and each feature at most twice, so that one odd feature does not crowd out the rest."""
    kept: list[Outlier] = []
    files: set[str] = set()
    features: Counter[str] = Counter()
    for outlier in outliers:
        clip_id = outlier.row["clip_id"]
        if clip_id not in files and features[outlier.feature] < 2 and len(kept) < _N_OUTLIERS:
            kept.append(outlier)
            files.add(clip_id)
            features[outlier.feature] += 1
    return kept
