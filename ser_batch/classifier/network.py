"""The hybrid network on one page: a mel spectrogram and 13 voice features in, one logit per emotion out.

    mel (B, 128, 130) dB ─ level, z-score, two views ─ 4 convolutions ─ attentive mean + deviation in time ─ 256 ┐
    features (B, 13) ─ impute, z-score, + missing mask ─ 2 linear layers ─ 128 ──────────────────────────────────┴ 384
    384 ─ fusion 128 ─ logits (B, n_labels)

Every normalisation happens inside, from statistics of the training data kept as buffers, so that each runtime that has
the weights computes the same. Only plain convolutions: grouped ones were silently wrong on MPS in some releases.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ser_batch.classifier.network_config import N_DENSE, NetworkConfig

__all__ = ["HybridCNN"]


class MelNorm(nn.Module):
    """Makes a window independent of its level; then each band has mean 0, deviation 1 over audible training frames.

    The second view takes from each band its mean over the window's own audible frames.
    """

    band_mean: Tensor
    band_std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("band_mean", torch.zeros(config.n_bands))
        self.register_buffer("band_std", torch.ones(config.n_bands))

    def relative(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return dB below the loudest cell of the window, limited, and 1 for audible frames, else 0."""
        peak = mel.amax(dim=(1, 2), keepdim=True)  # (B, 1, 1)
        below = (mel - peak).clamp(min=-self.config.dynamic_range_db)  # (B, 128, T)
        audible = (below.amax(dim=1) >= -self.config.audible_range_db).to(mel.dtype)  # (B, T)
        return below, audible

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        below, audible = self.relative(mel)
        z = (below - self.band_mean[:, None]) / self.band_std[:, None]
        if self.config.n_views == 1:
            return z[:, None], audible
        weight = audible[:, None, :]
        # At least the frame of the loudest cell is audible.
        own_mean = (z * weight).sum(dim=2, keepdim=True) / weight.sum(dim=2, keepdim=True)
        return torch.stack([z, z - own_mean], dim=1), audible  # (B, views, 128, T), (B, T)


class DenseNorm(nn.Module):
    """Replaces undefined features by their training mean and tells the next layer which ones were undefined."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(N_DENSE))
        self.register_buffer("std", torch.ones(N_DENSE))

    def forward(self, features: Tensor) -> Tensor:
        missing = torch.isnan(features)  # (B, 13)
        known = torch.where(missing, self.mean, features)
        z = ((known - self.mean) / self.std).clamp(-4.0, 4.0)
        return torch.cat([z, missing.to(z.dtype)], dim=1)  # (B, 26)


class Block(nn.Module):
    """3x3 convolution, batch norm, ReLU, max-pooling."""

    def __init__(self, n_in: int, n_out: int, stride: tuple[int, int], pool: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(n_out)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(x)))
        return x if self.pool == (1, 1) else functional.max_pool2d(x, self.pool, ceil_mode=True)


class AttentivePool(nn.Module):
    """Mean and deviation over time, weighted per channel by attention among audible steps (Okabe et al. 2018)."""

    def __init__(self, n_channels: int, n_units: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_channels, n_units)
        self.score = nn.Linear(n_units, n_channels)

    def forward(self, x: Tensor, audible: Tensor) -> Tensor:
        # x (B, S, C), audible (B, S). An additive mask leaves uniform weights where nothing is audible.
        scores = self.score(torch.tanh(self.hidden(x))) + (audible[:, :, None] - 1.0) * 1e4
        weights = torch.softmax(scores, dim=1)
        mean = (weights * x).sum(dim=1, keepdim=True)  # (B, 1, C)
        # Not by the mean of squares: the square root near 0 would show its rounding, another one on each device.
        deviation = (weights * (x - mean).square()).sum(dim=1).clamp(min=1e-4).sqrt()
        return torch.cat([mean.squeeze(1), deviation], dim=1)  # (B, 2C)


class HybridCNN(nn.Module):
    """See the module's picture; `config` fixes the shapes."""

    def __init__(self, config: NetworkConfig, dropout: float = 0.3) -> None:
        super().__init__()
        self.config = config
        self.mel_norm = MelNorm(config)
        self.dense_norm = DenseNorm()
        n_in = (config.n_views, *config.channels[:-1])
        self.blocks = nn.ModuleList(
            Block(*shape) for shape in zip(n_in, config.channels, config.strides, config.pools, strict=True)
        )
        n_step = config.channels[-1] * config.n_bands_out  # bands stay apart: pitch and formants are places there
        self.attention = AttentivePool(n_step, config.attention_units)
        self.mel_out = nn.Linear(2 * n_step, config.mel_units)
        self.dense_in = nn.Linear(2 * N_DENSE, config.dense_units)
        self.dense_out = nn.Linear(config.dense_units, config.dense_units)
        self.fusion = nn.Linear(config.mel_units + config.dense_units, config.fusion_units)
        self.head = nn.Linear(config.fusion_units, config.n_labels)
        self.dropout = nn.Dropout(dropout)

    def embed_mel(self, mel: Tensor) -> Tensor:
        x, audible = self.mel_norm(mel)  # (B, 2, 128, 130), (B, 130)
        for block in self.blocks:
            x = block(x)  # (B, 160, 8, 17) after the last one, with the default config
        x = x.permute(0, 3, 1, 2).flatten(2)  # (B, S, C * bands)
        stride, steps = self.config.time_stride, x.shape[1]
        missing = steps * stride - mel.shape[2]
        audible = functional.pad(audible, (0, missing)).view(-1, steps, stride).amax(dim=2)  # (B, S)
        return functional.relu(self.mel_out(self.dropout(self.attention(x, audible))))  # (B, 256)

    def embed_dense(self, features: Tensor) -> Tensor:
        x = functional.relu(self.dense_in(self.dense_norm(features)))
        return functional.relu(self.dense_out(self.dropout(x)))  # (B, 128)

    def embed(self, mel: Tensor, features: Tensor) -> Tensor:
        """Return both branches side by side (B, 384), the mel branch first."""
        return torch.cat([self.embed_mel(mel), self.embed_dense(features)], dim=1)

    def fuse(self, embedding: Tensor) -> Tensor:
        """Return the fused embedding (B, fusion_units), from which the head and auxiliary training heads predict."""
        return functional.relu(self.fusion(self.dropout(embedding)))

    def forward(self, mel: Tensor, features: Tensor) -> Tensor:
        """Return logits (B, n_labels) from mel (B, 128, 130) in dB and features (B, 13), NaN = undefined."""
        return self.head(self.dropout(self.fuse(self.embed(mel, features))))
