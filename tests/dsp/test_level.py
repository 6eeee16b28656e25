"""Levels, activity, noise and bandwidth, on signals built to order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import firwin
from synthesis import RATE_HZ, noise

from ser_batch.dsp import level
from ser_batch.dsp.pitch import mean_spectrum


def test_blocks_have_the_energy_of_their_samples_about_the_mean():
    samples = np.concatenate([np.full(200, 0.3), np.full(200, 0.7), np.full(50, 1.0)]).astype(np.float32)
    energy, n_clipped = level.block_levels(samples, samples, 0.3, 200, 0.99)
    np.testing.assert_allclose(energy, [0.0, 200 * 0.16, 50 * 0.49], atol=1e-5)
    np.testing.assert_array_equal(n_clipped, [0, 0, 50])
    assert len(level.block_levels(*[np.empty(0, np.float32)] * 2, 0.0, 200, 0.99)[0]) == 0


def test_what_is_35_db_below_the_loud_parts_is_not_active():
    power = np.repeat(10.0 ** (np.array([-20, -50, -60, -200]) / 10), 20)
    np.testing.assert_array_equal(level.active_blocks(power), np.repeat([True, True, False, False], 20))


def test_one_click_does_not_silence_the_rest():
    power = np.full(300, 1e-6)
    power[10] = 1.0
    assert level.active_blocks(power).all()


@pytest.mark.parametrize("power", [np.zeros(10), np.full(10, 1e-15), np.empty(0)])
def test_digital_silence_is_never_active(power):
    assert not level.active_blocks(power).any()


def test_noise_is_found_in_the_pauses():
    rng = np.random.default_rng(0)
    power = 1e-4 * rng.chisquare(200, 300) / 200
    power[50:200] += 1e-2
    assert 10 * np.log10(level.noise_power(power)) == pytest.approx(-40, abs=1)


@pytest.mark.parametrize("cutoff_hz", [3400, 5500, 8000])
@pytest.mark.parametrize("floor", [1e-6, 1e-4])
def test_a_low_pass_is_found_to_0_3_khz(cutoff_hz, floor):
    taps = firwin(401, cutoff_hz, fs=RATE_HZ, window=("kaiser", 9.0))
    samples = np.convolve(noise(1.0), taps, mode="same").astype(np.float32) + noise(1.0, floor, 1)
    times_s = np.arange(0.1, 0.9, 0.03)
    active = mean_spectrum(samples, RATE_HZ, times_s)
    quiet = mean_spectrum(noise(1.0, floor, 2), RATE_HZ, times_s)
    found = level.bandwidth_hz(active, quiet, RATE_HZ / 1024, RATE_HZ / 2)
    assert found == pytest.approx(cutoff_hz, abs=300)


def test_a_signal_that_never_stands_out_has_no_bandwidth():
    spectrum = mean_spectrum(noise(1.0), RATE_HZ, np.arange(0.1, 0.9, 0.03))
    assert np.isnan(level.bandwidth_hz(spectrum, spectrum, RATE_HZ / 1024, RATE_HZ / 2))
