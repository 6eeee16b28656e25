"""F0 and voicing by autocorrelation with a Viterbi path over candidates.

The method is that of Boersma (1993), "Accurate short-term analysis of the fundamental frequency and the
harmonics-to-noise ratio of a sampled sound", Proc. Inst. Phon. Sci. Amsterdam 17, 97-110, with the frame grid, costs
and silence rule of Praat's "To Pitch (ac)".
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_batch.dsp.autocorrelation import (
    CorrelationPlan,
    correlate,
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
    hann_taper,
)
from ser_batch.dsp.kernels import inner_kernel, kernel
from ser_batch.dsp.lanes import LANES, workspace
from ser_batch.dsp.transform import BATCH_FRAMES

__all__ = ["F0Track", "mean_spectrum", "track_f0"]

#: Candidates per frame, the unvoiced one included.
_N_CANDIDATES: Final = 15
_PERIODS_PER_FRAME: Final = 3.0
_SILENCE_THRESHOLD: Final = 0.03
_VOICING_THRESHOLD: Final = 0.45
_OCTAVE_COST: Final = 0.01
_OCTAVE_JUMP_COST: Final = 0.35
_VOICING_COST: Final = 0.14

#: A frame whose peak is below this share of the signal's can only be unvoiced: its unvoiced strength exceeds any voiced
#: one by two transitions.
_LOUD_ENOUGH: Final = (1.0 + _VOICING_THRESHOLD - 2.0 * _VOICING_COST) * _SILENCE_THRESHOLD / (1.0 + _VOICING_THRESHOLD)


@dataclass(frozen=True, slots=True, eq=False)
class F0Track:
    """F0 of a signal, and the power spectra that it was found in.

    Attributes
    ----------
    times_s : float64 (n_frames,)
        Centres of the frames, from the start of the signal.
    f0_hz : float64 (n_frames,)
        NaN = unvoiced.
    strength : float64 (n_frames,)
        Normalised autocorrelation at the chosen period, in [0, 1]; NaN = unvoiced.
    power : float32 (n_analysed, n_bins)
        Power spectra of the frames loud enough to be analysed (Hann taper of three longest periods).
    analysed : int64 (n_analysed,)
        Their indices, rising.
    bin_hz : float
        Distance between the bins of `power`.
    """

    times_s: Doubles
    f0_hz: Doubles
    strength: Doubles
    power: Singles
    analysed: Indices
    bin_hz: float


def track_f0(samples: Singles, sample_rate_hz: float, floor_hz: float = 75.0, ceiling_hz: float = 600.0) -> F0Track:
    """Find F0 every 10 ms.

    Parameters
    ----------
    samples : float32 (n_samples,)
    sample_rate_hz : float
    floor_hz, ceiling_hz : float
        Range of F0. A frame is three periods of `floor_hz` long.

    Returns
    -------
    F0Track
        Without frames when the signal is shorter than a frame; all unvoiced when it is digital silence.

    Notes
    -----
    Other than Praat's default: the transforms are in single precision and barely longer than the frame, so that lags
    near the longest period alias by less than 1e-3; a peak is located on a table of 32 sinc-interpolated steps per
    sample and then by a parabola, in place of an iterative search; frames so quiet that no path could make
    them voiced are not transformed. The largest effects measured are in docs/features.md.
    """
    ceiling_hz = min(ceiling_hz, 0.5 * sample_rate_hz)
    plan = _plan(float(sample_rate_hz), float(floor_hz))
    n_frames, first_s = frame_grid(len(samples) / sample_rate_hz, _PERIODS_PER_FRAME / floor_hz)
    levels = measure_frames(samples, plan, n_frames, first_s)
    analysed = np.flatnonzero(levels.intensity > _LOUD_ENOUGH)
    power = np.empty((len(analysed), len(plan.factors) // 2 + 1), np.float32)
    n_done = 0
    candidates = _Candidates(
        np.ones(n_frames, np.int64), np.zeros((n_frames, _N_CANDIDATES)), np.zeros((n_frames, _N_CANDIDATES))
    )
    for frames, correlation, spectra in correlations(samples, levels, analysed, plan, with_power=True):
        power[n_done : n_done + len(frames)] = spectra[: len(frames), : power.shape[1]]
        n_done += len(frames)
        _find_candidates(correlation, frames, plan, candidates)
    costs = (ceiling_hz, _SILENCE_THRESHOLD, _VOICING_THRESHOLD, _OCTAVE_COST, _OCTAVE_JUMP_COST, _VOICING_COST)
    f0_hz, strength = _best_path(candidates, levels.intensity, costs)
    times_s = frame_times(n_frames, first_s)
    return F0Track(times_s, f0_hz, strength, power, analysed, sample_rate_hz / len(plan.factors))


def mean_spectrum(samples: Singles, sample_rate_hz: float, times_s: Doubles, floor_hz: float = 75.0) -> Singles:
    """Return the mean power spectrum, float32 (n_bins,), of frames like those of `track_f0` around the times given.

    All 0 when no time is given or the signal is shorter than a frame.
    """
    plan = _plan(float(sample_rate_hz), float(floor_hz))
    n_bins = len(plan.factors) // 2 + 1
    total = np.zeros(n_bins, np.float32)
    if not len(times_s) or len(samples) < plan.n_frame:
        return total
    starts = np.floor(times_s * sample_rate_hz - 0.5).astype(np.int64) + 1 - plan.n_frame // 2
    starts = np.clip(starts, 0, len(samples) - plan.n_frame)
    means = np.lib.stride_tricks.sliding_window_view(samples, plan.n_frame)[starts].mean(axis=1)
    correlation = np.empty((BATCH_FRAMES, LANES), np.float32)
    power = np.empty((BATCH_FRAMES, -(-n_bins // LANES) * LANES), np.float32)
    for first in range(0, len(starts), BATCH_FRAMES):
        here = slice(first, first + BATCH_FRAMES)
        correlate(samples, starts[here], means[here], plan, workspace(2 * len(plan.factors)), correlation, power)
        total += power[: len(starts[here]), :n_bins].sum(axis=0)
    return total / np.float32(len(starts))


@functools.lru_cache(maxsize=8)
def _plan(sample_rate_hz: float, floor_hz: float) -> CorrelationPlan:
    n_frame = 2 * (math.floor(_PERIODS_PER_FRAME / floor_hz * sample_rate_hz) // 2 - 1)
    # A Hann taper's autocorrelation is below 1e-3 beyond 0.8 of its length: what wraps round from there may alias.
    n_fft = fast_length(max(n_frame, math.ceil((0.8 + 1.0 / _PERIODS_PER_FRAME) * n_frame)))
    return make_plan(sample_rate_hz, floor_hz, hann_taper(n_frame), _PERIODS_PER_FRAME, n_fft)


class _Candidates(NamedTuple):
    """What each frame could be; its first candidate is "unvoiced", with a frequency of 0."""

    #: int64 (n_frames,): how many there are.
    number: Indices
    #: float64 (n_frames, _N_CANDIDATES): Hz.
    frequency: Doubles
    #: float64 (n_frames, _N_CANDIDATES): height of the peak of the autocorrelation.
    strength: Doubles


@kernel
def _find_candidates(correlation: Singles, frames: Indices, plan: CorrelationPlan, candidates: _Candidates) -> None:
    """Register the strongest peaks of autocorrelations, of which row `i` is that of frame ``frames[i]``."""
    r = np.empty(len(plan.correction), np.float32)
    for row in range(len(frames)):
        if normalise(correlation[row], plan, r):
            frame = frames[row]
            candidates.number[frame] = _peaks(r, plan, candidates.frequency[frame], candidates.strength[frame])


@inner_kernel
def _peaks(r: Singles, plan: CorrelationPlan, frequency: Doubles, strength: Doubles) -> int:
    """Write the best peaks of `r` after the unvoiced candidate; return the number of candidates."""
    count = 1
    for i in range(2, min(plan.longest_lag, len(r) - 1)):
        if r[i] <= 0.5 * _VOICING_THRESHOLD or r[i] <= r[i - 1] or r[i] < r[i + 1]:
            continue
        lag, height = interpolate_peak(r, i, plan.table)
        place = count
        if count < _N_CANDIDATES:
            count += 1
        else:
            # Drop the weakest. As in the path, octaves count, here those above one sample per period.
            place = 0
            weakest = height - _OCTAVE_COST * math.log2(lag)
            for k in range(1, _N_CANDIDATES):
                value = strength[k] - _OCTAVE_COST * math.log2(plan.sample_rate_hz / frequency[k])
                if value < weakest:
                    weakest = value
                    place = k
        if place:
            frequency[place] = plan.sample_rate_hz / lag
            strength[place] = height
    return count


@kernel
def _best_path(candidates: _Candidates, intensity: Singles, costs: tuple[float, ...]) -> tuple[Doubles, Doubles]:
    """Choose one candidate per frame: the path of the highest sum of strengths less the costs of its jumps."""
    ceiling_hz, silence_threshold, voicing_threshold, octave_cost, jump_cost, voicing_cost = costs
    n_frames = len(intensity)
    source = np.zeros((n_frames, _N_CANDIDATES), np.int8)
    octave = np.zeros((2, _N_CANDIDATES))
    voiced = np.zeros((2, _N_CANDIDATES), np.bool_)
    score = np.zeros((2, _N_CANDIDATES))
    for frame in range(n_frames):
        now, before = frame % 2, 1 - frame % 2
        n_before = candidates.number[frame - 1] if frame > 0 else 0
        for k in range(candidates.number[frame]):
            frequency = candidates.frequency[frame, k]
            voiced[now, k] = 0.0 < frequency <= ceiling_hz
            if voiced[now, k]:
                octave[now, k] = math.log2(frequency)
                local = candidates.strength[frame, k] - octave_cost * (math.log2(ceiling_hz) - octave[now, k])
            else:
                quiet = 2.0 - intensity[frame] * (1.0 + voicing_threshold) / silence_threshold
                local = voicing_threshold + max(0.0, quiet)
            best = -1e30 if frame > 0 else 0.0
            for j in range(n_before):
                value = score[before, j]
                if voiced[now, k] and voiced[before, j]:
                    value -= jump_cost * abs(octave[before, j] - octave[now, k])
                elif voiced[now, k] != voiced[before, j]:
                    value -= voicing_cost
                if value > best:
                    best = value
                    source[frame, k] = j
            score[now, k] = best + local
    last = 0
    for k in range(1, candidates.number[n_frames - 1] if n_frames else 0):
        if score[(n_frames - 1) % 2, k] > score[(n_frames - 1) % 2, last]:
            last = k
    return _follow(candidates, source, last, ceiling_hz)


@inner_kernel
def _follow(candidates: _Candidates, source: NDArray[np.int8], last: int, ceiling_hz: float) -> tuple[Doubles, Doubles]:
    """Read a path backwards from the candidate chosen in the last frame; return frequencies and strengths."""
    n_frames = len(source)
    f0_hz = np.full(n_frames, np.nan)
    strength = np.full(n_frames, np.nan)
    k = last
    for frame in range(n_frames - 1, -1, -1):
        if 0.0 < candidates.frequency[frame, k] <= ceiling_hz:
            f0_hz[frame] = candidates.frequency[frame, k]
            strength[frame] = candidates.strength[frame, k]
        k = source[frame, k]
    return f0_hz, strength
