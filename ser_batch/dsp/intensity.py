"""Intensity over time, as Praat's "To Intensity" with its defaults, but in dB re full scale."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from ser_batch.dsp.frames import HOP_S, Doubles, Singles, frame_grid, frame_times
from ser_batch.dsp.kernels import kernel

__all__ = ["Intensity", "intensity"]

#: Whole length of the taper: 6.4 periods of 100 Hz.
_FRAME_S: Final = 0.064


@dataclass(frozen=True, slots=True, eq=False)
class Intensity:
    """Intensity of a signal over time.

    Attributes
    ----------
    times_s : float64 (n_frames,)
        Centres of the frames, from the start of the signal.
    level_db : float64 (n_frames,)
        dB re full scale (0 = mean square of 1); NaN in digital silence.
    """

    times_s: Doubles
    level_db: Doubles


def intensity(samples: Singles, sample_rate_hz: float) -> Intensity:
    """Measure intensity every 10 ms: mean square under a Kaiser taper of 64 ms, less the mean of the frame.

    Parameters
    ----------
    samples : float32 (n_samples,)
    sample_rate_hz : float

    Returns
    -------
    Intensity
        Without frames when the signal is shorter than 64 ms.

    Notes
    -----
    Other than Praat: re full scale in place of 2e-5 Pa, that is 93.98 dB lower. Files carry no sound pressure.
    """
    n_frames, first_s = frame_grid(len(samples) / sample_rate_hz, _FRAME_S)
    level_db = np.full(n_frames, np.nan)
    if n_frames:
        _levels(samples, float(sample_rate_hz), first_s, _taper(float(sample_rate_hz)), level_db)
    return Intensity(frame_times(n_frames, first_s), level_db)


@functools.lru_cache(maxsize=8)
def _taper(sample_rate_hz: float) -> Singles:
    half = math.floor(0.5 * _FRAME_S * sample_rate_hz)
    place = np.arange(-half, half + 1) / (0.5 * _FRAME_S * sample_rate_hz)
    return np.i0((2 * np.pi**2 + 0.5) * np.sqrt(np.maximum(0.0, 1.0 - place**2))).astype(np.float32)


@kernel
def _levels(samples: Singles, sample_rate_hz: float, first_s: float, taper: Singles, level_db: Doubles) -> None:
    half = len(taper) // 2
    for frame in range(len(level_db)):
        middle = round((first_s + frame * HOP_S) * sample_rate_hz - 0.5)
        low = max(middle - half, 0)
        high = min(middle + half + 1, len(samples))
        part, weights = samples[low:high], taper[low - middle + half :]
        total = np.float32(0.0)
        for i in range(len(part)):
            total += part[i]
        mean = total / np.float32(len(part))
        energy = np.float32(0.0)
        weight = np.float32(0.0)
        for i in range(len(part)):
            value = part[i] - mean
            energy += value * value * weights[i]
            weight += weights[i]
        if energy > 0.0:
            level_db[frame] = 10.0 * math.log10(energy / weight)
