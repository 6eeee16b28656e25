"""Harmonics-to-noise ratio by autocorrelation (Boersma 1993), as Praat's "To Harmonicity (ac)" with its defaults."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from ser_batch.dsp.autocorrelation import (
    CorrelationPlan,
    correlations,
    interpolate_peak,
    make_plan,
    measure_frames,
    normalise,
)
from ser_batch.dsp.frames import (
    Doubles,
    Indices,
    Singles,
    fast_length,
    frame_grid,
    frame_times,
    gaussian_taper,
)
from ser_batch.dsp.kernels import inner_kernel, kernel

__all__ = ["Harmonicity", "harmonicity"]

_PERIODS_PER_FRAME: Final = 4.5
_SILENCE_THRESHOLD: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Harmonicity:
    """The harmonics-to-noise ratio of a signal over time.

    Attributes
    ----------
    times_s : float64 (n_frames,)
        Centres of the frames, from the start of the signal.
    hnr_db : float64 (n_frames,)
        NaN where the signal is quiet: the frame's peak is below 0.1 to 0.2 of the signal's.
    """

    times_s: Doubles
    hnr_db: Doubles


def harmonicity(samples: Singles, sample_rate_hz: float, floor_hz: float = 75.0) -> Harmonicity:
    """Measure the harmonics-to-noise ratio every 10 ms.

    The ratio is ``10 log10(r / (1 - r))``, with ``r`` the highest local maximum of the autocorrelation of the frame,
    divided by that of its taper, at lags up to the longest period.

    Parameters
    ----------
    samples : float32 (n_samples,)
    sample_rate_hz : float
    floor_hz : float
        Lowest F0. A frame has a Gaussian taper with an effective length of 4.5 periods of `floor_hz` (twice that in
        all).

    Returns
    -------
    Harmonicity
        Without frames when the signal is shorter than nine periods of `floor_hz` (0.12 s).

    Notes
    -----
    Other than Praat: the transform is in single precision and folds the ends of the frame, which alias by less than
    1e-4; the peak is found on a table of 32 sinc-interpolated steps per sample of depth 70 (Praat: 700).
    """
    plan = _plan(float(sample_rate_hz), float(floor_hz))
    n_frames, first_s = frame_grid(len(samples) / sample_rate_hz, 2 * _PERIODS_PER_FRAME / floor_hz)
    hnr_db = np.full(n_frames, np.nan)
    levels = measure_frames(samples, plan, n_frames, first_s)
    # At a lower intensity "unvoiced" has a strength of at least 1, which no correlation exceeds.
    analysed = np.flatnonzero(levels.intensity > _SILENCE_THRESHOLD)
    for frames, correlation, _ in correlations(samples, levels, analysed, plan, with_power=False):
        _harmonics_to_noise(correlation, frames, levels.intensity, plan, hnr_db)
    return Harmonicity(frame_times(n_frames, first_s), hnr_db)


@functools.lru_cache(maxsize=8)
def _plan(sample_rate_hz: float, floor_hz: float) -> CorrelationPlan:
    # A Gaussian taper is twice as long as its effective length.
    n_frame = 2 * (math.floor(2 * _PERIODS_PER_FRAME / floor_hz * sample_rate_hz) // 2 - 1)
    # Its autocorrelation is below 3e-5 beyond 0.66 of its length: what wraps round from there may alias.
    n_fft = fast_length(math.ceil((0.66 + 0.5 / _PERIODS_PER_FRAME) * n_frame))
    return make_plan(sample_rate_hz, floor_hz, gaussian_taper(n_frame), 2 * _PERIODS_PER_FRAME, n_fft)


@kernel
def _harmonics_to_noise(
    correlation: Singles, frames: Indices, intensity: Singles, plan: CorrelationPlan, hnr_db: Doubles
) -> None:
    """Write the ratios of frames; row `i` of `correlation` is that of frame ``frames[i]``."""
    r = np.empty(len(plan.correction), np.float32)
    for row in range(len(frames)):
        if not normalise(correlation[row], plan, r):
            continue
        quiet = max(0.0, 2.0 - intensity[frames[row]] / _SILENCE_THRESHOLD)
        best = _highest_peak(r, plan, quiet)
        if best > quiet:
            hnr_db[frames[row]] = 10.0 * math.log10(best / max(1.0 - best, 1e-15))


@inner_kernel
def _highest_peak(r: Singles, plan: CorrelationPlan, quiet: float) -> float:
    """Return the height of the highest peak of `r`, or `quiet` if none exceeds it."""
    best = quiet
    for i in range(2, min(plan.longest_lag, len(r) - 1)):
        if r[i] <= 0.0 or r[i] <= r[i - 1] or r[i] < r[i + 1]:
            continue
        slope = 0.5 * (r[i + 1] - r[i - 1])
        curvature = (r[i] - r[i - 1]) + (r[i] - r[i + 1])
        # Sinc interpolation adds to a peak about what a parabola would, in noise sometimes 0.1 or 0.2 more.
        if r[i] + slope * slope / curvature + (0.25 if best == quiet else 0.1) >= best:
            best = max(best, interpolate_peak(r, i, plan.table)[1])
    return best
