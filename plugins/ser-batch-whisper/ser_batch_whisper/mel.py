"""Whisper's log-mel spectrogram: 16 kHz, 80 bands, 100 frames a second."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ser_batch import Clip, FeatureBlock, FeatureSpec

__all__ = ["FLOOR", "N_BANDS", "WhisperMelExtractor", "log_mel"]

RATE_HZ = 16_000
N_BANDS = 80
_N_FFT, _HOP = 400, 160
#: Lowest value, log10 of a power: silence and padding.
FLOOR = -10.0


class WhisperMelExtractor:
    """Log10 power in 80 mel bands, 100 frames a second, of each window alone; the floor of -10 where the audio ends."""

    def __init__(self, window_s: float = 3.0) -> None:
        self.spec = FeatureSpec("whisper_mel", version=1, tensor_shape=(N_BANDS, round(100 * window_s)))

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Compute the spectrogram of each window."""
        assert self.spec.tensor_shape is not None
        tensor = np.full((len(windows_s), *self.spec.tensor_shape), FLOOR, np.float32)
        for row, (start_s, end_s) in enumerate(windows_s):
            frames = log_mel(clip.window(start_s, end_s), clip.sample_rate_hz)[:, : tensor.shape[2]]
            tensor[row, :, : frames.shape[1]] = frames
        return FeatureBlock("whisper_mel", np.empty((len(windows_s), 0), np.float32), np.empty(0, np.float32), tensor)


def log_mel(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Return log10 power, float32 (80, n_frames), of mono samples at any rate; at least one frame of 25 ms."""
    import soxr

    if sample_rate_hz != RATE_HZ and len(samples):
        samples = soxr.resample(samples, sample_rate_hz, RATE_HZ, quality="HQ")
    if len(samples) < _N_FFT:
        samples = np.pad(samples, (0, _N_FFT - len(samples)))
    padded = np.pad(samples, _N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _N_FFT)[::_HOP][: len(samples) // _HOP]
    power = np.abs(np.fft.rfft(frames * _window(), axis=1)) ** 2
    return np.log10(np.maximum(power @ _filters().T, 1e-10)).T.astype(np.float32)


@lru_cache(maxsize=1)
def _window() -> NDArray[np.float32]:
    """Periodic Hann window (400,)."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_N_FFT) / _N_FFT)).astype(np.float32)


@lru_cache(maxsize=1)
def _filters() -> NDArray[np.float32]:
    """Triangles of area 1 on Slaney's mel scale, (80, 201): linear below 1 kHz, logarithmic above."""
    step_hz, log_step = 200 / 3, np.log(6.4) / 27
    mels = np.linspace(0, 15 + np.log(8.0) / log_step, N_BANDS + 2)
    edges_hz = np.where(mels < 15, mels * step_hz, 1000 * np.exp(log_step * (mels - 15)))
    bins_hz = np.arange(_N_FFT // 2 + 1) * RATE_HZ / _N_FFT
    low, centre, high = (edges_hz[part, None] for part in (slice(0, -2), slice(1, -1), slice(2, None)))
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return (np.clip(np.minimum(rising, falling), 0, None) * 2 / (high - low)).astype(np.float32)
