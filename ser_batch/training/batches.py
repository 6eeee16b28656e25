"""Draws the windows of a training step, no two alike: crops, warps, channels, masks and mixup, on spectrograms.

What costs hardly anything here is done here, anew for each draw; what needs the audio itself is in `augment`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.classifier.network import HybridCNN
from ser_batch.dsp.mel import band_at_hz, band_centre_hz
from ser_batch.training.features import STEP_DB
from ser_batch.training.rows import Rows
from ser_batch.training.train_config import FitConfig

__all__ = ["Batch", "draw_batch", "factors_of"]

#: Features that change with the size of a speaker, and with the pace.
_F0_MEDIAN_ST = DENSE_FEATURES.index("prosodic__f0_median_st")
_F1_HZ = DENSE_FEATURES.index("voice_quality__f1_mean_hz")
_SLOPES = [DENSE_FEATURES.index(f"prosodic__f0_{name}_st_per_s") for name in ("slope", "final_slope")]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one training step sees."""

    #: float32 (B, n_bands, T): dB below the loudest cell.
    mel: Tensor
    #: float32 (B, 13), NaN = undefined.
    features: Tensor
    #: Labels, categories and corpora, int64 (B,) each.
    targets: tuple[Tensor, Tensor, Tensor]
    #: float32 (B, n_labels), NaN = nothing: what a teacher says; None without a teacher.
    taught: Tensor | None = None
    #: Order in which the batch was mixed with itself, and the share of the first; None without mixup.
    order: Tensor | None = None
    share: float = 1.0

    def mixed_targets(self) -> list[tuple[float, Tensor, Tensor, Tensor, Tensor | None]]:
        """Return the targets of each part of the mixture, with its share before them and what is taught behind them."""
        if self.order is None:
            return [(1.0, *self.targets, self.taught)]
        first, second, third = (part[self.order] for part in self.targets)
        taught = None if self.taught is None else self.taught[self.order]
        return [(self.share, *self.targets, self.taught), (1.0 - self.share, first, second, third, taught)]


def draw_batch(
    rows: Rows, index: Tensor, network: HybridCNN, config: FitConfig, generator: np.random.Generator
) -> Batch:
    """Return the windows at `index`, changed as `config` asks; the random numbers are torch's and `generator`'s."""
    features = rows.dense[index]
    targets = (rows.target[index], rows.category[index], rows.corpus[index])
    taught = None if rows.taught is None else rows.taught[index]
    voices = _Voices.draw(len(index), config, index.device)
    features = voices.of_features(features)
    order, share = None, 1.0
    if config.mixup:
        share = float(generator.beta(config.mixup, config.mixup))
        order = torch.randperm(len(index), device=index.device)
        features = share * features + (1 - share) * features[order]
    if config.branches == "dense":
        # The dense branch alone looks at no spectrogram.
        return Batch(features.new_zeros(len(index), 1, 1), features, targets, taught, order, share)
    mel = voices.of_spectrograms(rows.mel(index), config.crop_frames, network, rows.sample_rate_hz)
    if config.recolour:
        mel = _recolour(mel, config.recolour)
    if order is not None:
        mel = share * mel + (1 - share) * mel[order]
    masked = _mask(mel, config.band_masks, config.band_mask_bands, 1)[:, :, None]
    masked = masked | _mask(mel, config.frame_masks, config.frame_mask_frames, 2)[:, None, :]
    # What is masked takes the mean of its band: after normalisation that is 0.
    mel = torch.where(masked, network.mel_norm.band_mean[None, :, None], mel)
    return Batch(mel, features, targets, taught, order, share)


@dataclass(frozen=True, slots=True, eq=False)
class _Voices:
    """Another size of speaker, and another pace, for each window (vocal tract length perturbation, Jaitly 2013)."""

    #: Factors of all frequencies and of the pace, (B,); None leaves them.
    pitch: Tensor | None
    pace: Tensor | None

    @classmethod
    def draw(cls, count: int, config: FitConfig, device: torch.device) -> _Voices:
        return cls(*(factors_of(count, spread, device) for spread in (config.warp_frequency, config.warp_time)))

    def of_features(self, features: Tensor) -> Tensor:
        """Return the 13 features (B, 13) as these voices would have them; ratios and levels stay."""
        if self.pitch is None and self.pace is None:
            return features
        features = features.clone()
        if self.pitch is not None:
            features[:, _F0_MEDIAN_ST] += 12.0 * torch.log2(self.pitch)
            features[:, _F1_HZ] *= self.pitch
        if self.pace is not None:
            features[:, _SLOPES] *= self.pace[:, None]
        return features

    def of_spectrograms(self, mel: Tensor, crop_frames: int, network: HybridCNN, sample_rate_hz: int) -> Tensor:
        """Return a stretch (B, n_bands, T) of each window that overlaps what is audible; all of it without a crop."""
        n_frames = crop_frames or mel.shape[2]
        start = _crop_start(mel, n_frames, self.pace, network) if crop_frames else mel.new_zeros(len(mel))
        steps = torch.arange(n_frames, device=mel.device)
        if self.pitch is None and self.pace is None:
            columns = start.long()[:, None] + steps
            return mel.gather(2, columns[:, None, :].expand(-1, mel.shape[1], -1))
        frames = start[:, None] + (steps if self.pace is None else steps * self.pace[:, None])
        return _sample(mel, _source_bands(mel, self.pitch, sample_rate_hz), frames)


