"""The models of this package: encoder, mean and deviation over what is audible, one linear layer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.classifier.device import PARITY_TOLERANCE, DeviceError
from ser_batch.classifier.pooling import pool_windows
from ser_batch.errors import ModelError
from ser_batch.records import FeatureBlock, Prediction
from ser_batch_whisper.encoder import WIDTH, build_onnx, run_torch, weight_shapes
from ser_batch_whisper.mel import FLOOR

__all__ = ["WEIGHTS", "WhisperClassifier", "audible_stretch", "load", "summarised"]

WEIGHTS = Path(__file__).parent / "weights" / "ser7-large.safetensors"
#: A step lasts so long.
STEP_S = 0.02
#: Powers of ten below the loudest cell: what is further down is raised to the first, as Whisper does it; a frame whose
#: loudest band is further down than the second is not audible.
_RANGE, _AUDIBLE = 8.0, 4.0
#: Frames kept around what is audible.
_MARGIN = 8


def audible_stretch(mel: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Cut a window to what is audible in it and scale it as Whisper has it.

    Parameters
    ----------
    mel : float32 (80, n_frames)
        Log10 power.

    Returns
    -------
    mel : float32 (80, n)
    audible : bool (n_steps,)
        Which steps of 20 ms have a say.

    None for digital silence.
    """
    top = float(mel.max())
    if top <= FLOOR:
        return None
    raised = np.maximum(mel, top - _RANGE)
    loud = raised.max(axis=0) >= top - _AUDIBLE
    places = np.flatnonzero(loud)
    first, last = max(int(places[0]) - _MARGIN, 0) // 2 * 2, min(int(places[-1]) + _MARGIN + 1, mel.shape[1])
    loud = loud[first:last]
    n_steps = -(-len(loud) // 2)
    audible = np.zeros(n_steps, bool)
    pairs = loud[: len(loud) // 2 * 2].reshape(-1, 2).any(axis=1)
    audible[: len(pairs)] = pairs
    if not audible.any():
        audible[:] = True
    return ((raised + 4) / 4)[:, first:last].astype(np.float32), audible


def summarised(layers: Sequence[NDArray[np.float32]], audible: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return mean and deviation of each layer (n_steps, 384) over audible steps, float32 (2 * 384 * n_layers,)."""
    parts = [np.asarray(layer, np.float64)[audible] for layer in layers]
    return np.concatenate([value for part in parts for value in (part.mean(0), part.std(0))]).astype(np.float32)


class WhisperClassifier:
    """A model on one CPU thread; `TorchWhisperClassifier` is the same on a GPU.

    Parameters
    ----------
    name : str
    weights : mapping
        Tensors of the model file, float32.
    meta : mapping
        Its metadata: labels, temperature per model, training, scores.
    kept : sequence of int
        Which of the labels this model answers among.
    sha256 : str
        Of the model file.
    """

    needs = (("whisper_mel", 1),)
    device = "cpu"
    #: Mean and deviation of each layer.
    n_embedding = 4 * WIDTH

    def __init__(
        self,
        name: str,
        weights: Mapping[str, NDArray[np.float32]],
        meta: Mapping[str, Any],
        kept: Sequence[int],
        sha256: str,
    ) -> None:
        self.name, self.sha256 = name, sha256
        #: The models of this package share their file, and hear alike.
        self.listening_sha256 = sha256
        self.labels = tuple(meta["labels"][index] for index in kept)
        self._weights = weights
        self._temperature = float(meta["temperatures"][name])
        self._head = weights["head.weight"][list(kept)].astype(np.float64)
        self._bias = weights["head.bias"][list(kept)].astype(np.float64)
        self._mean, self._std = (weights[f"summary.{part}"].astype(np.float64) for part in ("mean", "std"))
        own = ("training", "created", "pooling")
        self.card = {key: meta[key] for key in own if key in meta} | {"temperature": self._temperature}
        if name in meta.get("scores", {}):
            self.card["scores"] = meta["scores"][name]

    @cached_property
    def _session(self) -> Any:
        """Opened for the first window: the parent of a scan needs labels and versions alone."""
        from ser_batch.classifier.onnx_classifier import open_session

        return open_session(build_onnx(self._weights))

    def encode(self, mel: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the layers (n_steps, 384) of a stretch (80, n_frames)."""
        return [layer[0] for layer in self._session.run(None, {"mel": mel[None]})]

    def listen(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what the layers hear of each window (n_windows, 1536), and audible seconds (n_windows,)."""
        tensor = blocks["whisper_mel"].tensor
        assert tensor is not None
        summaries = np.tile(self._mean, (len(tensor), 1))
        weights = np.zeros(len(tensor), np.float32)
        for row, mel in enumerate(tensor):
            if (stretch := audible_stretch(mel)) is not None:
                cut, audible = stretch
                summaries[row] = summarised(self.encode(cut), audible)
                weights[row] = STEP_S * np.count_nonzero(audible)
        return summaries.astype(np.float32), weights

    def label(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return window probabilities (n_windows, n_labels) of what was heard."""
        logits = ((embeddings.astype(np.float64) - self._mean) / self._std) @ self._head.T + self._bias
        logits /= self._temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)

    def predict(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return window probabilities (n_windows, n_labels) and audible seconds (n_windows,)."""
        embeddings, weights = self.listen(blocks)
        return self.label(embeddings), weights

    def pool(self, window_probabilities: NDArray[np.float32], weights: NDArray[np.float32]) -> Prediction:
        """Average the windows of a file, weighted by their audible seconds."""
        return pool_windows(self.labels, window_probabilities, weights)


class TorchWhisperClassifier(WhisperClassifier):
    """The same on a torch device, in float32."""

    def __init__(self, *arguments: Any, device: str) -> None:
        super().__init__(*arguments)
        import torch

        self.device = device
        self._tensors = {name: torch.from_numpy(array.copy()).to(device) for name, array in self._weights.items()}

    def encode(self, mel: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        import torch

        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            layers = run_torch(self._tensors, torch.from_numpy(mel.copy())[None].to(self.device))
            return [layer[0].cpu().numpy() for layer in layers]


def load(name: str, labels: Sequence[str] | None, device: str, path: Path = WEIGHTS) -> WhisperClassifier:
    """Open a model of this package.

    Raises
    ------
    ModelError
        The weights are missing or damaged.
    DeviceError
        The GPU refuses or gives other numbers than the CPU.
    """
    weights, meta, sha256 = read_weights(path)
    kept = [index for index, label in enumerate(meta["labels"]) if labels is None or label in labels]
    reference = WhisperClassifier(name, weights, meta, kept, sha256)
    if device == "cpu":
        return reference
    try:
        other = TorchWhisperClassifier(name, weights, meta, kept, sha256, device=device)
        blocks = {"whisper_mel": _fixed_block()}
        difference = float(np.abs(other.predict(blocks)[0] - reference.predict(blocks)[0]).max())
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"{device} failed: {str(error).splitlines()[0]}.") from error
    # Written so that NaN fails.
    if not difference <= PARITY_TOLERANCE:
        raise DeviceError(f"{device} gives other numbers than the CPU for model {name!r}: up to {difference:.2g}.")
    return other


def read_weights(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any], str]:
    """Return tensors as float32, metadata, and SHA-256 of a model file of this package.

    Raises
    ------
    ModelError
        It is missing, is not safetensors, or a tensor is missing, of another shape or not finite.
    """
    from safetensors import SafetensorError, safe_open

    try:
        raw = path.read_bytes()
        with safe_open(path, framework="np") as file:
            meta = json.loads(file.metadata()["ser_batch"])
            weights = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ModelError(f"{path} cannot be used ({error}). Install ser-batch-whisper again.") from error
    n_summary = 4 * WIDTH
    shapes = weight_shapes() | {
        "head.weight": (len(meta["labels"]), n_summary),
        "head.bias": (len(meta["labels"]),),
        "summary.mean": (n_summary,),
        "summary.std": (n_summary,),
    }
    for key, shape in shapes.items():
        if key not in weights or weights[key].shape != shape or not np.isfinite(weights[key]).all():
            raise ModelError(f"{path}: tensor {key!r} is missing or damaged. Install ser-batch-whisper again.")
    return weights, meta, hashlib.sha256(raw).hexdigest()


def _fixed_block() -> FeatureBlock:
    """Eight windows of moving harmonics over noise, some half silent, for the comparison of devices."""
    rng = np.random.default_rng(0)
    bands, frames = np.arange(80)[:, None], np.arange(300)[None, :]
    mel = np.empty((8, 80, 300), np.float32)
    for index in range(8):
        pitch = 5 + index + np.sin(frames / (20 + index))
        mel[index] = -5 - bands / 40 + 1.5 * np.cos(2 * np.pi * bands / pitch) + rng.normal(0, 0.4, (80, 300))
    mel[5:7, :, 140:] = FLOOR
    return FeatureBlock("whisper_mel", np.empty((8, 0), np.float32), np.empty(0, np.float32), mel)
