"""Outcomes as rows: the Arrow tables of one shard, in the schemas fixed before the first file was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.records import ClipOutcome, FeatureSpec, SegmentOutcome
from ser_batch.run.columns import as_column
from ser_batch.run.layout import TABLES, TableName, tables_of
from ser_batch.run.schema import Contents, schema_of
from ser_batch.stages.discover import NOT_SEEN_NS

__all__ = ["RowMaker"]

_Maker = Callable[[Sequence[ClipOutcome]], pa.Table]


@dataclass(frozen=True)
class RowMaker:
    """Makes the tables of a run.

    Attributes
    ----------
    labels : tuple of str
        Emotions of the model; empty for extraction alone.
    specs : tuple of FeatureSpec
        Extractors that run, sorted by name.
    provenance : mapping
        What every part says of its run: run id, fingerprint, tool version.
    abstain : float
        Confidence below which a file is marked uncertain; 0 = none is.
    n_embedding : int
        Numbers in the embedding of a window; 0 = there is no table of them.
    has_segments : bool
        Whether there is a table of segments.
    has_etags : bool
        Whether the files are objects in a bucket, whose versions have names.
    """

    labels: tuple[str, ...]
    specs: tuple[FeatureSpec, ...]
    provenance: Mapping[str, Any]
    abstain: float = 0.0
    n_embedding: int = 0
    has_segments: bool = False
    has_etags: bool = False

    @cached_property
    def _makers(self) -> dict[TableName, _Maker]:
        makers: dict[TableName, _Maker] = {
            "files": self.files,
            "windows": self.windows,
            "segments": self.segments,
            "embeddings": self.embeddings,
        }
        return {name: makers[name] for name in tables_of(self.n_embedding, self.has_segments)}

    @cached_property
    def _schemas(self) -> dict[TableName, pa.Schema]:
        contents = Contents(self.labels, self.specs, self.n_embedding, self.has_etags)
        provenance = {**self.provenance, "tables": sorted(self._makers)}
        return {name: schema_of(name, contents, provenance) for name in self._makers}

    def tables(self, outcomes: Sequence[ClipOutcome]) -> dict[TableName, pa.Table]:
        """Return all tables of the outcomes, rows in the order given."""
        return {name: make(outcomes) for name, make in self._makers.items()}

    def files(self, outcomes: Sequence[ClipOutcome]) -> pa.Table:
        """One row per outcome, in the order given."""
        columns: dict[str, Any] = {
            "clip_id": [outcome.ref.clip_id for outcome in outcomes],
            "status": [str(outcome.status) for outcome in outcomes],
            "stage": [outcome.stage or None for outcome in outcomes],
            "error_type": [outcome.error_type or None for outcome in outcomes],
            "error_message": [_stored(outcome.error_message) for outcome in outcomes],
            "vanished": np.zeros(len(outcomes), bool),
            "size_bytes": [outcome.ref.size_bytes for outcome in outcomes],
            "modified": [0 if outcome.ref.mtime_ns == NOT_SEEN_NS else outcome.ref.mtime_ns for outcome in outcomes],
            "etag": [_stored(outcome.ref.etag) for outcome in outcomes],
            "duration_s": [None if np.isnan(outcome.duration_s) else outcome.duration_s for outcome in outcomes],
            "source_rate_hz": [outcome.source_rate_hz or None for outcome in outcomes],
            "source_channels": [outcome.source_channels or None for outcome in outcomes],
            "reader": [_stored(outcome.reader) for outcome in outcomes],
            "n_windows": [len(outcome.windows_s) for outcome in outcomes],
            "n_segments": [len(outcome.segments) for outcome in outcomes],
            "segments_key": [outcome.ref.segments and outcome.ref.segments.key for outcome in outcomes],
            **self._predictions(outcomes),
            **self._features(outcomes),
        }
        for stage in ("decode", "extract", "predict"):
            columns[f"time_{stage}_s"] = [outcome.seconds.get(stage) for outcome in outcomes]
        return _table(columns, self._schemas["files"])

    def _features(self, outcomes: Sequence[ClipOutcome | SegmentOutcome]) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for spec in self.specs:
            values = np.full((len(outcomes), len(spec.scalars)), np.nan, np.float32)
            missing = np.ones(len(outcomes), bool)
            for row, outcome in enumerate(outcomes):
                for block in outcome.blocks:
                    if block.extractor == spec.extractor:
                        values[row], missing[row] = block.clip_scalars, False
            columns |= _float_columns(spec.columns, values, missing)
        return columns

    def _predictions(self, outcomes: Sequence[ClipOutcome | SegmentOutcome]) -> dict[str, Any]:
        if not self.labels:
            return {}
        found = [outcome.prediction for outcome in outcomes]
        values = np.full((len(found), len(self.labels)), np.nan, np.float32)
        for row, prediction in enumerate(found):
            if prediction is not None:
                values[row] = prediction.probabilities
        missing = np.array([prediction is None for prediction in found], bool)
        return {
            "emotion": [prediction and prediction.emotion for prediction in found],
            "confidence": [prediction and prediction.confidence for prediction in found],
            "entropy": [prediction and prediction.entropy for prediction in found],
            "margin": [prediction and prediction.margin for prediction in found],
            "uncertain": [prediction and bool(prediction.confidence < self.abstain) for prediction in found],
            **_float_columns([f"p_{label}" for label in self.labels], values, missing),
        }

    def windows(self, outcomes: Sequence[ClipOutcome]) -> pa.Table:
        """One row per window of the outcomes that have any, in the order given."""
        analysed = [outcome for outcome in outcomes if len(outcome.windows_s)]
        counts = [len(outcome.windows_s) for outcome in analysed]
        times = _stacked((outcome.windows_s for outcome in analysed), 2, np.float64)
        columns: dict[str, Any] = {
            **_window_keys(analysed, counts),
            "start_s": times[:, 0],
            "end_s": times[:, 1],
            "channel": [channel for outcome in analysed for channel in _channels(outcome)],
        }
        if self.labels:
            n_labels = len(self.labels)
            unknown = [np.full((n, n_labels), np.nan, np.float32) for n in counts]
            values = _stacked(
                (
                    outcome.prediction.window_probabilities if outcome.prediction else nan
                    for outcome, nan in zip(analysed, unknown, strict=True)
                ),
                n_labels,
                np.float32,
            )
            columns |= _float_columns([f"p_{label}" for label in self.labels], values, np.isnan(values).any(axis=1))
        for spec in self.specs:
            blocks = (block for outcome in analysed for block in outcome.blocks if block.extractor == spec.extractor)
            values = _stacked((block.scalars for block in blocks), len(spec.scalars), np.float32)
            columns |= _float_columns(spec.columns, values, np.zeros(len(values), bool))
        return _table(columns, self._schemas["windows"])

    def segments(self, outcomes: Sequence[ClipOutcome]) -> pa.Table:
        """One row per segment of the outcomes that have any, in the order given."""
        found = [(outcome.ref.clip_id, *pair) for outcome in outcomes for pair in enumerate(outcome.segments)]
        items = [item for _, _, item in found]
        columns: dict[str, Any] = {
            "clip_id": [clip_id for clip_id, _, _ in found],
            "segment_index": [index for _, index, _ in found],
            "start_s": [item.segment.start_s for item in items],
            "end_s": [item.segment.end_s for item in items],
            "channel": [item.segment.channel or None for item in items],
            "speaker": [_stored(item.segment.speaker) for item in items],
            "text": [_stored(item.segment.text) for item in items],
            "source": [_stored(item.segment.source) or "" for item in items],
            "context_s": [item.context_s for item in items],
            **self._predictions(items),
            **self._features(items),
            **(self._heard(items) if self.n_embedding else {}),
        }
        return _table(columns, self._schemas["segments"])

    def _heard(self, items: Sequence[SegmentOutcome]) -> dict[str, Any]:
        """What the network heard in each segment, window by window: null where it has no label."""
        heard = [item for item in items if item.prediction is not None]
        counts = [len(item.weights) if item.prediction is not None else 0 for item in items]
        ends = as_column(np.cumsum([0, *counts]), pa.int32())
        missing = as_column([item.prediction is None for item in items], pa.bool_())
        numbers = _stacked((item.embeddings for item in heard), self.n_embedding, np.float16)
        weights = np.concatenate([np.zeros(0, np.float32), *(item.weights for item in heard)])
        rows = pa.FixedSizeListArray.from_arrays(as_column(numbers.ravel(), pa.float16()), self.n_embedding)
        return {
            "weights": pa.ListArray.from_arrays(ends, as_column(weights, pa.float32()), mask=missing),
            "embeddings": pa.ListArray.from_arrays(ends, rows, mask=missing),
        }

    def embeddings(self, outcomes: Sequence[ClipOutcome]) -> pa.Table:
        """One row per window of the outcomes that have any, in the order given."""
        analysed = [outcome for outcome in outcomes if len(outcome.windows_s)]
        counts = [len(outcome.windows_s) for outcome in analysed]
        numbers = _stacked((outcome.embeddings for outcome in analysed), self.n_embedding, np.float16)
        columns = {
            **_window_keys(analysed, counts),
            "weight": np.concatenate([np.zeros(0, np.float32), *(outcome.weights for outcome in analysed)]),
            "embedding": pa.FixedSizeListArray.from_arrays(as_column(numbers.ravel(), pa.float16()), self.n_embedding),
        }
        return _table(columns, self._schemas["embeddings"])

    @staticmethod
    def merged(name: TableName, old: pa.Table, new: pa.Table, replaced: pa.Array) -> pa.Table:
        """Put new rows into an existing part.

        Parameters
        ----------
        name : str
            Of the table.
        old : Table
            The part as it is; columns that are no longer in the schema are dropped, missing ones become null.
        new : Table
            Rows in the schema of this run.
        replaced : Array
            clip_ids whose old rows go.

        Returns
        -------
        merged : Table
            In the order of the keys of the table.
        """
        kept = old.filter(pc.invert(pc.is_in(old.column("clip_id"), value_set=replaced)))
        columns = [
            kept.column(field.name) if field.name in kept.column_names else pa.nulls(len(kept), field.type)
            for field in new.schema
        ]
        kept = pa.table(columns, names=new.schema.names).cast(new.schema)
        merged = pa.concat_tables([kept, new]).unify_dictionaries().combine_chunks()
        return merged.sort_by([(key, "ascending") for key in TABLES[name].keys])

    @staticmethod
    def marked(files: pa.Table, vanished: pa.Array) -> pa.Table:
        """Mark the files that are gone, and no others."""
        position = files.schema.get_field_index("vanished")
        return files.set_column(
            position, files.schema.field(position), pc.is_in(files.column("clip_id"), value_set=vanished)
        )


def _stored(message: str) -> str | None:
    # A message may quote a name that is not UTF-8, which no Parquet string can hold.
    return message.encode("utf-8", "backslashreplace").decode() or None


def _channels(outcome: ClipOutcome) -> Sequence[int | None]:
    return outcome.channels.tolist() or [None] * len(outcome.windows_s)


def _window_keys(analysed: Sequence[ClipOutcome], counts: Sequence[int]) -> dict[str, Any]:
    return {
        "clip_id": np.repeat(np.array([outcome.ref.clip_id for outcome in analysed], object), counts).tolist(),
        "window_index": np.concatenate([np.arange(n) for n in counts] or [np.zeros(0, np.int64)]),
    }


def _stacked(arrays: Iterable[NDArray[Any]], n_columns: int, dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros((0, n_columns), dtype), *arrays])


def _float_columns(
    names: Sequence[str], values: NDArray[np.float32], missing: NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """Columns of a matrix: NaN stays NaN, undefined; rows that were never analysed are null."""
    columns = np.ascontiguousarray(values.T)
    return {name: as_column(column, pa.float32(), missing) for name, column in zip(names, columns, strict=True)}


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        values = columns[field.name]
        arrays.append(values.cast(field.type) if isinstance(values, pa.Array) else as_column(values, field.type))
    return pa.table(arrays, schema=schema)