def factors_of(count: int, spread: float, device: torch.device) -> Tensor | None:
    """Return factors (count,) from 1 / (1 + spread) to 1 + spread, as many above 1 as below; None without a spread."""
    if not spread:
        return None
    return torch.exp((2 * torch.rand(count, device=device) - 1) * math.log1p(spread))


def _crop_start(mel: Tensor, n_frames: int, pace: Tensor | None, network: HybridCNN) -> Tensor:
    """Return the first frame (B,) of a random stretch of `n_frames`, read at `pace`, around what is audible."""
    _, audible = network.mel_norm.relative(mel)
    n_all = mel.shape[2]
    span = mel.new_full((len(mel),), n_frames) if pace is None else n_frames * pace
    place = torch.arange(n_all, device=mel.device)
    first = torch.where(audible > 0, place, n_all).amin(dim=1).clamp(max=n_all - 1)
    last = torch.where(audible > 0, place, -1).amax(dim=1).clamp(min=0)
    # All of a short sound, with 8 frames around it; a part of a long one.
    low = torch.minimum(first - 8, last + 8 - span)
    high = torch.maximum(first - 8, last + 8 - span)
    start = (low + torch.rand(len(mel), device=mel.device) * (high - low)).round()
    return torch.minimum(start, n_all - span).clamp(min=0)


def _source_bands(mel: Tensor, pitch: Tensor | None, sample_rate_hz: int) -> Tensor:
    """Return where each band of the result lies in the original, (B, n_bands) of bands."""
    band = np.arange(mel.shape[1], dtype=np.float64)
    if pitch is None:
        return torch.from_numpy(band).to(mel).expand(len(mel), -1)
    scale = (mel.shape[1], sample_rate_hz)
    source = band_at_hz(band_centre_hz(band, *scale) / pitch.cpu().numpy()[:, None], *scale)
    return torch.from_numpy(source.clip(0, mel.shape[1] - 1)).to(mel)


def _sample(mel: Tensor, bands: Tensor, frames: Tensor) -> Tensor:
    """Interpolate spectrograms at bands (B, n_bands) and frames (B, T); silence lies beyond the ends."""
    silence_db = 255 * STEP_DB
    size = mel.shape[1:]
    grid = torch.stack(
        [
            (frames * (2.0 / (size[1] - 1)) - 1)[:, None, :].expand(-1, bands.shape[1], -1),
            (bands * (2.0 / (size[0] - 1)) - 1)[:, :, None].expand(-1, -1, frames.shape[1]),
        ],
        dim=3,
    )
    return functional.grid_sample((mel + silence_db)[:, None], grid, align_corners=True)[:, 0] - silence_db


def _recolour(mel: Tensor, share: float) -> Tensor:
    """Change the channel of a share of spectrograms (B, n_bands, T) in dB below their peak."""
    n_bands = mel.shape[1]
    chosen, tilt, cut, floor, slope = torch.rand(5, len(mel), 1, 1, device=mel.device).unbind()
    band = torch.linspace(-0.5, 0.5, n_bands, device=mel.device)[:, None]
    # Up to 8 dB from the lowest to the highest band, either way.
    changed = mel + (tilt - 0.5) * 16.0 * band
    # One in three ends at a band in the upper 40 %: 8 kHz sampling, telephones, lossy codecs.
    changed = torch.where((cut < 1 / 3) & (band > 0.1 + 1.2 * cut), changed - 60.0, changed)
    # A noise floor 20 to 80 dB down, white to falling by 20 dB.
    changed = torch.maximum(changed, -20.0 - 60.0 * floor - 20.0 * slope * (band + 0.5))
    return torch.where(chosen < share, changed, mel)


def _mask(mel: Tensor, count: int, width: int, axis: int) -> Tensor:
    """Return (B, size of axis): True inside any of `count` random stretches of up to `width`."""
    size = mel.shape[axis]
    widths = torch.rand(len(mel), count, 1, device=mel.device) * width
    starts = torch.rand(len(mel), count, 1, device=mel.device) * (size - widths)
    place = torch.arange(size, device=mel.device)
    return ((place >= starts) & (place < starts + widths)).any(dim=1)
