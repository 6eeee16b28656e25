"""What a model file must hold to be used: fields of the metadata, and tensors with their shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.classifier.network_config import N_DENSE, NetworkConfig
from ser_batch.errors import ModelError
from ser_batch.extractors.mel import mel_shape
from ser_batch.kinds import (
    CARD,
    OBJECT,
    TEXT,
    TEXTS,
    Kind,
    is_count,
    is_number,
    is_text,
    object_of,
    problem_with,
    shown,
)

__all__ = [
    "FORMAT_VERSION",
    "POOLING_RULES",
    "check_meta",
    "check_weights",
    "n_parameters",
    "weight_shapes",
]

#: Raised when a reader of the old format would misread the new one.
FORMAT_VERSION = 1

#: How windows become one answer per file; see `ser_batch.classifier.pooling`.
POOLING_RULES = ("weighted_mean",)

_CURE = "The file is damaged or does not fit this version of ser-batch: take another copy, or train the model again."

#: Required fields of the metadata and what each must be.
_FIELDS: dict[str, Kind] = {
    "name": TEXT,
    "labels": Kind(TEXTS.holds, "a list of at least two emotions"),
    "audio": Kind(OBJECT.holds, "an object with sample_rate_hz, window_s and window_hop_s, each above 0"),
    "extractors": Kind(lambda value: isinstance(value, list), "a list of [name, version]"),
    "columns": Kind(object_of(TEXTS.holds), "an object: extractor -> its columns"),
    "features": Kind(TEXTS.holds, f"a list of {N_DENSE} columns"),
    "temperature": Kind(is_number, "a number above 0"),
    "pooling": Kind(object_of(is_text), "an object with rule and weight_column"),
    "network": OBJECT,
}
#: Beyond, no window fits the memory.
_HIGHEST = {"sample_rate_hz": 1e6, "window_s": 3_600.0, "window_hop_s": 3_600.0}


def weight_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of `HybridCNN(config)` that inference needs, in its order."""
    shapes: dict[str, tuple[int, ...]] = {
        "mel_norm.band_mean": (config.n_bands,),
        "mel_norm.band_std": (config.n_bands,),
        "dense_norm.mean": (N_DENSE,),
        "dense_norm.std": (N_DENSE,),
    }
    n_in = config.n_views
    for index, n_out in enumerate(config.channels):
        shapes[f"blocks.{index}.conv.weight"] = (n_out, n_in, 3, 3)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"blocks.{index}.norm.{part}"] = (n_out,)
        n_in = n_out
    n_step = n_in * config.n_bands_out
    linear = {
        "attention.hidden": (config.attention_units, n_step),
        "attention.score": (n_step, config.attention_units),
        "mel_out": (config.mel_units, 2 * n_step),
        "dense_in": (config.dense_units, 2 * N_DENSE),
        "dense_out": (config.dense_units, config.dense_units),
        "fusion": (config.fusion_units, config.mel_units + config.dense_units),
        "head": (config.n_labels, config.fusion_units),
    }
    for name, shape in linear.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    return shapes


def n_parameters(config: NetworkConfig) -> dict[str, int]:
    """Return how many numbers are learnt, per branch: ``mel``, ``dense`` and ``fusion``. Statistics do not count."""
    counts = {"mel": 0, "dense": 0, "fusion": 0}
    branches = {"blocks": "mel", "attention": "mel", "mel_out": "mel", "dense_in": "dense", "dense_out": "dense"}
    for name, shape in weight_shapes(config).items():
        part = name.split(".")[0]
        if part not in ("mel_norm", "dense_norm") and "running_" not in name:
            counts[branches.get(part, "fusion")] += math.prod(shape)
    return counts


