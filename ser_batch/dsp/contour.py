"""Summaries of contours over stretches of time. NaN values are left out; an empty stretch gives NaN."""

from __future__ import annotations

import math

import numpy as np

from ser_batch.dsp.frames import HOP_S, Doubles, Indices
from ser_batch.dsp.kernels import inner_kernel, kernel

__all__ = ["count_voiced_stretches", "describe", "final_part_slope", "means_of_parts", "slope_per_s"]


@inner_kernel
def _quantile(ordered: Doubles, share: float) -> float:
    place = share * (len(ordered) - 1)
    left = int(place)
    right = min(left + 1, len(ordered) - 1)
    return ordered[left] + (place - left) * (ordered[right] - ordered[left])


def describe(values: Doubles) -> Doubles:
    """Return median, mean, standard deviation, 5th and 95th percentile of `values`, float64 (n,)."""
    summary = np.full(5, np.nan)
    # By numpy: to compile a sort takes half a second.
    _describe(np.sort(values[~np.isnan(values)]), summary)
    return summary


@kernel
def _describe(ordered: Doubles, summary: Doubles) -> None:
    n = len(ordered)
    if n == 0:
        return
    mean = 0.0
    for i in range(n):
        mean += ordered[i]
    mean /= n
    variance = 0.0
    for i in range(n):
        variance += (ordered[i] - mean) ** 2
    summary[0] = _quantile(ordered, 0.5)
    summary[1] = mean
    summary[2] = math.sqrt(variance / n)
    summary[3] = _quantile(ordered, 0.05)
    summary[4] = _quantile(ordered, 0.95)


@kernel
def slope_per_s(values: Doubles) -> float:
    """Return the slope per s of a least-squares line through `values`, float64 (n,), 10 ms apart; NaN for under 5."""
    n, sum_x, sum_y, sum_xx, sum_xy = 0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(values)):
        if not math.isnan(values[i]):
            n += 1
            sum_x += i
            sum_y += values[i]
            sum_xx += float(i) * i
            sum_xy += i * values[i]
    spread = n * sum_xx - sum_x * sum_x
    if n < 5 or spread <= 0.0:
        return math.nan
    return (n * sum_xy - sum_x * sum_y) / spread / HOP_S


@kernel
def final_part_slope(values: Doubles, share: float) -> float:
    """Return the slope per s over the last `share` of the defined values, at least 5 of them; NaN for fewer than 5."""
    n = 0
    for i in range(len(values)):
        n += not math.isnan(values[i])
    wanted = max(math.ceil(share * n), 5)
    start = len(values)
    while start > 0 and wanted > 0:
        start -= 1
        wanted -= not math.isnan(values[start])
    return slope_per_s(values[start:])


@kernel
def count_voiced_stretches(f0_hz: Doubles, shortest: int) -> int:
    """Count runs of at least `shortest` voiced frames in `f0_hz`, float64 (n,), NaN = unvoiced."""
    count, length = 0, 0
    for i in range(len(f0_hz)):
        length = 0 if math.isnan(f0_hz[i]) else length + 1
        count += length == shortest
    return count


@kernel
def means_of_parts(values: Doubles, parts: Indices) -> Doubles:
    """Return the mean of each column of `values`, float64 (n, n_columns), in each part.

    `parts`, int64 (n_parts, 2), are the first row of each and the first one after it.
    """
    result = np.full((len(parts), values.shape[1]), np.nan)
    for part in range(len(parts)):
        for column in range(values.shape[1]):
            total, n = 0.0, 0
            for i in range(parts[part, 0], parts[part, 1]):
                if not math.isnan(values[i, column]):
                    total += values[i, column]
                    n += 1
            if n > 0:
                result[part, column] = total / n
    return result
