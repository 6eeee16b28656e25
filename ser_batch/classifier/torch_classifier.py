"""The network on a GPU by torch; on a CPU too, as the reference that the other ways are held against."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ser_batch.classifier.base import CheckpointClassifier
from ser_batch.classifier.checkpoint import Checkpoint
from ser_batch.classifier.network import HybridCNN

__all__ = ["TorchClassifier", "build_network"]


def build_network(checkpoint: Checkpoint) -> HybridCNN:
    """Return the network of a model file, in evaluation mode, on the CPU."""
    network = HybridCNN(checkpoint.network)
    # Copies: torch tensors would otherwise share memory that numpy calls read-only.
    state = {name: torch.from_numpy(array.copy()) for name, array in checkpoint.weights.items()}
    # Only counters of training steps are not stored.
    network.load_state_dict(state, strict=False)
    return network.eval()


class TorchClassifier(CheckpointClassifier):
    """A model on a torch device, in float32."""

    #: A GPU is no faster with more; what it is given comes in batches of `predict.batch_size` and a little more.
    batch_size = 256

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        super().__init__(checkpoint, device)
        self._network = build_network(checkpoint).to(device)

    def embed(self, mel: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
        # cuDNN rounds convolutions to 10 bits by default (TF32); here a GPU must give what a CPU gives.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # Copies, since arrays of records are read-only and torch has no such thing.
            batch = (torch.from_numpy(array.copy()).to(self.device) for array in (mel, features))
            embeddings: NDArray[np.float32] = self._network.fuse(self._network.embed(*batch)).cpu().numpy()
            return embeddings
