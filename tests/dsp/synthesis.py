"""Signals whose properties are known by construction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

RATE_HZ = 22_050


def seconds(duration_s: float) -> NDArray[np.float64]:
    """Sample times, in the convention of the analyses: sample i at (i + 0.5) / rate."""
    return (np.arange(round(duration_s * RATE_HZ)) + 0.5) / RATE_HZ


def tone(frequency_hz: float, duration_s: float = 0.5, amplitude: float = 0.5) -> NDArray[np.float32]:
    return (amplitude * np.sin(2 * np.pi * frequency_hz * seconds(duration_s))).astype(np.float32)


def harmonics(f0_hz: NDArray[np.float64] | float, duration_s: float, levels_db: list[float]) -> NDArray[np.float32]:
    """Harmonics of a constant or moving F0 at given levels re 0.1, in sine phase."""
    times = seconds(duration_s)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(f0_hz, times.shape)) / RATE_HZ
    parts = [0.1 * 10 ** (level / 20) * np.sin((k + 1) * phase) for k, level in enumerate(levels_db)]
    return np.sum(parts, axis=0).astype(np.float32)


def pulses(times_s: NDArray[np.float64], amplitudes: NDArray[np.float64], duration_s: float) -> NDArray[np.float32]:
    """Band-limited clicks (a Gaussian 0.3 ms wide) at exact times."""
    times = seconds(duration_s)
    signal = np.zeros(len(times))
    for time_s, amplitude in zip(times_s, amplitudes, strict=True):
        near = slice(*np.searchsorted(times, [time_s - 0.003, time_s + 0.003]))
        signal[near] += amplitude * np.exp(-0.5 * ((times[near] - time_s) / 0.0003) ** 2)
    return (0.5 * signal).astype(np.float32)


def vowel(
    f0_hz: float, formants_hz: list[float], bandwidths_hz: list[float], duration_s: float = 0.6
) -> NDArray[np.float32]:
    """Glottal-like pulses (-12 dB per octave, radiation +6) through a cascade of resonators."""
    phase = np.cumsum(np.full(round(duration_s * RATE_HZ), f0_hz / RATE_HZ))
    signal = np.diff(np.floor(phase), prepend=0.0)
    return _resonate(lfilter([1.0], [1.0, -0.97], signal), formants_hz, bandwidths_hz)


def resonance(formants_hz: list[float], bandwidths_hz: list[float], duration_s: float) -> NDArray[np.float32]:
    """The answer of a cascade of resonators to one click."""
    signal = np.zeros(round(duration_s * RATE_HZ))
    signal[0] = 1.0
    return _resonate(signal, formants_hz, bandwidths_hz)


def _resonate(signal: NDArray[np.float64], formants_hz: list[float], bandwidths_hz: list[float]) -> NDArray[np.float32]:
    for frequency_hz, bandwidth_hz in zip(formants_hz, bandwidths_hz, strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / RATE_HZ)
        poles = [1.0, -2 * radius * np.cos(2 * np.pi * frequency_hz / RATE_HZ), radius**2]
        signal = lfilter([sum(poles)], poles, signal)
    return (0.5 * signal / np.abs(signal).max()).astype(np.float32)


def noise(duration_s: float, rms: float = 0.05, seed: int = 0) -> NDArray[np.float32]:
    return (rms * np.random.default_rng(seed).standard_normal(round(duration_s * RATE_HZ))).astype(np.float32)


def with_noise(signal: NDArray[np.float32], snr_db: float, seed: int = 0) -> NDArray[np.float32]:
    rms = np.sqrt(np.mean(signal.astype(np.float64) ** 2)) * 10 ** (-snr_db / 20)
    return signal + noise(len(signal) / RATE_HZ, rms, seed)
