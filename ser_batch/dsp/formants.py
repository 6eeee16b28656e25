"""Formants by linear prediction (Burg), as Praat's "To Formant (burg)".

Burg's recursion: Childers (1978), "Modern Spectrum Analysis", IEEE Press, 252-255. A formant is a pole: its angle
gives the frequency, its radius the bandwidth.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ser_batch.dsp.frames import Doubles, Singles, gaussian_taper
from ser_batch.dsp.kernels import inner_kernel, kernel

__all__ = ["FRAME_S", "N_FORMANTS", "burg_formants", "pre_emphasised"]

N_FORMANTS: Final = 3
_N_POLES: Final = 10
#: Whole length of the Gaussian taper; Praat calls it a window length of 0.025 s.
FRAME_S: Final = 0.05
_MARGIN_HZ: Final = 50.0


@kernel
def pre_emphasised(samples: Singles, sample_rate_hz: float, from_hz: float) -> Singles:
    """Raise the spectrum by 6 dB per octave above `from_hz`: ``y[i] = x[i] - exp(-2 pi from_hz / rate) x[i - 1]``.

    Parameters
    ----------
    samples : float32 (n_samples,)
    sample_rate_hz, from_hz : float

    Returns
    -------
    float32 (n_samples,)
    """
    factor = np.float32(math.exp(-2.0 * math.pi * from_hz / sample_rate_hz))
    output = np.empty_like(samples)
    if len(samples):
        output[0] = samples[0]
    for i in range(1, len(samples)):
        output[i] = samples[i] - factor * samples[i - 1]
    return output


def burg_formants(samples: Singles, sample_rate_hz: float, times_s: Doubles) -> tuple[Doubles, Doubles]:
    """Find the lowest formants at given times.

    Parameters
    ----------
    samples : float32 (n_samples,)
        Pre-emphasised from 50 Hz, at about 11 kHz: twice the highest formant frequency to look for.
    sample_rate_hz : float
    times_s : float64 (n_frames,)
        Centres of the frames.

    Returns
    -------
    frequency_hz, bandwidth_hz : float64 (n_frames, N_FORMANTS)
        By rising frequency; NaN where the prediction polynomial has fewer poles between 50 Hz and 50 Hz below half
        the rate.

    Notes
    -----
    Praat's defaults: 10 poles up to 5500 Hz, a Gaussian taper of 50 ms in all. Other than Praat: only at the times
    asked for (the extractor asks for voiced frames, 10 ms apart), and the recursion runs in single precision.
    """
    frequency_hz = np.full((len(times_s), N_FORMANTS), np.nan)
    bandwidth_hz = np.full((len(times_s), N_FORMANTS), np.nan)
    if len(samples) > 2 * _N_POLES:
        _formants(samples, float(sample_rate_hz), times_s, _taper(float(sample_rate_hz)), frequency_hz, bandwidth_hz)
    return frequency_hz, bandwidth_hz


@functools.lru_cache(maxsize=8)
def _taper(sample_rate_hz: float) -> Singles:
    return gaussian_taper(math.floor(FRAME_S * sample_rate_hz)).astype(np.float32)


@kernel
def _formants(
    samples: Singles,
    sample_rate_hz: float,
    times_s: Doubles,
    taper: Singles,
    frequency_hz: Doubles,
    bandwidth_hz: Doubles,
) -> None:
    half_frame = len(taper) // 2
    forward = np.empty(len(taper) + 1, np.float32)
    backward = np.empty(len(taper) + 1, np.float32)
    coefficients = np.empty(_N_POLES)
    poles = np.zeros(_N_POLES, np.complex128)
    found = np.empty((2, _N_POLES))
    for frame in range(len(times_s)):
        left = math.floor(times_s[frame] * sample_rate_hz - 0.5)
        start = max(left + 1 - half_frame, 0)
        n = min(left + half_frame, len(samples) - 1) + 1 - start
        if n <= 2 * _N_POLES:
            continue
        for j in range(n):
            forward[j] = samples[start + j] * taper[j]
        if not _burg(forward, backward, n, coefficients):
            continue
        _roots(coefficients, poles)
        count = 0
        for k in range(_N_POLES):
            if poles[k].imag < 0.0:
                continue
            radius = abs(poles[k])
            radius = 1.0 / radius if radius > 1.0 else radius
            frequency = math.atan2(poles[k].imag, poles[k].real) * sample_rate_hz / (2.0 * math.pi)
            if not (_MARGIN_HZ <= frequency <= 0.5 * sample_rate_hz - _MARGIN_HZ) or radius <= 0.0:
                continue
            place = count
            while place > 0 and found[0, place - 1] > frequency:
                found[0, place], found[1, place] = found[0, place - 1], found[1, place - 1]
                place -= 1
            found[0, place] = frequency
            found[1, place] = -math.log(radius) * sample_rate_hz / math.pi
            count += 1
        for k in range(min(count, frequency_hz.shape[1])):
            frequency_hz[frame, k] = found[0, k]
            bandwidth_hz[frame, k] = found[1, k]


@inner_kernel
def _burg(forward: Singles, backward: Singles, n: int, coefficients: Doubles) -> bool:
    """Predict the `n` samples in `forward` from the ones before them; return False for an empty frame."""
    product = np.float32(0.0)
    energy = np.float32(0.0)
    for j in range(n - 1):
        backward[j] = forward[j]
        forward[j] = forward[j + 1]
        product += forward[j] * backward[j]
        energy += forward[j] * forward[j] + backward[j] * backward[j]
    order = len(coefficients)
    previous = np.empty(order)
    for i in range(order):
        if not energy > 0.0:
            return False
        reflection = 2.0 * product / energy
        for j in range(i):
            previous[j] = coefficients[j]
        for j in range(i):
            coefficients[j] = previous[j] - reflection * previous[i - 1 - j]
        coefficients[i] = reflection
        factor = np.float32(reflection)
        product = np.float32(0.0)
        energy = np.float32(0.0)
        forward, backward = forward[: n - i - 1], backward[: n - i - 1]
        for j in range(len(forward) - 1):
            ahead = forward[j + 1] - factor * backward[j + 1]
            behind = backward[j] - factor * forward[j]
            forward[j] = ahead
            backward[j] = behind
            product += ahead * behind
            energy += ahead * ahead + behind * behind
    return True


@inner_kernel
def _roots(coefficients: Doubles, poles: NDArray[np.complex128]) -> None:
    """Find all roots of ``z**n - sum(coefficients[k] z**(n - 1 - k))`` by Laguerre's method with deflation.

    What `poles` holds (those of the frame before) serves as first guesses.
    """
    n = len(coefficients)
    polynomial = np.empty(n + 1)
    polynomial[n] = 1.0
    for k in range(n):
        polynomial[n - 1 - k] = -coefficients[k]
    degree = n
    while degree > 0:
        root = _laguerre(polynomial, degree, poles[degree - 1])
        if degree == 1 or abs(root.imag) <= 1e-7 * abs(root.real):
            for k in range(degree - 1, -1, -1):
                polynomial[k] += root.real * polynomial[k + 1]
            for k in range(degree):
                polynomial[k] = polynomial[k + 1]
            degree -= 1
            poles[degree] = complex(root.real, 0.0)
        else:
            twice, norm = 2.0 * root.real, root.real**2 + root.imag**2
            polynomial[degree - 1] += twice * polynomial[degree]
            for k in range(degree - 2, -1, -1):
                polynomial[k] += twice * polynomial[k + 1] - norm * polynomial[k + 2]
            for k in range(degree - 1):
                polynomial[k] = polynomial[k + 2]
            degree -= 2
            poles[degree] = complex(root.real, -abs(root.imag))
            poles[degree + 1] = complex(root.real, abs(root.imag))


@inner_kernel
def _laguerre(polynomial: Doubles, degree: int, guess: complex) -> complex:
    """Find one root."""
    root = guess
    for _ in range(60):
        value = complex(polynomial[degree], 0.0)
        first = 0.0 + 0.0j
        second = 0.0 + 0.0j
        for k in range(degree - 1, -1, -1):
            second = root * second + first
            first = root * first + value
            value = root * value + polynomial[k]
        if value.real**2 + value.imag**2 < 1e-28:
            break
        inverse = value.conjugate() / (value.real**2 + value.imag**2)
        g = first * inverse
        h = g * g - 2.0 * second * inverse
        spread = _square_root((degree - 1) * (degree * h - g * g))
        # The denominator of larger size: spread points the same way as g.
        larger = g + spread if g.real * spread.real + g.imag * spread.imag >= 0.0 else g - spread
        size = larger.real**2 + larger.imag**2
        if size == 0.0:
            root += complex(0.5, 0.5)
            continue
        step = degree * larger.conjugate() / size
        root -= step
        # Convergence is cubic: what remains is far below this.
        if step.real**2 + step.imag**2 <= 1e-10 * (root.real**2 + root.imag**2):
            break
    return root


@inner_kernel
def _square_root(value: complex) -> complex:
    size = math.sqrt(value.real**2 + value.imag**2)
    real = math.sqrt(max(0.5 * (size + value.real), 0.0))
    return complex(real, math.copysign(math.sqrt(max(0.5 * (size - value.real), 0.0)), value.imag))
