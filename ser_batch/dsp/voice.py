"""A voice made from nothing, for warming up, for measuring speed, and for trying extractors: no recording is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["synthetic_voice"]

#: Resonances and their half width, in Hz: about those of an open vowel.
_FORMANTS_HZ = (600.0, 1_400.0, 2_600.0)
_HALF_WIDTH_HZ = 120.0
_N_HARMONICS = 29


def synthetic_voice(
    duration_s: float, sample_rate_hz: int = 22_050, f0_hz: float = 175.0, seed: int = 1
) -> NDArray[np.float32]:
    """Return harmonics through three resonances, in syllables of a quarter of a second, with pauses and breath.

    Parameters
    ----------
    duration_s : float
    sample_rate_hz : int
    f0_hz : float
        Middle of the pitch, in Hz; it glides from 0.63 times that up to 1.37 times and back, and trembles by 2 %.
    seed : int
        Of the breath: white noise about 50 dB below the peak, so that no sample is digital silence.

    Returns
    -------
    samples : float32 (n_samples,)
        Peak at 0.7. The same arguments give the same samples.
    """
    times_s = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    pitch_hz = f0_hz * (1 - 0.37 * np.cos(2 * np.pi * times_s / duration_s))
    # No throat holds a pitch: by that it is told from an instrument.
    pitch_hz *= 1 + 0.02 * np.sin(2 * np.pi * 4.3 * times_s)
    first = np.exp(2j * np.pi * np.cumsum(pitch_hz) / sample_rate_hz)
    harmonic, voice = np.ones_like(first), np.zeros_like(times_s)
    for number in range(1, _N_HARMONICS + 1):
        frequency_hz = number * pitch_hz
        harmonic *= first
        gain = sum(1 / (1 + ((frequency_hz - formant_hz) / _HALF_WIDTH_HZ) ** 2) for formant_hz in _FORMANTS_HZ)
        voice += np.where(frequency_hz < 0.45 * sample_rate_hz, gain, 0) * harmonic.imag
    # A pause of half a second in every two.
    voice *= np.sin(4 * np.pi * times_s) ** 2 * (times_s % 2 < 1.5)
    peak = np.abs(voice).max(initial=np.finfo(np.float64).tiny)
    voice += 0.002 * peak * np.random.default_rng(seed).standard_normal(len(voice))
    return (0.7 / np.abs(voice).max(initial=peak) * voice).astype(np.float32)
