"""What a recording's levels say about its quality: activity, signal-to-noise ratio, clipping, bandwidth."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ser_batch.dsp.frames import Doubles, Indices, Singles
from ser_batch.dsp.kernels import kernel

__all__ = [
    "active_blocks",
    "bandwidth_hz",
    "block_levels",
    "first_without_gap",
    "mean_spectra",
    "noise_power",
    "of_parts",
]


#: A block is active when its level is at most this far below the loudest ones.
ACTIVE_RANGE_DB: Final = 35.0
#: Blocks (10 ms each) over which levels are averaged before noise is estimated.
_NOISE_BLOCKS: Final = 5
_BAND_BINS: Final = 8
#: -130 dB re full scale, below the quietest 16-bit recording: what remains of a constant offset.
_SILENT_POWER: Final = 1e-13


@kernel
def block_levels(
    samples: Singles, as_read: Singles, mean: float, block_length: int, clipped_from: float
) -> tuple[Doubles, Indices]:
    """Measure consecutive blocks; the last one may be shorter.

    Parameters
    ----------
    samples : float32 (n_samples,)
    as_read : float32 (n_samples,)
        The same ones before any filter, which may have moved them off full scale.
    mean : float
        What to subtract from `samples`.
    block_length : int
    clipped_from : float
        Magnitude from which a sample counts as clipped, as it was read.

    Returns
    -------
    energy : float64 (n_blocks,)
        Sum of squares about `mean`.
    n_clipped : int64 (n_blocks,)
    """
    n_blocks = (len(samples) + block_length - 1) // block_length
    energy = np.zeros(n_blocks)
    n_clipped = np.zeros(n_blocks, np.int64)
    offset, limit = np.float32(mean), np.float32(clipped_from)
    for block in range(n_blocks):
        low = block * block_length
        high = min(low + block_length, len(samples))
        part, part_as_read = samples[low:high], as_read[low:high]
        squares = np.float32(0.0)
        for i in range(len(part)):
            value = part[i] - offset
            squares += value * value
        # A loop of its own, and a limit of one kind with the samples: several of them at a time.
        clipped = np.int32(0)
        for i in range(len(part_as_read)):
            clipped += np.int32(abs(part_as_read[i]) >= limit)
        energy[block] = squares
        n_clipped[block] = clipped
    return energy, n_clipped


def active_blocks(power: Doubles) -> NDArray[np.bool_]:
    """Say which blocks lie within 35 dB of the loud ones (99th percentile of power).

    Parameters
    ----------
    power : float64 (n_blocks,)
        Mean squares.

    Returns
    -------
    bool (n_blocks,)
        All False in digital silence.
    """
    if not len(power):
        return np.zeros(0, np.bool_)
    ordered = np.sort(power)
    loud = ordered[max(len(ordered) - 1 - len(ordered) // 100, 0)]
    # Where only a click or two are not silent, these are what is active.
    loud = loud if loud > 0 else ordered[-1]
    return power > max(loud * 10 ** (-ACTIVE_RANGE_DB / 10), _SILENT_POWER)


def noise_power(power: Doubles) -> float:
    """Estimate the power of stationary noise: the 10th percentile of `power` averaged over 50 ms.

    Needs pauses: where there are none, the quietest speech counts as noise.
    """
    if len(power) > _NOISE_BLOCKS:
        sums = np.concatenate([[0.0], np.cumsum(power)])
        power = np.maximum(sums[_NOISE_BLOCKS:] - sums[:-_NOISE_BLOCKS], 0.0) / _NOISE_BLOCKS
    return float(np.sort(power)[len(power) // 10]) if len(power) else 0.0


@kernel
def first_without_gap(
    samples: Singles, audible: np.float32, first: int, last: int, n_gap: int, is_reversed: bool
) -> int:
    """Return from where on samples louder than `audible` follow each other up to a place, without a longer gap.

    Parameters
    ----------
    samples : float32 (n_samples,)
    audible : float32
        Magnitude.
    first, last : int
        Where to look: from one index up to the other, which is not included.
    n_gap : int
        Distance of two such samples up to which there is no gap between them.
    is_reversed : bool
        Whether indices count from the end of `samples`, whose order is reversed then.

    Returns
    -------
    int
        An index as those given; -1 where nothing is audible.
    """
    begin = -1
    for i in range(last - 1, first - 1, -1):
        if abs(samples[len(samples) - 1 - i if is_reversed else i]) > audible:
            if begin >= 0 and begin - i > n_gap:
                break
            begin = i
    return begin


@kernel
def mean_spectra(power: Singles, parts: Indices) -> Singles:
    """Return the mean of the spectra of each part, in one pass over them.

    Parameters
    ----------
    power : float32 (n_spectra, n_bins)
    parts : int64 (n_parts, 2)
        First spectrum of a part, and the first one after it.

    Returns
    -------
    float32 (n_parts, n_bins)
        0 where a part has no spectrum.
    """
    means = np.zeros((len(parts), power.shape[1]), np.float32)
    for row in range(len(power)):
        for part in range(len(parts)):
            if parts[part, 0] <= row < parts[part, 1]:
                mean = means[part]
                for k in range(power.shape[1]):
                    mean[k] += power[row, k]
    for part in range(len(parts)):
        count = np.float32(max(parts[part, 1] - parts[part, 0], 1))
        for k in range(power.shape[1]):
            means[part, k] /= count
    return means


@kernel
def of_parts(
    energy: Doubles,
    n_clipped: Indices,
    n_samples: Indices,
    active: NDArray[np.bool_],
    speech_over: float,
    parts: Indices,
) -> Doubles:
    """Sum up the blocks of each part.

    Parameters
    ----------
    energy, n_clipped : float64, int64 (n_blocks,)
        As `block_levels` gives them.
    n_samples : int64 (n_blocks,)
    active : bool (n_blocks,)
    speech_over : float
        Active blocks with more power than this are speech.
    parts : int64 (n_parts, 2)
        First block of a part, and the first one after it.

    Returns
    -------
    float64 (n_parts, 5)
        Mean power of speech (NaN without any), share of samples that are clipped (NaN without any sample), samples that
        are active, sum of squares, and samples.
    """
    sums = np.zeros((len(parts), 5))
    for part in range(len(parts)):
        power, n_speech, clipped, n_active, total, n = 0.0, 0, 0, 0, 0.0, 0
        for block in range(parts[part, 0], parts[part, 1]):
            total += energy[block]
            n += n_samples[block]
            clipped += n_clipped[block]
            if active[block]:
                n_active += n_samples[block]
                mean = energy[block] / n_samples[block]
                if mean > speech_over:
                    power += mean
                    n_speech += 1
        sums[part, 0] = power / n_speech if n_speech else math.nan
        sums[part, 1] = clipped / n if n else math.nan
        sums[part, 2], sums[part, 3], sums[part, 4] = n_active, total, n
    return sums


@kernel
def bandwidth_hz(signal: Singles, noise: Singles, bin_hz: float, highest_hz: float) -> float:
    """Return the highest frequency at which a signal stands out from noise by 3 dB and lies within 70 dB of its own
    peak.

    Parameters
    ----------
    signal, noise : float32 (n_bins,)
        Mean power spectra of active and of quiet frames.
    bin_hz, highest_hz : float
        Distance between bins; half the sample rate.

    Returns
    -------
    float
        Upper edge of the band, to about 0.2 kHz; NaN where the signal is nowhere above the noise.
    """
    n_bands = len(signal) // _BAND_BINS
    loud, quiet = np.zeros(n_bands, np.float32), np.zeros(n_bands, np.float32)
    for band in range(n_bands):
        for k in range(band * _BAND_BINS, (band + 1) * _BAND_BINS):
            loud[band] += signal[k]
            quiet[band] += noise[k]
    loudest = np.float32(0.0)
    for band in range(n_bands):
        loudest = max(loudest, loud[band])
    for band in range(n_bands - 1, -1, -1):
        if loud[band] > np.float32(2.0) * quiet[band] and loud[band] > np.float32(1e-7) * loudest:
            return min((band + 1) * _BAND_BINS * bin_hz, highest_hz)
    return math.nan
