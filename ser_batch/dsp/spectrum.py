"""Spectral balance of voiced frames, and the levels of single harmonics.

Alpha ratio, Hammarberg index and slopes are those of GeMAPS: Eyben et al. (2016), "The Geneva Minimalistic Acoustic
Parameter Set (GeMAPS) for voice research and affective computing", IEEE Trans. Affect. Comput. 7, 190-202.
"""

from __future__ import annotations

import math

import numpy as np

from ser_batch.dsp.frames import Doubles, Indices, Singles
from ser_batch.dsp.kernels import finite_inner_kernel, inner_kernel, kernel
from ser_batch.dsp.lanes import LANES, larger, load, log2, splat, store

__all__ = ["harmonic_levels", "spectral_balance"]


@inner_kernel
def _regression_db_per_khz(octaves: Singles, low_hz: float, high_hz: float, bin_hz: float) -> float:
    """Return the slope of a line through bins of a spectrum given as base-2 logarithms of power."""
    n, sum_x, sum_y, sum_xx, sum_xy = 0, 0.0, 0.0, 0.0, 0.0
    for k in range(max(math.ceil(low_hz / bin_hz), 1), min(int(high_hz / bin_hz) + 1, len(octaves))):
        x = k * bin_hz / 1000.0
        n += 1
        sum_x += x
        sum_y += octaves[k]
        sum_xx += x * x
        sum_xy += x * octaves[k]
    spread = n * sum_xx - sum_x * sum_x
    return 10.0 * math.log10(2.0) * (n * sum_xy - sum_x * sum_y) / spread if spread > 0.0 else math.nan


@finite_inner_kernel
def _strongest(spectrum: Singles) -> np.float32:
    strongest = np.float32(0.0)
    for k in range(len(spectrum)):
        strongest = max(strongest, spectrum[k])
    return strongest


@finite_inner_kernel
def _sum(spectrum: Singles) -> np.float32:
    total = np.float32(0.0)
    for k in range(len(spectrum)):
        total += spectrum[k]
    return total


@kernel
def spectral_balance(power: Singles, rows: Indices, bin_hz: float) -> Doubles:
    """Describe the balance of power spectra.

    Parameters
    ----------
    power : float32 (n_spectra, n_bins)
    rows : int64 (n_frames,)
        Which spectra to describe.
    bin_hz : float
        Distance between bins.

    Returns
    -------
    float64 (n_frames, 4)
        Alpha ratio: energy of 1 to 5 kHz over that of 50 Hz to 1 kHz, dB (below 0 for most voices; as openSMILE
        computes it). Hammarberg index: strongest bin up to 2 kHz over the strongest from 2 to 5 kHz, dB.
        Slope of a straight line through the dB spectrum from 0 to 500 Hz, and from 500 to 1500 Hz, dB per kHz.
        NaN where the band holds no energy.
    """
    balance = np.full((len(rows), 4), np.nan)
    n_bins = power.shape[1]
    at_50, at_1k = math.ceil(50.0 / bin_hz), math.ceil(1000.0 / bin_hz)
    at_2k, at_5k = math.ceil(2000.0 / bin_hz), min(math.ceil(5000.0 / bin_hz), n_bins)
    octaves = np.empty(min(math.ceil(1500.0 / bin_hz) // LANES + 1, n_bins // LANES) * LANES, np.float32)
    floor = splat(np.float32(1e-30))
    for frame in range(len(rows)):
        spectrum = power[rows[frame]]
        for k in range(0, len(octaves), LANES):
            store(octaves, k, log2(larger(load(spectrum, k), floor)))
        low, high = _sum(spectrum[at_50 : min(at_1k, n_bins)]), _sum(spectrum[at_1k:at_5k])
        low_peak, high_peak = _strongest(spectrum[: min(at_2k, n_bins)]), _strongest(spectrum[at_2k:at_5k])
        if low > 0.0 and high > 0.0:
            balance[frame, 0] = 10.0 * math.log10(high / low)
        if low_peak > 0.0 and high_peak > 0.0:
            balance[frame, 1] = 10.0 * math.log10(low_peak / high_peak)
        balance[frame, 2] = _regression_db_per_khz(octaves, 0.0, 500.0, bin_hz)
        balance[frame, 3] = _regression_db_per_khz(octaves, 500.0, 1500.0, bin_hz)
    return balance


@inner_kernel
def _harmonic_power(spectrum: Singles, frequency_hz: float, bin_hz: float) -> float:
    """Return the strongest bin within one bin of a harmonic."""
    middle = round(frequency_hz / bin_hz)
    strongest = 0.0
    for k in range(max(middle - 1, 0), min(middle + 2, len(spectrum))):
        strongest = max(strongest, spectrum[k])
    return strongest


@kernel
def harmonic_levels(power: Singles, rows: Indices, bin_hz: float, f0_hz: Doubles, f1_hz: Doubles) -> Doubles:
    """Compare the levels of harmonics.

    Parameters
    ----------
    power : float32 (n_spectra, n_bins)
    rows : int64 (n_frames,)
    bin_hz : float
    f0_hz, f1_hz : float64 (n_frames,)
        F0 and first formant.

    Returns
    -------
    float64 (n_frames, 2)
        H1 - H2, dB: first over second harmonic, higher for breathy voices.
        A1 - P0, dB: strongest harmonic near F1 over the stronger of the first two, after Chen (1997), "Acoustic
        correlates of English and French nasalized vowels", J. Acoust. Soc. Am. 102, 2360-2370; lower for nasal
        voices. 0 where both are one harmonic. NaN where F1 or a level is undefined.
    """
    levels = np.full((len(rows), 2), np.nan)
    for frame in range(len(rows)):
        spectrum = power[rows[frame]]
        f0 = f0_hz[frame]
        first = _harmonic_power(spectrum, f0, bin_hz)
        second = _harmonic_power(spectrum, 2.0 * f0, bin_hz)
        if not (first > 0.0 and second > 0.0):
            continue
        levels[frame, 0] = 10.0 * math.log10(first / second)
        if math.isnan(f1_hz[frame]):
            continue
        nearest = max(round(f1_hz[frame] / f0), 1)
        formant = 0.0
        for k in range(max(nearest - 1, 1), nearest + 2):
            formant = max(formant, _harmonic_power(spectrum, k * f0, bin_hz))
        if formant > 0.0:
            levels[frame, 1] = 10.0 * math.log10(formant / max(first, second))
    return levels
