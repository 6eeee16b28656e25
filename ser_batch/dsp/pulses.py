"""Glottal pulses, and jitter and shimmer from them, by the rules of Praat's "To PointProcess (cc)".

Jitter (local) is the mean absolute difference of consecutive periods over the mean period; shimmer (local) the same
for the amplitudes of consecutive periods. Both are ratios, not percent.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ser_batch.dsp.frames import HOP_S, Doubles, Singles
from ser_batch.dsp.kernels import inner_kernel, kernel

__all__ = ["find_pulses", "jitter_local", "period_amplitudes", "shimmer_local"]

#: Periods outside of this range (s) do not count; neither do neighbours that differ by more than these factors.
SHORTEST_PERIOD_S: Final = 0.0001
LONGEST_PERIOD_S: Final = 0.02
PERIOD_FACTOR: Final = 1.3
AMPLITUDE_FACTOR: Final = 1.6


def find_pulses(samples: Singles, sample_rate_hz: float, first_s: float, f0_hz: Doubles) -> Doubles:
    """Mark one moment per glottal period, by cross-correlation from the middle of each voiced stretch outwards.

    Parameters
    ----------
    samples : float32 (n_samples,)
    sample_rate_hz : float
    first_s : float
        Time of the first frame of `f0_hz`; its frames are 10 ms apart.
    f0_hz : float64 (n_frames,)
        NaN = unvoiced.

    Returns
    -------
    pulses_s : float64 (n_pulses,)
        Rising; empty where nothing is voiced.

    Notes
    -----
    As Praat: the first pulse of a stretch is the extremum within one period around its middle; each next one is where
    the period that follows correlates best, at 0.8 to 1.25 periods' distance.
    """
    if not len(f0_hz):
        return np.empty(0)
    return np.sort(_find_pulses(samples, float(sample_rate_hz), float(first_s), f0_hz))


@inner_kernel
def _f0_at(time_s: float, first_s: float, f0_hz: Doubles) -> float:
    """Interpolate F0 linearly between voiced frames, as Praat does; NaN nearer to an unvoiced one."""
    position = (time_s - first_s) / HOP_S
    if not -1.0 <= position <= len(f0_hz):
        return math.nan
    left = math.floor(position)
    phase = position - left
    near, far = (left, left + 1) if phase < 0.5 else (left + 1, left)
    phase = phase if phase < 0.5 else 1.0 - phase
    if near < 0 or near >= len(f0_hz) or math.isnan(f0_hz[near]):
        return math.nan
    if far < 0 or far >= len(f0_hz) or math.isnan(f0_hz[far]):
        return f0_hz[near]
    return f0_hz[near] + phase * (f0_hz[far] - f0_hz[near])


@inner_kernel
def _extremum(samples: Singles, sample_rate_hz: float, low_s: float, high_s: float) -> float:
    """Locate the largest deviation from zero between two times, refined by a parabola."""
    low = max(math.floor(low_s * sample_rate_hz - 0.5), 0)
    high = min(math.ceil(high_s * sample_rate_hz - 0.5), len(samples) - 1)
    if high - low < 2:
        return 0.5 * (low_s + high_s)
    smallest, largest = low, low
    for i in range(low + 1, high + 1):
        if samples[i] < samples[smallest]:
            smallest = i
        if samples[i] > samples[largest]:
            largest = i
    if samples[smallest] == samples[largest]:
        return 0.5 * (low_s + high_s)
    at = smallest if abs(samples[smallest]) > abs(samples[largest]) else largest
    place = float(at)
    if low < at < high:
        curvature = 2.0 * samples[at] - samples[at - 1] - samples[at + 1]
        if curvature != 0.0:
            place += 0.5 * (samples[at + 1] - samples[at - 1]) / curvature
    return (place + 0.5) / sample_rate_hz


@inner_kernel
def _best_match(
    samples: Singles, sample_rate_hz: float, time_s: float, period_s: float, low_s: float, high_s: float
) -> tuple[float, float, float]:
    """Find the stretch of one period, centred between two times, that correlates best with that around `time_s`.

    Returns its centre, the correlation (-1 = none found) and its peak.
    """
    n_samples = len(samples)
    half_s = 0.5 * period_s
    left1 = math.floor((time_s - half_s) * sample_rate_hz)
    right1 = math.floor((time_s + half_s) * sample_rate_hz)
    first = math.floor((low_s - half_s) * sample_rate_hz - 0.5)
    last = math.ceil((high_s - half_s) * sample_rate_hz - 0.5)
    best, best_before, best_after, best_place, best_peak = -1.0, 0.0, 0.0, 0, 0.0
    r1, r2, r3 = 0.0, 0.0, 0.0
    for left2 in range(first, last + 1):
        low = max(0, -left1, -left2)
        high = max(min(right1 - left1 + 1, n_samples - left1, n_samples - left2), low)
        one, two = samples[left1 + low : left1 + high], samples[left2 + low : left2 + high]
        norm1 = np.float32(0.0)
        norm2 = np.float32(0.0)
        product = np.float32(0.0)
        for i in range(len(one)):
            norm1 += one[i] * one[i]
            norm2 += two[i] * two[i]
            product += one[i] * two[i]
        r1, r2 = r2, r3
        r3 = float(product) / math.sqrt(float(norm1) * float(norm2)) if product != 0.0 else 0.0
        if r2 > best and r2 >= r1 and r2 >= r3:
            best, best_before, best_after, best_place = r2, r1, r3, left2 - 1
    if best <= -1.0:
        return time_s, -1.0, 0.0
    low = max(0, -left1, -best_place)
    high = max(min(right1 - left1 + 1, n_samples - left1, n_samples - best_place), low)
    for value in samples[best_place + low : best_place + high]:
        best_peak = max(best_peak, float(abs(value)))
    place = float(best_place)
    curvature = 2.0 * best - best_before - best_after
    if curvature != 0.0:
        slope = 0.5 * (best_after - best_before)
        best += 0.5 * slope * slope / curvature
        place += slope / curvature
    return time_s + (place - left1) / sample_rate_hz, best, best_peak


@kernel
def _find_pulses(samples: Singles, sample_rate_hz: float, first_s: float, f0_hz: Doubles) -> Doubles:
    n_frames = len(f0_hz)
    duration_s = len(samples) / sample_rate_hz
    peak = 0.0
    for i in range(len(samples)):
        peak = max(peak, abs(samples[i]))
    pulses = np.empty(int(duration_s * sample_rate_hz / 2) + 16)
    count = 0
    last_added_s = -1e30
    frame = 0
    while True:
        while frame < n_frames and math.isnan(f0_hz[frame]):
            frame += 1
        if frame >= n_frames:
            break
        start_s = max(first_s + (frame - 0.5) * HOP_S, 0.0)
        while frame < n_frames and not math.isnan(f0_hz[frame]):
            frame += 1
        end_s = min(first_s + (frame - 0.5) * HOP_S, duration_s)
        middle_s = 0.5 * (start_s + end_s)
        f0 = _f0_at(middle_s, first_s, f0_hz)
        seed_s = _extremum(samples, sample_rate_hz, middle_s - 0.5 / f0, middle_s + 0.5 / f0)
        pulses[count] = seed_s
        count += 1
        for direction in (-1.0, 1.0):
            at_s = seed_s
            while count < len(pulses):
                f0 = _f0_at(at_s, first_s, f0_hz)
                if math.isnan(f0):
                    break
                near_s, far_s = at_s + direction * 0.8 / f0, at_s + direction * 1.25 / f0
                found_s, correlation, local_peak = _best_match(
                    samples, sample_rate_hz, at_s, 1.0 / f0, min(near_s, far_s), max(near_s, far_s)
                )
                at_s = found_s if correlation > -1.0 else at_s + direction / f0
                outside = at_s < start_s if direction < 0.0 else at_s > end_s
                keep = correlation > 0.3 and (local_peak == 0.0 or local_peak > 0.01 * peak)
                if outside:
                    keep = correlation > 0.7 and local_peak > 0.023333 * peak
                if keep and (direction > 0.0 or at_s - last_added_s > 0.8 / f0):
                    pulses[count] = at_s
                    count += 1
                    if direction > 0.0:
                        last_added_s = at_s
                if outside:
                    break
    return pulses[:count].copy()


@inner_kernel
def _is_period(pulses_s: Doubles, i: int) -> bool:
    """Say whether the interval from pulse `i` to the next one counts as a period."""
    n = len(pulses_s)
    if i < 0 or i + 1 >= n:
        return False
    interval = pulses_s[i + 1] - pulses_s[i]
    if interval <= 0.0 or interval < SHORTEST_PERIOD_S or interval > LONGEST_PERIOD_S:
        return False
    n_neighbours, n_unlike = 0, 0
    for j in (i - 1, i + 1):
        if j >= 0 and j + 1 < n:
            other = pulses_s[j + 1] - pulses_s[j]
            if other > 0.0:
                n_neighbours += 1
                if max(interval / other, other / interval) > PERIOD_FACTOR:
                    n_unlike += 1
    return n_neighbours < 2 or n_unlike < 2


@inner_kernel
def _alike(before: float, after: float) -> bool:
    """Say whether two consecutive intervals may be compared."""
    return (
        SHORTEST_PERIOD_S <= before <= LONGEST_PERIOD_S
        and SHORTEST_PERIOD_S <= after <= LONGEST_PERIOD_S
        and max(before / after, after / before) <= PERIOD_FACTOR
    )


@kernel
def jitter_local(pulses_s: Doubles) -> float:
    """Return jitter (local), the mean absolute difference of consecutive periods over the mean period.

    Parameters
    ----------
    pulses_s : float64 (n_pulses,)
        Rising.

    Returns
    -------
    float
        A ratio, 0 or more; NaN where fewer than two periods can be compared.
    """
    n = len(pulses_s)
    n_periods = n - 1
    total = 0.0
    for i in range(1, n - 1):
        before = pulses_s[i] - pulses_s[i - 1]
        after = pulses_s[i + 1] - pulses_s[i]
        if before > 0.0 and after > 0.0 and _alike(before, after):
            total += abs(before - after)
        else:
            n_periods -= 1
    if n_periods < 2:
        return math.nan
    period_total, period_count = 0.0, 0
    for i in range(n - 1):
        if _is_period(pulses_s, i):
            period_total += pulses_s[i + 1] - pulses_s[i]
            period_count += 1
    if period_count == 0:
        return math.nan
    return total / (n_periods - 1) / (period_total / period_count)


@inner_kernel
def _hann(place: float) -> float:
    """Return ``0.5 + 0.5 cos(pi place)`` for places in [-1, 1], to 15 digits: a library's cosine takes ten times as
    long, since no two of it are computed side by side."""
    square = (0.5 * math.pi * place) ** 2
    # The square of the cosine of half the angle, by its Taylor series.
    cosine = 1.0 / 2432902008176640000.0
    cosine = cosine * square - 1.0 / 6402373705728000.0
    cosine = cosine * square + 1.0 / 20922789888000.0
    cosine = cosine * square - 1.0 / 87178291200.0
    cosine = cosine * square + 1.0 / 479001600.0
    cosine = cosine * square - 1.0 / 3628800.0
    cosine = cosine * square + 1.0 / 40320.0
    cosine = cosine * square - 1.0 / 720.0
    cosine = cosine * square + 1.0 / 24.0
    cosine = cosine * square - 0.5
    cosine = cosine * square + 1.0
    return cosine * cosine


@kernel
def period_amplitudes(samples: Singles, sample_rate_hz: float, pulses_s: Doubles) -> Doubles:
    """Return the amplitude at each pulse that has a period on both sides.

    It is the root mean square under a Hann taper that reaches 0.2 of a period to either side, as in Praat.

    Parameters
    ----------
    samples : float32 (n_samples,)
    sample_rate_hz : float
    pulses_s : float64 (n_pulses,)
        Rising.

    Returns
    -------
    amplitudes : float64 (n_pulses,)
        NaN where the pulse lacks a period before or after it, or these differ by a factor above 1.3.
    """
    n = len(pulses_s)
    amplitudes = np.full(n, np.nan)
    for i in range(1, n - 1):
        before = pulses_s[i] - pulses_s[i - 1]
        after = pulses_s[i + 1] - pulses_s[i]
        if not (before > 0.0 and after > 0.0 and _alike(before, after)):
            continue
        left, right = 0.2 * before, 0.2 * after
        low = max(math.ceil((pulses_s[i] - left) * sample_rate_hz - 0.5), 0)
        high = min(math.floor((pulses_s[i] + right) * sample_rate_hz - 0.5), len(samples) - 1)
        if high - low < 2:
            continue
        energy, weight = 0.0, 0.0
        for j in range(low, high + 1):
            distance = (j + 0.5) / sample_rate_hz - pulses_s[i]
            taper = _hann(distance / (left if distance < 0.0 else right))
            energy += (samples[j] * taper) ** 2
            weight += taper**2
        if energy > 0.0:
            amplitudes[i] = math.sqrt(energy / weight)
    return amplitudes


@kernel
def shimmer_local(pulses_s: Doubles, amplitudes: Doubles) -> float:
    """Return shimmer (local), the mean absolute difference of consecutive amplitudes over the mean amplitude.

    Parameters
    ----------
    pulses_s, amplitudes : float64 (n_pulses,)
        From `find_pulses` and `period_amplitudes`; NaN amplitudes are left out.

    Returns
    -------
    float
        A ratio, 0 or more; NaN where no two amplitudes can be compared.
    """
    difference, n_differences = 0.0, 0
    total, count = 0.0, 0
    before = -1
    for i in range(len(pulses_s)):
        if math.isnan(amplitudes[i]):
            continue
        if before >= 0:
            total += amplitudes[before]
            count += 1
            interval = pulses_s[i] - pulses_s[before]
            factor = max(amplitudes[i] / amplitudes[before], amplitudes[before] / amplitudes[i])
            if SHORTEST_PERIOD_S <= interval <= LONGEST_PERIOD_S and factor <= AMPLITUDE_FACTOR:
                difference += abs(amplitudes[i] - amplitudes[before])
                n_differences += 1
        before = i
    if n_differences == 0 or total <= 0.0:
        return math.nan
    return (difference / n_differences) / (total / count)
