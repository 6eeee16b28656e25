"""Autocorrelation of frames by way of their power spectra, and its peaks between samples.

Shared by F0 and harmonics-to-noise ratio, which differ in taper and threshold only (Boersma 1993).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from ser_batch.dsp.frames import HOP_S, Doubles, Indices, Singles
from ser_batch.dsp.kernels import finite_kernel, inner_kernel, kernel
from ser_batch.dsp.lanes import LANES, workspace
from ser_batch.dsp.transform import (
    BATCH_FRAMES,
    load_frames,
    mirror,
    padded,
    power_of_pairs,
    transform,
    twiddles,
    unload_frames,
)

__all__ = [
    "CorrelationPlan",
    "FrameLevels",
    "correlate",
    "correlations",
    "interpolate_peak",
    "make_plan",
    "measure_frames",
    "normalise",
]

#: Taps on each side of the sinc interpolation, and its steps per sample.
_SINC_DEPTH: Final = 70
_SINC_STEPS: Final = 32
#: Frames that are autocorrelated at once.
_FRAMES_AT_ONCE: Final = 128


class CorrelationPlan(NamedTuple):
    """What depends on the rate and the taper only."""

    sample_rate_hz: float
    #: Samples of a frame, and of the longest period.
    n_frame: int
    n_period: int
    #: The longest lag at which a peak is looked for; the interpolation reads beyond it.
    longest_lag: int
    taper: Singles
    #: One over the taper's own autocorrelation, at each lag that is read.
    correction: Singles
    #: Weights of the sinc interpolation.
    table: Singles
    #: Twiddle factors of the transform.
    factors: Singles


class FrameLevels(NamedTuple):
    """Where the frames of a signal begin, their means, and how loud they are."""

    #: int64 (n_frames,): first sample.
    starts: Indices
    #: float32 (n_frames,): mean over two of the longest periods.
    means: Singles
    #: float32 (n_frames,): peak within the middle period, under the taper, over the peak of the whole signal.
    intensity: Singles


def make_plan(sample_rate_hz: float, floor_hz: float, taper: Doubles, n_periods: float, n_fft: int) -> CorrelationPlan:
    """Prepare autocorrelations of frames under `taper`, of which `n_periods` of `floor_hz` count.

    Raises
    ------
    ValueError
        `n_fft` is shorter than half a frame.
    """
    n_frame = len(taper)
    longest_lag = min(math.floor(n_frame / n_periods) + 2, n_frame)
    if 2 * n_fft < n_frame:
        raise ValueError(f"a transform of {n_fft} samples cannot hold a frame of {n_frame}")
    n_lags = min(longest_lag + _SINC_DEPTH + 2, n_frame, n_fft - LANES)
    spectrum = np.fft.rfft(taper, 2 * n_frame)
    correlation = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[:n_lags]
    return CorrelationPlan(
        sample_rate_hz,
        n_frame,
        math.floor(sample_rate_hz / floor_hz),
        longest_lag,
        padded(taper),
        (correlation[0] / correlation).astype(np.float32),
        _sinc_table(),
        twiddles(n_fft),
    )


@functools.cache
def _sinc_table() -> Singles:
    """Return the weights of sinc interpolation under a raised cosine.

    Row ``k`` of the float32 (_SINC_STEPS + 1, 2 * _SINC_DEPTH) table interpolates at ``k / _SINC_STEPS`` after a
    sample, from `_SINC_DEPTH` samples up to and including that one and as many after it.
    """
    fraction = np.arange(_SINC_STEPS + 1)[:, None] / _SINC_STEPS
    offset = np.arange(1 - _SINC_DEPTH, _SINC_DEPTH + 1)[None, :]
    distance = fraction - offset
    reach = np.where(offset <= 0, fraction + _SINC_DEPTH, _SINC_DEPTH + 1 - fraction)
    return (np.sinc(distance) * (0.5 + 0.5 * np.cos(np.pi * distance / reach))).astype(np.float32)


def measure_frames(samples: Singles, plan: CorrelationPlan, n_frames: int, first_s: float) -> FrameLevels:
    """Locate `n_frames` frames, 10 ms apart from `first_s` on, and measure their means and peaks."""
    levels = FrameLevels(np.zeros(n_frames, np.int64), np.zeros(n_frames, np.float32), np.zeros(n_frames, np.float32))
    if n_frames:
        _measure(samples, plan, first_s, levels)
    return levels


def correlations(
    samples: Singles, levels: FrameLevels, frames: Indices, plan: CorrelationPlan, with_power: bool
) -> Iterator[tuple[Indices, Singles, Singles]]:
    """Autocorrelate some of the frames of a signal, so many at a time that they stay in the cache of the processor.

    Kernels that read them do not hold the transform themselves: that would be compiled with each of them.

    Yields
    ------
    here : int64 (n,)
        The next of `frames`.
    correlation, power : float32 (n or more, n_columns)
        As `correlate` gives them; written anew for the frames after them. `power` is empty unless it is asked for.
    """
    buffers = workspace(2 * len(plan.factors))
    n_rows = _up(min(len(frames), _FRAMES_AT_ONCE), BATCH_FRAMES)
    correlation = np.empty((n_rows, _up(len(plan.correction), LANES)), np.float32)
    power = np.empty((n_rows, _up(len(plan.factors) // 2 + 1, LANES)) if with_power else (0, 0), np.float32)
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        here = frames[first : first + _FRAMES_AT_ONCE]
        correlate(samples, levels.starts[here], levels.means[here], plan, buffers, correlation, power)
        yield here, correlation, power


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@finite_kernel
def _measure(samples: Singles, plan: CorrelationPlan, first_s: float, levels: FrameLevels) -> None:
    n_samples = len(samples)
    half_frame = plan.n_frame // 2
    half_period = min(plan.n_period // 2 + 1, half_frame)
    taper = plan.taper[half_frame - half_period : half_frame + half_period]
    total = 0.0
    for i in range(n_samples):
        total += samples[i]
    mean = np.float32(total / n_samples)
    peak = np.float32(0.0)
    for i in range(n_samples):
        peak = max(peak, abs(samples[i] - mean))
    for frame in range(len(levels.starts)):
        left = math.floor((first_s + frame * HOP_S) * plan.sample_rate_hz - 0.5)
        levels.starts[frame] = left + 1 - half_frame
        around = samples[max(left + 1 - plan.n_period, 0) : min(left + plan.n_period + 1, n_samples)]
        local_total = np.float32(0.0)
        for i in range(len(around)):
            local_total += around[i]
        local_mean = local_total / np.float32(len(around))
        middle = samples[left + 1 - half_period : left + 1 + half_period]
        local_peak = np.float32(0.0)
        for i in range(len(middle)):
            local_peak = max(local_peak, abs((middle[i] - local_mean) * taper[i]))
        levels.means[frame] = local_mean
        if peak > 0.0:
            levels.intensity[frame] = min(local_peak / peak, np.float32(1.0))


@kernel
def correlate(
    samples: Singles,
    starts: Indices,
    means: Singles,
    plan: CorrelationPlan,
    buffers: tuple[Singles, Singles],
    correlation: Singles,
    power: Singles,
) -> None:
    """Autocorrelate frames.

    Parameters
    ----------
    samples : float32 (n_samples,)
    starts, means : int64, float32 (n,)
    plan : CorrelationPlan
    buffers : tuple of two float32 (2 n_fft, LANES)
    correlation : float32 (n up to a multiple of BATCH_FRAMES, n_columns)
        Receives the autocorrelations, times a constant; `n_columns` is at least the number of lags, up to a multiple
        of LANES.
    power : float32 (as many, n_columns) or (0, 0)
        Receives the power spectra, if it has room.
    """
    n_bins = len(plan.factors) // 2 + 1
    for first in range(0, len(starts), BATCH_FRAMES):
        last = min(first + BATCH_FRAMES, len(starts))
        load_frames(samples, starts[first:last], means[first:last], plan.taper, buffers[0])
        batch, other = transform(buffers[0], buffers[1], plan.factors)
        power_of_pairs(batch, n_bins, batch)
        mirror(batch, n_bins)
        if power.shape[0] > 0:
            unload_frames(batch, power.shape[1], first, power)
        batch, other = transform(batch, other, plan.factors)
        unload_frames(batch, correlation.shape[1], first, correlation)


@inner_kernel
def normalise(correlation: Singles, plan: CorrelationPlan, r: Singles) -> bool:
    """Write one autocorrelation, divided by its value at lag 0 and by the taper's, to `r`; return False for an empty
    frame."""
    # Below this, single precision has no digits left.
    if not correlation[0] > 1e-32:
        return False
    scale = np.float32(1.0) / correlation[0]
    for i in range(len(r)):
        r[i] = correlation[i] * scale * plan.correction[i]
    return True


@inner_kernel
def interpolate_peak(r: Singles, lag: int, table: Singles) -> tuple[float, float]:
    """Maximise the sinc interpolation of a correlation near a local maximum.

    Parameters
    ----------
    r : float32 (n_lags,)
        Symmetric about lag 0.
    lag : int
        Where `r` has a local maximum; 1 or more.
    table : float32
        Of a `CorrelationPlan`.

    Returns
    -------
    place : float
        Within one sample of `lag`.
    height : float
        Mirrored at 1: heights above 1 come from frames that are short against the period.
    """
    slope = 0.5 * (r[lag + 1] - r[lag - 1])
    curvature = (r[lag] - r[lag - 1]) + (r[lag] - r[lag + 1])
    steps = table.shape[0] - 1
    place = round((lag + slope / curvature) * steps)
    before = _interpolate(r, place - 1, table)
    middle = _interpolate(r, place, table)
    after = _interpolate(r, place + 1, table)
    while after > middle and place < (lag + 1) * steps:
        place += 1
        before, middle, after = middle, after, _interpolate(r, place + 1, table)
    while before > middle and place > (lag - 1) * steps:
        place -= 1
        before, middle, after = _interpolate(r, place - 1, table), before, middle
    curvature = 2.0 * middle - before - after
    slope = 0.5 * (after - before)
    shift = slope / curvature if curvature > 0.0 else 0.0
    height = middle + 0.5 * slope * shift
    return (place + shift) / steps, 1.0 / height if height > 1.0 else height


@inner_kernel
def _interpolate(r: Singles, place: int, table: Singles) -> float:
    """Interpolate `r` at ``place / steps``."""
    steps = table.shape[0] - 1
    side = table.shape[1] // 2
    left = place // steps
    depth = min(side, len(r) - 1 - left)
    weights = table[place - left * steps, side - depth : side + depth]
    first = left - depth + 1
    n_mirrored = max(-first, 0)
    value = np.float32(0.0)
    for k in range(n_mirrored):
        value += r[-first - k] * weights[k]
    source = r[first + n_mirrored : left + depth + 1]
    weights = weights[n_mirrored:]
    for k in range(len(source)):
        value += source[k] * weights[k]
    return float(value)
