"""What the classifiers of all devices share: inputs out of feature blocks, batches, pooling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ser_batch.classifier.checkpoint import Checkpoint
from ser_batch.classifier.network_config import N_BANDS, N_FRAMES
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
        self._features = [checkpoint.position(column) for column in checkpoint.features]
        self._weight = checkpoint.position(checkpoint.meta["pooling"]["weight_column"])

    @abstractmethod
    def run(self, mel: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities (n, n_labels) of one batch: mel (n, 128, 130) in dB, features (n, 13)."""

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
        if mel is None or mel.shape[1:] != (N_BANDS, N_FRAMES):
            raise ModelError(
                f"Model {self.name!r} needs a tensor ({N_BANDS}, {N_FRAMES}) per window of the extractor {MEL!r}; "
                f"it gave {'none' if mel is None else mel.shape[1:]}."
            )
        features = np.column_stack([blocks[name].scalars[:, index] for name, index in self._features])
        return mel, features.astype(np.float32, copy=False)

    def predict(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return calibrated window probabilities (n_windows, n_labels) and pooling weights (n_windows,).

        Windows of several clips may be stacked; how they are stacked changes probabilities by less than 1e-5.
        """
        mel, features = self.inputs(blocks)
        name, index = self._weight
        weights = np.nan_to_num(blocks[name].scalars[:, index]).clip(min=0)
        probabilities = np.empty((len(mel), len(self.labels)), np.float32)
        for start in range(0, len(mel), self.batch_size):
            part = slice(start, start + self.batch_size)
            probabilities[part] = self.run(np.ascontiguousarray(mel[part]), features[part])
        return probabilities, weights

    def pool(self, window_probabilities: NDArray[np.float32], weights: NDArray[np.float32]) -> Prediction:
        """Turn the windows of one clip into the prediction for its file; see `pool_windows`."""
        return pool_windows(self.labels, window_probabilities, weights)
