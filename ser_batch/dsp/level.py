"""What a recording's levels say about its quality: activity, signal-to-noise ratio, clipping, bandwidth."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ser_batch.dsp.frames import Doubles, Indices, Singles
from ser_batch.dsp.kernels import kernel

__all__ = ["active_blocks", "bandwidth_hz", "block_levels", "noise_power"]


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
    for block in range(n_blocks):
        low = block * block_length
        high = min(low + block_length, len(samples))
        squares = np.float32(0.0)
        clipped = 0
        for i in range(low, high):
            value = samples[i] - np.float32(mean)
            squares += value * value
            clipped += abs(as_read[i]) >= clipped_from
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
    shape = (n_bands, _BAND_BINS)
    loud = signal[: n_bands * _BAND_BINS].reshape(shape).mean(axis=1)
    quiet = noise[: n_bands * _BAND_BINS].reshape(shape).mean(axis=1)
    heard = np.flatnonzero((loud > 2.0 * quiet) & (loud > 1e-7 * loud.max(initial=0.0)))
    return min((heard[-1] + 1) * _BAND_BINS * bin_hz, highest_hz) if len(heard) else float("nan")
