"""The Parquet schemas of a run, fixed from labels and feature specs before the first file is read.

docs/results-schema.md describes each column; raise `SCHEMA_VERSION` with any change of name, type, unit or meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ser_batch.kinds import read_json
from ser_batch.records import FeatureSpec
from ser_batch.run.layout import TABLES, TableName
from ser_batch.text import shown

__all__ = [
    "METADATA_KEY",
    "SCHEMA_VERSION",
    "TIMING_COLUMNS",
    "Contents",
    "files_schema",
    "matrix_of",
    "problem_with_columns",
    "read_metadata",
    "schema_of",
    "segments_schema",
    "windows_schema",
]

SCHEMA_VERSION = 1

#: Key of the JSON provenance in the metadata of every Parquet file.
METADATA_KEY = b"ser_batch"

#: Columns that differ between two runs over the same audio; equality is stated without them.
TIMING_COLUMNS = ("time_decode_s", "time_extract_s", "time_predict_s")

#: Columns that runs of earlier versions lack.
_LATER = frozenset({"channel", "n_segments", "reader", "segments_key"})

_ENUM = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, slots=True)
class Contents:
    """What the tables of a run are about: all that decides their columns."""

    #: Emotions of the model in its order; empty for extraction alone (no prediction columns then).
    labels: tuple[str, ...] = ()
    #: Extractors that run, sorted by name.
    specs: tuple[FeatureSpec, ...] = ()
    #: Numbers in the embedding of a window; 0 for none.
    n_embedding: int = 0
    #: Whether the files are objects in a bucket, whose versions have names.
    has_etags: bool = False


def _feature_fields(specs: Sequence[FeatureSpec]) -> list[pa.Field]:
    return [pa.field(column, pa.float32()) for spec in specs for column in spec.columns]


def _probability_fields(labels: Sequence[str]) -> list[pa.Field]:
    return [pa.field(f"p_{label}", pa.float32()) for label in labels]


def _prediction_fields(labels: Sequence[str]) -> list[pa.Field]:
    if not labels:
        return []
    return [
        pa.field("emotion", _ENUM),
        pa.field("confidence", pa.float32()),
        pa.field("entropy", pa.float32()),
        pa.field("margin", pa.float32()),
        pa.field("uncertain", pa.bool_()),
        *_probability_fields(labels),
    ]


def _metadata(provenance: Mapping[str, Any]) -> dict[bytes, bytes]:
    return {METADATA_KEY: json.dumps({"schema_version": SCHEMA_VERSION, **provenance}, sort_keys=True).encode()}


def files_schema(
    labels: Sequence[str], specs: Sequence[FeatureSpec], provenance: Mapping[str, Any], has_etags: bool = False
) -> pa.Schema:
    """Schema of ``files/``: one row per file found.

    Parameters
    ----------
    labels : sequence of str
        Emotions of the model in its order; empty for extraction alone (no prediction columns then).
    specs : sequence of FeatureSpec
        Extractors that run, sorted by name.
    provenance : mapping
        JSON-able; stored in the metadata beside the schema version.
    has_etags : bool
        The files are objects in a bucket, whose versions have names.
    """
    fields = [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("status", _ENUM, nullable=False),
        pa.field("stage", _ENUM),
        pa.field("error_type", _ENUM),
        pa.field("error_message", pa.string()),
        pa.field("vanished", pa.bool_(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified", pa.timestamp("ns", tz="UTC"), nullable=False),
        *([pa.field("etag", pa.string())] if has_etags else []),
        pa.field("duration_s", pa.float64()),
        pa.field("source_rate_hz", pa.int32()),
        pa.field("source_channels", pa.int16()),
        pa.field("reader", _ENUM),
        pa.field("n_windows", pa.int32(), nullable=False),
        pa.field("n_segments", pa.int32()),
        pa.field("segments_key", pa.int64()),
        *_prediction_fields(labels),
        *_feature_fields(specs),
    ]
    fields += [pa.field(name, pa.float32()) for name in TIMING_COLUMNS]
    return pa.schema(fields, metadata=_metadata(provenance))


def windows_schema(labels: Sequence[str], specs: Sequence[FeatureSpec], provenance: Mapping[str, Any]) -> pa.Schema:
    """Schema of ``windows/``: one row per window of every analysed file; arguments as for `files_schema`."""
    fields = [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("window_index", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("channel", pa.int16()),
        *_probability_fields(labels),
        *_feature_fields(specs),
    ]
    return pa.schema(fields, metadata=_metadata(provenance))


def segments_schema(
    labels: Sequence[str], specs: Sequence[FeatureSpec], provenance: Mapping[str, Any], n_embedding: int = 0
) -> pa.Schema:
    """Schema of ``segments/``: one row per segment of every analysed file.

    Arguments as for `files_schema`; `n_embedding` numbers are kept of each window of a segment, none where it is 0.
    """
    fields = [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("segment_index", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("channel", pa.int16()),
        pa.field("speaker", _ENUM),
        pa.field("text", pa.string()),
        pa.field("source", _ENUM, nullable=False),
        pa.field("context_s", pa.float32(), nullable=False),
        *_prediction_fields(labels),
        *_feature_fields(specs),
    ]
    if n_embedding:
        fields.append(pa.field("weights", pa.list_(pa.float32())))
        fields.append(pa.field("embeddings", pa.list_(pa.list_(pa.float16(), n_embedding))))
    return pa.schema(fields, metadata=_metadata(provenance))


def _embeddings_schema(n_embedding: int, provenance: Mapping[str, Any]) -> pa.Schema:
    """Schema of ``embeddings/``: one row per window of every analysed file."""
    fields = [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("window_index", pa.int32(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("embedding", pa.list_(pa.float16(), n_embedding), nullable=False),
    ]
    return pa.schema(fields, metadata=_metadata(provenance))


def schema_of(table: TableName, contents: Contents, provenance: Mapping[str, Any]) -> pa.Schema:
    """Return the schema of a table of a run; `provenance` is stored in it beside the schema version."""
    if table == "embeddings":
        return _embeddings_schema(contents.n_embedding, provenance)
    if table == "files":
        return files_schema(contents.labels, contents.specs, provenance, contents.has_etags)
    if table == "segments":
        return segments_schema(contents.labels, contents.specs, provenance, contents.n_embedding)
    return windows_schema(contents.labels, contents.specs, provenance)


def problem_with_columns(table: TableName, schema: pa.Schema) -> str:
    """Say what no part of a table can have: a column too few, twice, or of another type; "" for nothing.

    Names that are not known are those of features.
    """
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        return f"its column {shown(twice[0])} is there twice"
    needed = [name for name in schema_of(table, Contents(), {}).names if name not in _LATER]
    # What was heard in segments is there with its weights, or not at all.
    heard = TABLES[table].by_name
    for name in (*needed, *(heard if {*heard} & {*schema.names} else ())):
        if name not in schema.names:
            return f"it has no column {name!r}"
    known = schema_of(table, Contents(("",), (), 1, has_etags=True), {})
    for field in schema:
        expected = known.field(field.name) if field.name in known.names else pa.field(field.name, pa.float32())
        if not _is_of(field.type, expected.type):
            return f"its column {shown(field.name)} is of type {field.type}"
        if field.nullable and not expected.nullable:
            return f"its column {field.name!r} may lack values"
    return ""


def _is_of(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Compare types; how lists call what is in them, and how many numbers an embedding has, may differ."""
    for is_list in (pa.types.is_list, pa.types.is_fixed_size_list):
        if is_list(expected):
            return is_list(kind) and _is_of(kind.value_type, expected.value_type)
    return bool(kind.equals(expected))


def matrix_of(column: pa.ChunkedArray) -> NDArray[np.float16]:
    """Return a column of embeddings as a matrix (n_rows, n_embedding)."""
    numbers = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate([np.zeros(0, np.float16), *numbers])
    return flat.reshape(len(column), column.type.list_size)


def read_metadata(schema: pa.Schema) -> dict[str, Any]:
    """Return the provenance stored in a schema, or an empty dictionary where there is none that can be read."""
    try:
        values = read_json((schema.metadata or {})[METADATA_KEY])
    except (KeyError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
