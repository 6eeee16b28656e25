"""The model file: weights and everything that belongs to them in one ``.safetensors``, read and written without torch.

Layout: float32 tensors under the names of the network's parameters and buffers, and one JSON text under the key
``ser_batch`` of the file's metadata; docs/models.md describes each field. The format holds numbers and text only:
opening a file from anywhere runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from ser_batch.atomic import read_file, write_atomic
from ser_batch.classifier.checks import FORMAT_VERSION, check_meta, check_weights, weight_shapes
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.errors import ModelError
from ser_batch.kinds import read_json
from ser_batch.records import FeatureSpec
from ser_batch.text import printable

__all__ = ["METADATA_KEY", "Checkpoint", "check_name", "load", "new_meta", "save"]

#: Key of the JSON text in the metadata of the file.
METADATA_KEY = "ser_batch"

_PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".bin")

#: Counts training steps; batch norm needs it in training only.
_TRAINING_ONLY = ".num_batches_tracked"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model as stored: weights and metadata. `load` and `save` see that the two fit."""

    #: float32 arrays under the names of the network's parameters and buffers; batch norm not folded.
    weights: Mapping[str, NDArray[np.float32]]
    #: The metadata, fields as in docs/models.md; build it with `new_meta`.
    meta: Mapping[str, Any]
    #: Where it was loaded from; "" for one that was never stored.
    path: str = ""
    #: SHA-256 of the file; "" for one that was never stored.
    sha256: str = ""

    @property
    def name(self) -> str:
        return str(self.meta["name"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Emotions, in the order of the network's outputs."""
        return tuple(self.meta["labels"])

    @property
    def needs(self) -> tuple[tuple[str, int], ...]:
        """Extractors that must run, as (name, version)."""
        return tuple((str(name), int(version)) for name, version in self.meta["extractors"])

    @property
    def features(self) -> tuple[str, ...]:
        """Columns that feed the dense branch, in the order of its inputs."""
        return tuple(self.meta["features"])

    @property
    def temperature(self) -> float:
        """Divides the logits before the softmax, so that probabilities are calibrated."""
        return float(self.meta["temperature"])

    @property
    def network(self) -> NetworkConfig:
        """Shape of the network."""
        return NetworkConfig.from_dict(self.meta["network"])

    @property
    def listening_sha256(self) -> str:
        """SHA-256 of all that decides an embedding: every weight but the last layer's, and what the network is fed."""
        network = {key: value for key, value in self.network.as_dict().items() if key != "n_labels"}
        fed = [network, *(self.meta[key] for key in ("audio", "extractors", "columns", "features"))]
        digest = hashlib.sha256(json.dumps(fed, sort_keys=True).encode())
        for name in sorted(self.weights):
            if not name.startswith("head."):
                digest.update(name.encode() + np.ascontiguousarray(self.weights[name]).tobytes())
        return digest.hexdigest()

    def position(self, column: str) -> tuple[str, int]:
        """Return the extractor that gives a column, and the column's index among its scalars."""
        for extractor, columns in self.meta["columns"].items():
            if column in columns:
                return str(extractor), list(columns).index(column)
        raise ModelError(f"Model {self.name!r}: none of its extractors has the column {column!r}.")


def new_meta(
    *,
    name: str,
    labels: Sequence[str],
    audio: Mapping[str, float],
    specs: Iterable[FeatureSpec],
    features: Sequence[str],
    network: NetworkConfig,
    temperature: float = 1.0,
    pooling: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return metadata with all required fields.

    Parameters
    ----------
    name : str
        Short name; by custom the stem of the file.
    labels : sequence of str
        Emotions in the order of the network's outputs.
    audio : mapping
        ``sample_rate_hz``, ``window_s``, ``window_hop_s`` of the training windows.
    specs : iterable of FeatureSpec
        Every extractor that must run: that of the mel spectrogram, those of `features` and of the pooling weight.
    features : sequence of str
        The 13 columns out of `specs` that feed the dense branch, in order.
    network : NetworkConfig
        Shape of the network.
    temperature : float
        Above 0; see `Checkpoint.temperature`.
    pooling : mapping, optional
        ``rule`` and ``weight_column``, the column whose values weigh the windows of a file; by default the mean
        weighted by the audible seconds of each window.
    **more
        Further fields, JSON-able: ``training``, ``scores``, ``created``, …
    """
    ordered = sorted(specs, key=lambda spec: spec.extractor)
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "labels": list(labels),
        "audio": dict(audio),
        "extractors": [[spec.extractor, spec.version] for spec in ordered],
        "columns": {spec.extractor: list(spec.columns) for spec in ordered},
        "features": list(features),
        "temperature": float(temperature),
        "pooling": dict(pooling or {"rule": "weighted_mean", "weight_column": "quality__active_s"}),
        "network": network.as_dict(),
        **more,
    }


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a model file and check it.

    Raises
    ------
    ModelError
        The file is missing, is not safetensors (a pickle, for example), is cut short, has no or wrong metadata, was
        written by a newer version, or its tensors do not fit the network that the metadata describes.
    """
    path = Path(path)
    where = f"Model file {printable(path)}"
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ModelError(
            f"{where} is a pickle by its name, and opening a pickle can run any code. If you trust it, load it "
            f"yourself with torch.load(..., weights_only=True) and store it with ser_batch.classifier.checkpoint.save."
        )
    try:
        raw = read_file(path)
        with safe_open(path, framework="np") as file:
            meta = _parse((file.metadata() or {}).get(METADATA_KEY), where)
            weights = {name: file.get_tensor(name) for name in file.keys() if not name.endswith(_TRAINING_ONLY)}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"{where} does not exist.") from None
    except OSError as error:
        raise ModelError(f"{where} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        raise ModelError(f"{where} cannot be used: {_why_unreadable(raw, error)}.") from error
    except (TypeError, AttributeError) as error:
        # What safetensors raises for types that numpy does not have, such as bfloat16.
        raise ModelError(f"{where} cannot be used: a tensor is not of type float32 ({error}).") from error
    checkpoint = Checkpoint(weights, meta, str(path), hashlib.sha256(raw).hexdigest())
    _check(checkpoint, where)
    return checkpoint


def check_name(path: Path) -> None:
    """Raise ModelError unless a model file can be called so."""
    if path.suffix != ".safetensors":
        raise ModelError(f"Model file {printable(path)}: the name must end in .safetensors.")


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Check a model and write it; a reader never sees a half-written file.

    Tensors that only training needs (``num_batches_tracked``) are left out.

    Raises
    ------
    ModelError
        The path does not end in ``.safetensors``, metadata and weights do not fit, or the file cannot be written.
    """
    path = Path(path)
    where = f"Model file {printable(path)}"
    check_name(path)
    weights = {
        name: np.ascontiguousarray(array)
        for name, array in checkpoint.weights.items()
        if not name.endswith(_TRAINING_ONLY)
    }
    # Through JSON and back, so that what is checked is what a reader will see.
    text = json.dumps(checkpoint.meta, allow_nan=False, sort_keys=True)
    _check(Checkpoint(weights, _parse(text, where)), where)
    try:
        write_atomic(path, to_bytes(weights, metadata={METADATA_KEY: text}))
    except OSError as error:
        raise ModelError(f"{where} cannot be written: {error.strerror}.") from error


def _check(checkpoint: Checkpoint, where: str) -> None:
    check_meta(checkpoint.meta, where)
    try:
        shapes = weight_shapes(checkpoint.network)
        if not all(isinstance(size, int) and size > 0 for shape in shapes.values() for size in shape):
            raise ValueError("sizes must be whole numbers above 0")
    except (ModelError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise ModelError(f"{where}: metadata field 'network' is wrong: {error}") from error
    check_weights(checkpoint.weights, shapes, where)


def _parse(text: str | None, where: str) -> dict[str, Any]:
    if text is None:
        raise ModelError(
            f"{where} has no {METADATA_KEY!r} metadata: it holds weights of something else. "
            f"`ser-batch train` writes files that fit."
        )
    try:
        meta = read_json(text)
    except ValueError as error:
        raise ModelError(f"{where}: its {METADATA_KEY!r} metadata cannot be read: {error}.") from error
    if not isinstance(meta, dict):
        raise ModelError(f"{where}: its {METADATA_KEY!r} metadata must be a JSON object.")
    return meta


def _why_unreadable(raw: bytes, error: SafetensorError) -> str:
    if not raw:
        return "it is empty"
    if raw[:2] == b"PK" or (raw[:1] == b"\x80" and 2 <= raw[1] <= 5):
        return "it is a pickle under another name, and opening a pickle can run any code"
    # The format begins with the length of its JSON header, 8 bytes little-endian, then the header.
    if raw[8:9] == b"{" or len(raw) < 9:
        return f"it is cut short or damaged; copy it again ({error})"
    return f"it is not a safetensors file ({error})"
