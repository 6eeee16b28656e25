"""Halving of the sample rate, for analyses that need nothing above 5 kHz."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

from ser_batch.dsp.frames import Singles
from ser_batch.dsp.kernels import kernel

__all__ = ["LOW_RATE_HZ", "to_low_rate"]

LOW_RATE_HZ: Final = 11_025
#: Taps on each side that are not zero, a multiple of 4: the transition is 0.3 kHz wide, the stop band 50 dB down.
_N_SIDE_TAPS: Final = 64
_BLOCK: Final = 512


def to_low_rate(samples: Singles, sample_rate_hz: int) -> Singles:
    """Return a signal at 11,025 Hz, of which sample ``k`` lies at ``(k + 0.25) / 11025``.

    Parameters
    ----------
    samples : float32 (n_samples,)
    sample_rate_hz : int
        22,050 is halved by a steep half-band filter; any other rate is first brought to 22,050 by soxr.

    Returns
    -------
    float32 (n,)

    Notes
    -----
    The filter must be steep: the usual resamplers fade out from 0.9 of the new band limit, and linear prediction
    answers with poles that move F2 and F3 by tens of Hz.
    """
    if sample_rate_hz != 2 * LOW_RATE_HZ:
        import soxr  # noqa: PLC0415 - only rates other than the default need it

        samples = np.ascontiguousarray(soxr.resample(samples, sample_rate_hz, 2 * LOW_RATE_HZ), dtype=np.float32)
    return _halve(samples, _side_taps())


@functools.cache
def _side_taps() -> Singles:
    n_taps = 4 * _N_SIDE_TAPS - 1
    offset = np.arange(n_taps) - n_taps // 2
    taps = 0.5 * np.sinc(offset / 2) * np.kaiser(n_taps, 5.0)
    side = taps[n_taps // 2 + 1 :: 2]
    # Exactly 1 at 0 Hz.
    return (side * 0.25 / side.sum()).astype(np.float32)


@kernel
def _halve(samples: Singles, side_taps: Singles) -> Singles:
    n = (len(samples) + 1) // 2
    reach = len(side_taps)
    # Odd samples with zeros around them, so that the inner loop needs no bounds.
    odd = np.zeros(n + 2 * reach, np.float32)
    for k in range(len(samples) // 2):
        odd[reach + k] = samples[2 * k + 1]
    output = np.empty(n, np.float32)
    for start in range(0, n, _BLOCK):
        block = output[start : start + _BLOCK]
        for k in range(len(block)):
            block[k] = np.float32(0.5) * samples[2 * (start + k)]
        for j in range(0, reach, 4):
            tap_0, tap_1, tap_2, tap_3 = side_taps[j], side_taps[j + 1], side_taps[j + 2], side_taps[j + 3]
            ahead = odd[reach + start + j : reach + start + j + len(block) + 3]
            behind = odd[reach + start - 4 - j : reach + start - 1 - j + len(block)]
            for k in range(len(block)):
                block[k] += (
                    tap_0 * (ahead[k] + behind[k + 3])
                    + tap_1 * (ahead[k + 1] + behind[k + 2])
                    + tap_2 * (ahead[k + 2] + behind[k + 1])
                    + tap_3 * (ahead[k + 3] + behind[k])
                )
    return output
