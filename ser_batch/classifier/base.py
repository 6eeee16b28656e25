"""What the classifiers of all devices share: inputs out of feature blocks, batches, pooling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ser_batch.classifier.checkpoint import Checkpoint
from ser_batch.classifier.pooling import pool_windows
from ser_batch.errors import ModelError
from ser_batch.records import FeatureBlock, Prediction

__all__ = ["CheckpointClassifier"]

#: The extractor whose tensor is the network's spectrogram.
MEL = "mel"


class CheckpointClassifier(ABC):
    """A `Classifier` out of a model file; subclasses run the network on their device."""

    #: Windows given to the network at once, unless a subclass measured better. Never changes results.
    batch_size = 64

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.sha256 = checkpoint.sha256
        self.labels = checkpoint.labels
        self.needs = checkpoint.needs
        self.device = device
        self.columns = checkpoint.meta["columns"]
        self.card = checkpoint.meta
        #: What embeddings depend on; models that differ in their last layer alone share it.
        self.listening_sha256 = checkpoint.listening_sha256
        self.n_embedding = checkpoint.network.fusion_units
        self._mel_shape = (checkpoint.network.n_bands, checkpoint.network.n_frames)
        self._features = [checkpoint.position(column) for column in checkpoint.features]
        self._weight = checkpoint.position(checkpoint.meta["pooling"]["weight_column"])

    @abstractmethod
    def embed(self, mel: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the fused embeddings (n, n_embedding) of one batch: mel (n, 128, 130) in dB, features (n, 13)."""

    def label(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return calibrated probabilities (n, n_labels) of embeddings (n, n_embedding), in any float type.

        The last layer and the softmax, in float64: one definition of them for every device.
        """
        weights, checkpoint = self.checkpoint.weights, self.checkpoint
        logits = embeddings.astype(np.float64) @ weights["head.weight"].T.astype(np.float64) + weights["head.bias"]
        logits /= checkpoint.temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)

    def run(self, mel: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities (n, n_labels) of one batch; arguments as for `embed`."""
        return self.label(self.embed(mel, features))

    def inputs(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what the network takes, mel (n_windows, 128, 130) and features (n_windows, 13), out of feature blocks.

        Raises
        ------
        ModelError
            An extractor that the model needs did not run.
        """
        for name, _ in self.needs:
            if name not in blocks:
                raise ModelError(f"Model {self.name!r} needs the extractor {name!r}, which did not run.")
        mel = blocks[MEL].tensor
        if mel is None or mel.shape[1:] != self._mel_shape:
            raise ModelError(
                f"Model {self.name!r} needs a tensor {self._mel_shape} per window of the extractor {MEL!r}; "
                f"it gave {'none' if mel is None else mel.shape[1:]}."
            )
        features = np.column_stack([blocks[name].scalars[:, index] for name, index in self._features])
        return mel, features.astype(np.float32, copy=False)

    def pooling_weights(self, blocks: Mapping[str, FeatureBlock]) -> NDArray[np.float32]:
        """Return how much each window counts in its file (n_windows,), out of feature blocks."""
        name, index = self._weight
        return np.nan_to_num(blocks[name].scalars[:, index]).clip(min=0)

    def listen(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings (n_windows, n_embedding) and pooling weights (n_windows,): all that labels need.

        Windows of several clips may be stacked; how they are stacked changes probabilities by less than 1e-5.
        """
        mel, features = self.inputs(blocks)
        weights = self.pooling_weights(blocks)
        embeddings = np.empty((len(mel), self.n_embedding), np.float32)
        for start in range(0, len(mel), self.batch_size):
            part = slice(start, start + self.batch_size)
            embeddings[part] = self.embed(np.ascontiguousarray(mel[part]), features[part])
        return embeddings, weights

    def predict(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return calibrated window probabilities (n_windows, n_labels) and pooling weights: `listen`, then `label`."""
        embeddings, weights = self.listen(blocks)
        return self.label(embeddings), weights

    def pool(self, window_probabilities: NDArray[np.float32], weights: NDArray[np.float32]) -> Prediction:
        """Turn the windows of one clip into the prediction for its file; see `pool_windows`."""
        return pool_windows(self.labels, window_probabilities, weights)
