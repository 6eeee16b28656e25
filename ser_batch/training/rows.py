"""Windows as tensors on the training device, and from windows back to clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ser_batch.classifier.network import HybridCNN
from ser_batch.classifier.pooling import window_shares
from ser_batch.training import metrics
from ser_batch.training.dataset import NO_TARGET, Dataset
from ser_batch.training.features import STEP_DB, FeatureTable

__all__ = ["Rows", "WindowScores"]


@dataclass(frozen=True, slots=True, eq=False)
class WindowScores:
    """What a network says of the windows of some clips."""

    #: float32 (n_windows, n_labels).
    logits: NDArray[np.float32]
    #: int64 (n_windows,): position of the window's clip among `clips`.
    position: NDArray[np.int64]
    #: float64 (n_windows,): share of the window in its clip; the shares of a clip sum to 1.
    share: NDArray[np.float64]
    #: int64 (n_clips,): indices into the dataset.
    clips: NDArray[np.int64]

    def pool(self, window_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted mean over the windows of each clip, (n_clips, n_labels)."""
        pooled = np.zeros((len(self.clips), window_probabilities.shape[1]))
        np.add.at(pooled, self.position, self.share[:, None] * window_probabilities)
        return pooled

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """Return the probabilities of each clip, (n_clips, n_labels)."""
        return self.pool(metrics.softmax(self.logits, temperature))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """All windows of all copies of a dataset's clips, on one device."""

    #: uint8 (n_rows, n_bands, n_frames): steps below the loudest cell.
    codes: Tensor
    #: float32 (n_rows, 13), NaN = undefined.
    dense: Tensor
    #: int64 (n_rows,) each.
    target: Tensor
    category: Tensor
    corpus: Tensor
    #: Arrays beside the tensors, (n_rows,).
    clip: NDArray[np.int64]
    copy: NDArray[np.int64]
    #: float64: share of the window in its copy of the clip.
    share: NDArray[np.float64]
    #: Of the audio; with the number of bands it says which frequencies they are.
    sample_rate_hz: int
    #: float32 (n_rows, n_labels): what a teacher says of each, NaN = nothing; None without a teacher.
    taught: Tensor | None = None

    @classmethod
    def build(cls, table: FeatureTable, dataset: Dataset, device: str, sample_rate_hz: int = 22_050) -> Rows:
        """Join features, of audio of a sample rate, with labels and move them to `device`."""
        return cls(
            codes=torch.from_numpy(table.mel).to(device),
            dense=torch.from_numpy(table.dense).to(device),
            target=torch.from_numpy(dataset.target[table.clip]).to(device),
            category=torch.from_numpy(dataset.category[table.clip]).to(device),
            corpus=torch.from_numpy(dataset.corpus[table.clip]).to(device),
            clip=table.clip,
            copy=table.copy,
            share=window_shares(table.active_s, table.clip * (1 + table.copy.max(initial=0)) + table.copy),
            sample_rate_hz=sample_rate_hz,
        )

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def mel(self, rows: Tensor) -> Tensor:
        """Return spectrograms (n, n_bands, n_frames) in dB below their loudest cell; the network asks for no more."""
        return self.codes[rows].to(torch.float32) * -STEP_DB

    def sampling_weights(
        self, clip_weights: NDArray[np.float64], clips: NDArray[np.int64], copy_share: float = 0.5
    ) -> Tensor:
        """Return the chance of each row when clips, then copies, then windows by their share are drawn.

        `copy_share` of the draws go to augmented copies, all alike; the others to the clips as they are.
        """
        weight = np.zeros(len(clip_weights))
        weight[clips] = clip_weights[clips]
        n_copies = int(self.copy.max(initial=0))
        of_copy = np.where(self.copy > 0, copy_share / max(n_copies, 1), 1.0 - copy_share if n_copies else 1.0)
        return torch.from_numpy(weight[self.clip] * self.share * of_copy)

    def score(self, network: HybridCNN, clips: NDArray[np.int64], copy: int = 0, batch_size: int = 512) -> WindowScores:
        """Run `network`, in evaluation mode, over one copy of each of `clips`."""
        wanted = np.flatnonzero(np.isin(self.clip, clips) & (self.copy == copy))
        present = np.unique(self.clip[wanted])
        logits = []
        network.eval()
        with torch.inference_mode():
            for start in range(0, len(wanted), batch_size):
                rows = torch.from_numpy(wanted[start : start + batch_size]).to(self.device)
                logits.append(network(self.mel(rows), self.dense[rows]).float().cpu().numpy())
        return WindowScores(
            logits=np.concatenate(logits) if logits else np.zeros((0, network.config.n_labels), np.float32),
            position=np.searchsorted(present, self.clip[wanted]),
            share=self.share[wanted],
            clips=present,
        )

    def labelled(self, clips: NDArray[np.int64], dataset: Dataset) -> NDArray[np.int64]:
        """Return those of `clips` that have a target and at least one window."""
        return clips[(dataset.target[clips] != NO_TARGET) & np.isin(clips, self.clip)]
