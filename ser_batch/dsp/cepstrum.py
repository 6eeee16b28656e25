"""Smoothed cepstral peak prominence (CPPS), as Praat's "PowerCepstrogram: Get CPPS".

Hillenbrand and Houde (1996), "Acoustic correlates of breathy vocal quality", J. Speech Hear. Res. 39, 311-321;
settings as in the Acoustic Voice Quality Index (Maryn and Weenink 2015), with a step of 10 ms.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from ser_batch.dsp.frames import (
    Doubles,
    Indices,
    Singles,
    fast_length,
    frame_grid,
    frame_times,
    gaussian_taper,
)
from ser_batch.dsp.kernels import finite_inner_kernel, inner_kernel, kernel
from ser_batch.dsp.lanes import LANES, larger, load, log2, splat, store, workspace
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

__all__ = ["CepstralProminence", "cepstral_prominence"]

#: Whole length of the Gaussian taper: six periods of 60 Hz.
_FRAME_S: Final = 0.1
_BAND_HZ: Final = 5_000.0
_N_QUEFRENCIES: Final = 512
_SMOOTHING_S: Final = 0.001
#: Smoothing sums the first quefrencies anew each time.
_N_DIRECT: Final = 16
_PEAK_HZ: Final = (60.0, 330.0)
#: -130 dB re full scale: a frame with less power about its mean is digital silence, and what rounding left of it.
_SILENT_POWER: Final = 1e-13


@dataclass(frozen=True, slots=True, eq=False)
class CepstralProminence:
    """Smoothed cepstral peak prominence over time.

    Attributes
    ----------
    times_s : float64 (n_frames,)
        Centres of the frames, from the start of the signal.
    cpps_db : float64 (n_frames,)
        NaN in digital silence: frames whose power about their mean is below -130 dB re full scale.
    """

    times_s: Doubles
    cpps_db: Doubles


def cepstral_prominence(samples: Singles, sample_rate_hz: float, duration_s: float) -> CepstralProminence:
    """Measure how far the cepstral peak at the period stands out from the trend, every 10 ms.

    Parameters
    ----------
    samples : float32 (n_samples,)
        Pre-emphasised from 50 Hz, at 10 kHz or more.
    sample_rate_hz : float
    duration_s : float
        Of the signal before its rate was changed; sets the grid of frames.

    Returns
    -------
    CepstralProminence
        Without frames when the signal is shorter than 0.1 s.

    Notes
    -----
    Smoothed over 1 ms of quefrency, not over time; peak between 60 and 330 Hz, refined by a parabola; straight trend
    over all quefrencies, fitted robustly (Theil's incomplete method): what Praat does when the index's script asks
    for a trend from 0.001 to 0 s. Other than Praat: the band ends near 4.9 kHz in place of 5 kHz, since
    the spectrum is read off one at a higher rate in place of resampling to 10 kHz.
    """
    plan = _plan(float(sample_rate_hz))
    n_frames, first_s = frame_grid(duration_s, _FRAME_S)
    times_s = frame_times(n_frames, first_s)
    starts = np.rint((times_s - 0.5 * _FRAME_S) * sample_rate_hz - 0.5).astype(np.int64)
    rows = 2 * max(len(plan.factors), 2 * _N_QUEFRENCIES)
    cpps_db = np.full(n_frames, np.nan)
    _measure(samples, starts, plan, workspace(rows), cpps_db)
    return CepstralProminence(times_s, cpps_db)


class _Plan(NamedTuple):
    """What depends on the rate only."""

    taper: Singles
    n_frame: int
    #: Distance between quefrencies.
    step_s: float
    #: Quefrencies over which to average; even.
    width: int
    #: Twiddle factors of the transform to the spectrum, and of that to the cepstrum.
    factors: Singles
    back_factors: Singles


@functools.lru_cache(maxsize=8)
def _plan(sample_rate_hz: float) -> _Plan:
    n_fft = fast_length(math.ceil(_N_QUEFRENCIES * sample_rate_hz / _BAND_HZ))
    n_frame = math.floor(_FRAME_S * sample_rate_hz)
    step_s = n_fft / (2 * _N_QUEFRENCIES * sample_rate_hz)
    return _Plan(
        padded(gaussian_taper(n_frame)),
        n_frame,
        step_s,
        2 * round(0.5 * _SMOOTHING_S / step_s),
        twiddles(n_fft),
        twiddles(2 * _N_QUEFRENCIES),
    )


@kernel
def _measure(
    samples: Singles, starts: Indices, plan: _Plan, buffers: tuple[Singles, Singles], cpps_db: Doubles
) -> None:
    n_rows, n_back_rows = 2 * len(plan.factors), 2 * len(plan.back_factors)
    # The quefrencies and one more, up to a multiple of LANES.
    octaves = np.empty((BATCH_FRAMES, _N_QUEFRENCIES + LANES), np.float32)
    means = np.empty(BATCH_FRAMES, np.float32)
    audible = np.empty(BATCH_FRAMES, np.bool_)
    for start in range(0, len(starts), BATCH_FRAMES):
        here = starts[start : start + BATCH_FRAMES]
        for row in range(len(here)):
            part = samples[max(here[row], 0) : max(here[row] + plan.n_frame, 0)]
            total, energy = np.float32(0.0), np.float32(0.0)
            for i in range(len(part)):
                total += part[i]
            means[row] = total / np.float32(plan.n_frame)
            for i in range(len(part)):
                energy += (part[i] - means[row]) ** 2
            audible[row] = energy > _SILENT_POWER * plan.n_frame
        load_frames(samples, here, means, plan.taper, buffers[0][:n_rows])
        spectra, other = transform(buffers[0][:n_rows], buffers[1][:n_rows], plan.factors)
        power_of_pairs(spectra, _N_QUEFRENCIES + 1, spectra)
        floor = splat(np.float32(1e-30))
        for row in range(2 * (_N_QUEFRENCIES + 1)):
            store(spectra, row, log2(load(spectra, row) + floor))
        mirror(spectra[:n_back_rows], _N_QUEFRENCIES)
        cepstra, other = transform(spectra[:n_back_rows], other[:n_back_rows], plan.back_factors)
        _smooth(cepstra, other, plan.width)
        unload_frames(cepstra, octaves.shape[1], 0, octaves)
        for row in range(len(here)):
            if audible[row]:
                cpps_db[start + row] = _prominence_db(octaves[row, : _N_QUEFRENCIES + 1], plan.step_s)


@inner_kernel
def _smooth(cepstra: Singles, scratch: Singles, width: int) -> None:
    """Replace cepstra by base-2 logarithms of their squares, averaged over `width` quefrencies, halves at the ends."""
    half = width // 2
    for row in range(2 * (_N_QUEFRENCIES + 1 + half)):
        value = load(cepstra, row)
        store(scratch, row, value * value)
    floor, scale = splat(np.float32(1e-30)), splat(np.float32(0.5 / width))
    even, odd = _sums(scratch, 0, half)
    for k in range(_N_QUEFRENCIES + 1):
        # A running sum would drown in the rounding of the first quefrencies, which are a million times higher.
        if k < _N_DIRECT:
            next_even, next_odd = _sums(scratch, k + 1, half)
        else:
            gone, new = 2 * (k - half), 2 * (k + half)
            next_even = even + load(scratch, new) - load(scratch, gone)
            next_odd = odd + load(scratch, new + 1) - load(scratch, gone + 1)
        store(cepstra, 2 * k, log2(larger(scale * (even + next_even), floor)))
        store(cepstra, 2 * k + 1, log2(larger(scale * (odd + next_odd), floor)))
        even, odd = next_even, next_odd


@inner_kernel
def _sums(rows: Singles, k: int, half: int) -> Any:
    """Add up `2 half` quefrencies from ``k - half`` on, mirrored at 0."""
    even, odd = splat(np.float32(0.0)), splat(np.float32(0.0))
    for j in range(k - half, k + half):
        even = even + load(rows, 2 * abs(j))
        odd = odd + load(rows, 2 * abs(j) + 1)
    return even, odd


@finite_inner_kernel
def _median(values: Singles) -> float:
    """Return the median to 1/4000 of the standard deviation, by bisection: sorting would cost many times as much."""
    total, squares = np.float32(0.0), np.float32(0.0)
    for i in range(len(values)):
        total += values[i]
        squares += values[i] * values[i]
    mean = total / np.float32(len(values))
    # No median lies further from its mean than this.
    deviation = np.float32(math.sqrt(abs(squares / np.float32(len(values)) - mean * mean)))
    low, high = mean - deviation, mean + deviation
    for _ in range(12):
        middle = np.float32(0.5) * (low + high)
        # Half the number of values above, less half of those below: a sum of signs is vectorised, a count is not.
        surplus = np.float32(0.0)
        for i in range(len(values)):
            surplus += np.copysign(np.float32(0.5), values[i] - middle)
        if surplus > 0.0:
            low = middle
        else:
            high = middle
    return 0.5 * float(low + high)


@inner_kernel
def _prominence_db(octaves: Singles, step_s: float) -> np.floating[Any]:
    """Return the height of the peak over the trend of a smoothed cepstrum; `octaves` are base-2 logarithms of power."""
    n = len(octaves)
    n_pairs = n // 2
    apart = n - n_pairs
    scratch = np.empty(n, np.float32)
    for i in range(n_pairs):
        scratch[i] = octaves[apart + i] - octaves[i]
    slope = np.float32(_median(scratch[:n_pairs]) / apart)
    for i in range(n):
        scratch[i] = octaves[i] - slope * np.float32(i)
    intercept = _median(scratch)
    low = math.ceil(1.0 / (_PEAK_HZ[1] * step_s))
    high = math.floor(1.0 / (_PEAK_HZ[0] * step_s))
    at = low
    for k in range(low + 1, high + 1):
        if octaves[k] > octaves[at]:
            at = k
    peak, place = float(octaves[at]), float(at)
    curvature = 2.0 * octaves[at] - octaves[at - 1] - octaves[at + 1]
    if low < at < high and curvature > 0.0:
        gradient = 0.5 * (octaves[at + 1] - octaves[at - 1])
        peak += 0.5 * gradient * gradient / curvature
        place += gradient / curvature
    return 10.0 * math.log10(2.0) * (peak - intercept - slope * place)