def check_weights(
    weights: Mapping[str, NDArray[np.float32]], shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """See that exactly the tensors of `shapes` are there, finite, in float32; `where` begins the message.

    Raises
    ------
    ModelError
        A tensor is missing, unknown, of another shape or type, or holds NaN or infinity; the message names it.
    """
    missing = [name for name in shapes if name not in weights]
    if missing:
        raise ModelError(f"{where}: {len(missing)} tensor(s) missing, first {missing[0]!r}. {_CURE}")
    unknown = [name for name in weights if name not in shapes]
    if unknown:
        raise ModelError(f"{where}: {len(unknown)} unknown tensor(s), first {unknown[0]!r}. {_CURE}")
    for name, shape in shapes.items():
        array = weights[name]
        if array.shape != shape:
            raise ModelError(f"{where}: tensor {name!r} has shape {array.shape}, the network needs {shape}. {_CURE}")
        if array.dtype != np.float32:
            raise ModelError(f"{where}: tensor {name!r} has type {array.dtype}, the network needs float32. {_CURE}")
        if not np.isfinite(array).all():
            raise ModelError(f"{where}: tensor {name!r} holds NaN or infinity: damaged, or its training diverged.")


def check_meta(meta: Mapping[str, Any], where: str) -> None:
    """See that all required fields are there and make sense; `where` begins the message.

    Raises
    ------
    ModelError
        A field is missing or wrong, or the format is newer than this code.
    """
    version = meta.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ModelError(f"{where}: metadata field 'format_version' is missing or wrong; it must be {FORMAT_VERSION}.")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{where} has format version {version}; this ser-batch reads up to {FORMAT_VERSION}. Upgrade ser-batch."
        )
    for key, kind in _FIELDS.items():
        if key not in meta or not kind.holds(meta[key]):
            raise ModelError(f"{where}: metadata field {key!r} is missing or wrong; it must be {kind.words}.")
    if problem := problem_with(meta, CARD):
        raise ModelError(f"{where}: metadata field {problem}. {_CURE}")
    for key, holds, rule in _value_rules(meta):
        if not holds:
            raise ModelError(f"{where}: metadata field {key!r} must be {rule}; it is {shown(meta[key])}.")


def _value_rules(meta: Mapping[str, Any]) -> Iterable[tuple[str, bool, str]]:
    labels, audio, pooling = meta["labels"], meta["audio"], meta["pooling"]
    yield "labels", len(labels) >= 2 and all(map(_is_label, labels)), _FIELDS["labels"].words
    yield "labels", len(set(labels)) == len(labels), "without repeats"
    are_sound = (is_number(audio.get(key)) and 0 < audio[key] <= highest for key, highest in _HIGHEST.items())
    yield "audio", all(are_sound), _FIELDS["audio"].words
    yield "extractors", all(map(_is_name_and_version, meta["extractors"])), _FIELDS["extractors"].words
    names = [item[0] for item in meta["extractors"]]
    yield "extractors", "mel" in names, "with 'mel', whose spectrogram the network sees"
    of_each = meta["columns"]
    yield "columns", sorted(of_each) == sorted(names), "given for exactly the extractors"
    known = [column for columns in of_each.values() for column in columns]
    features = meta["features"]
    yield "features", len(features) == N_DENSE and all(item in known for item in features), "13 of the columns"
    yield "temperature", 1e-6 < meta["temperature"] < 1e6, _FIELDS["temperature"].words
    yield "pooling", pooling.get("rule") in POOLING_RULES, f"with a rule out of {', '.join(POOLING_RULES)}"
    yield "pooling", pooling.get("weight_column") in known, "with a weight_column out of the columns"
    network = meta["network"]
    yield "network", network.get("n_labels") == len(labels), f"with {len(labels)} n_labels, as many as labels"
    # Models of the first kind do not say how many frames they see: 130.
    _, n_frames = mel_shape(audio["sample_rate_hz"], audio["window_s"], 0)
    yield "network", network.get("n_frames", 130) == n_frames, f"with {n_frames} n_frames, as many as a window has"


def _is_label(label: str) -> bool:
    try:
        return bool(label.encode())
    except UnicodeEncodeError:  # a byte of a name that is not UTF-8, which no table can hold
        return False


def _is_name_and_version(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and is_text(item[0]) and is_count(item[1])
