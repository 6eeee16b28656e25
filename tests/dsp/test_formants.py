"""Formants: on resonators of known frequency, and against Praat."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from synthesis import RATE_HZ, resonance, vowel

from ser_batch.dsp import formants
from ser_batch.dsp.decimate import LOW_RATE_HZ, to_low_rate

VOWELS = {
    "a": [730.0, 1090.0, 2440.0, 3500.0, 4500.0],
    "e": [530.0, 1840.0, 2480.0, 3500.0, 4500.0],
    "u": [300.0, 870.0, 2240.0, 3400.0, 4500.0],
}
BANDWIDTHS = [60.0, 80.0, 120.0, 160.0, 200.0]


# It is called by kernels alone.
@numba.njit
def find_roots(coefficients, poles):
    formants._roots(coefficients, poles)


def analyse(samples, times_s):
    low_rate = formants.pre_emphasised(to_low_rate(samples, RATE_HZ), float(LOW_RATE_HZ), 50.0)
    return formants.burg_formants(low_rate, LOW_RATE_HZ, np.asarray(times_s) + 0.25 / LOW_RATE_HZ)


@pytest.mark.parametrize("name", VOWELS)
@pytest.mark.parametrize("f0_hz", [100, 130])
def test_known_formants_are_found_to_5_percent_or_half_an_f0(name, f0_hz):
    frequency_hz, _ = analyse(vowel(f0_hz, VOWELS[name], BANDWIDTHS), np.arange(0.1, 0.5, 0.01))
    # Linear prediction is drawn to harmonics, the more the higher the voice.
    tolerance_hz = np.maximum(0.05 * np.array(VOWELS[name][:3]), 0.5 * f0_hz)
    assert (np.abs(frequency_hz.mean(axis=0) - VOWELS[name][:3]) < tolerance_hz).all()


def test_a_single_ringing_shows_frequencies_and_bandwidths():
    # While a ringing decays the taper still rises, which hides part of the decay.
    frequency_hz, bandwidth_hz = analyse(np.pad(resonance(VOWELS["a"], BANDWIDTHS, 0.2), 4000), [0.186])
    np.testing.assert_allclose(frequency_hz[0], VOWELS["a"][:3], rtol=0.05)
    assert (bandwidth_hz[0] < BANDWIDTHS[:3]).all()
    assert (bandwidth_hz[0] > 0.4 * np.array(BANDWIDTHS[:3])).all()


def test_roots_are_those_of_numpy():
    rng = np.random.default_rng(0)
    found = np.zeros(10, np.complex128)
    for _ in range(200):
        poles = rng.uniform(0.3, 0.99, 5) * np.exp(1j * rng.uniform(0.01, np.pi, 5))
        if rng.random() < 0.3:
            expected = np.concatenate([poles[:4], poles[:4].conj(), rng.uniform(-0.9, 0.9, 2)])
        else:
            expected = np.concatenate([poles, poles.conj()])
        find_roots(-np.real(np.poly(expected))[1:], found)
        distance = np.abs(found[:, None] - expected[None, :])
        assert distance.min(axis=0).max() < 1e-5
        assert distance.min(axis=1).max() < 1e-5


@pytest.mark.parametrize("samples", [np.zeros(4_410, np.float32), np.zeros(0, np.float32), np.ones(9, np.float32)])
def test_silence_and_next_to_nothing_are_undefined(samples):
    frequency_hz, bandwidth_hz = analyse(samples, [0.0, 0.1])
    assert frequency_hz.shape == bandwidth_hz.shape == (2, formants.N_FORMANTS)
    assert np.isnan(frequency_hz).all()
    assert np.isnan(bandwidth_hz).all()


def test_frames_agree_with_praat_on_its_own_samples(praat):
    sound = praat.sound(np.concatenate([vowel(120, VOWELS[name], BANDWIDTHS, 0.3) for name in VOWELS]))
    reference = sound.to_formant_burg(0.01)
    low_rate = sound.resample(11_000, 50).values[0].astype(np.float32)
    frequency_hz, bandwidth_hz = formants.burg_formants(
        formants.pre_emphasised(low_rate, 11_000.0, 50.0), 11_000.0, reference.xs()
    )
    for k in range(3):
        expected = [reference.get_value_at_time(k + 1, time_s) for time_s in reference.xs()]
        assert np.median(np.abs(frequency_hz[:, k] - expected)) < 0.1
        expected = [reference.get_bandwidth_at_time(k + 1, time_s) for time_s in reference.xs()]
        assert np.median(np.abs(bandwidth_hz[:, k] - expected)) < 0.5


@pytest.mark.parametrize("f0_hz", [110, 230])
def test_means_agree_with_praat_after_our_resampling(praat, f0_hz):
    samples = np.concatenate([vowel(f0_hz, VOWELS[name], BANDWIDTHS, 0.3) for name in VOWELS])
    reference = praat.sound(samples).to_formant_burg(0.01)
    frequency_hz, _ = analyse(samples, reference.xs())
    for k, tolerance_hz in enumerate([5, 15, 15]):
        expected = [reference.get_value_at_time(k + 1, time_s) for time_s in reference.xs()]
        assert frequency_hz[:, k].mean() == pytest.approx(np.mean(expected), abs=tolerance_hz)
