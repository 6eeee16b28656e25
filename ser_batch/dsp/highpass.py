"""A high-pass below every voice: constant offsets, hum of machines and the rumble of wind and steps are no speech."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ser_batch.dsp.frames import Doubles, Singles
from ser_batch.dsp.kernels import ordered_kernel

__all__ = ["CORNER_HZ", "HighPass"]

#: Half the power passes here; at 75 Hz, the lowest F0 looked for, 0.1 dB are lost.
CORNER_HZ: Final = 30.0
#: -160 dB re full scale: a tail below it is silence, as what caused it was.
_SILENT: Final = 1e-8
#: The offset at the start is the mean of this much audio.
_START_S: Final = 0.1
#: State that has decayed this far is cleared, before it slows down arithmetic.
_GONE: Final = 1e-20
_CHUNK: Final = 4096


class HighPass:
    """A Butterworth filter of second order at 30 Hz, for one recording from its start to its end.

    It begins as if the offset of the first 0.1 s had always been there, so that an offset makes no click.

    Parameters
    ----------
    sample_rate_hz : float
    """

    def __init__(self, sample_rate_hz: float) -> None:
        k = math.tan(math.pi * CORNER_HZ / sample_rate_hz)
        scale = 1.0 + math.sqrt(2.0) * k + k * k
        self._gain = 1.0 / scale
        self._feedback = np.array([2.0 * (k * k - 1.0) / scale, (1.0 - math.sqrt(2.0) * k + k * k) / scale])
        self._n_start = round(_START_S * sample_rate_hz)
        self._state: Doubles | None = None

    def __call__(self, samples: Singles, n_kept: int | None = None) -> Singles:
        """Filter the next samples of the recording.

        Parameters
        ----------
        samples : float32 (n_samples,)
            Finite.
        n_kept : int, optional
            How many of them the next call does not repeat; by default it repeats none. Calls give the samples that one
            call for the whole recording gives, to the last digit or the one before.

        Returns
        -------
        float32 (n_samples,)
            What is below -160 dB re full scale is 0.
        """
        if self._state is None:
            offset = float(samples[: self._n_start].mean(dtype=np.float64)) if len(samples) else 0.0
            self._state = np.array([-self._gain * offset, self._gain * offset])
        filtered = np.empty(len(samples), np.float32)
        n_kept = len(samples) if n_kept is None else n_kept
        _filter(samples[:n_kept], self._gain, self._feedback, self._state, filtered[:n_kept])
        if n_kept < len(samples):
            _filter(samples[n_kept:], self._gain, self._feedback, self._state.copy(), filtered[n_kept:])
        return filtered


@ordered_kernel
def _filter(samples: Singles, gain: float, feedback: Doubles, state: Doubles, filtered: Singles) -> None:
    """Write what passes into `filtered`, and keep `state` for what follows.

    As the textbook has it, but two samples at a time, with all that does not wait for the state computed first: from
    step to step one product and one sum are waited for.
    """
    first, second = state[0], state[1]
    a1, a2 = feedback[0], feedback[1]
    b1, b2 = -gain * (2.0 + a1), gain * (1.0 - a2)
    a11, a12 = a1 * a1 - a2, a1 * a2
    for start in range(0, len(samples), _CHUNK):
        end = min(start + _CHUNK, len(samples))
        for i in range(start, end - 1, 2):
            value, after = np.float64(samples[i]), np.float64(samples[i + 1])
            now = b1 * value
            passed = gain * value + first
            passed_after = (gain * after + now) + (second - a1 * first)
            filtered[i] = passed if abs(passed) >= _SILENT else 0.0
            filtered[i + 1] = passed_after if abs(passed_after) >= _SILENT else 0.0
            known, known_second = b1 * after + b2 * value - a1 * now, b2 * after - a2 * now
            first, second = (known - a1 * second) + a11 * first, (known_second - a2 * second) + a12 * first
        if (end - start) % 2:
            value = np.float64(samples[end - 1])
            passed = gain * value + first
            filtered[end - 1] = passed if abs(passed) >= _SILENT else 0.0
            first, second = b1 * value + second - a1 * first, b2 * value - a2 * first
        if abs(first) + abs(second) < _GONE:
            first = second = 0.0
    state[0], state[1] = first, second
