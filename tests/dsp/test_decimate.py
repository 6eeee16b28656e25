"""Halving the rate keeps what lies below 5.2 kHz, and where it lies."""

from __future__ import annotations

import numpy as np
import pytest
from synthesis import tone

from ser_batch.dsp.decimate import LOW_RATE_HZ, to_low_rate


@pytest.mark.parametrize("frequency_hz", [50.0, 1000.0, 3000.0, 5200.0])
def test_tones_pass_unchanged_and_in_time(frequency_hz):
    output = to_low_rate(tone(frequency_hz, 0.2), 22_050)
    times_s = (np.arange(len(output)) + 0.25) / LOW_RATE_HZ
    middle = slice(100, -100)
    np.testing.assert_allclose(output[middle], 0.5 * np.sin(2 * np.pi * frequency_hz * times_s[middle]), atol=0.003)


@pytest.mark.parametrize("frequency_hz", [5800.0, 8000.0, 10500.0])
def test_tones_above_the_new_band_are_gone(frequency_hz):
    assert np.abs(to_low_rate(tone(frequency_hz, 0.2), 22_050)[100:-100]).max() < 0.5 * 10 ** (-45 / 20)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_other_rates_come_out_at_the_same_one(rate_hz):
    samples = np.sin(2 * np.pi * 300 * np.arange(rate_hz) / rate_hz).astype(np.float32)
    output = to_low_rate(samples, rate_hz)
    assert len(output) == pytest.approx(LOW_RATE_HZ, abs=2)
    assert np.abs(np.fft.rfft(output[:LOW_RATE_HZ])).argmax() == 300


@pytest.mark.parametrize("n_samples", [0, 1, 2, 3, 511, 1024, 1025])
def test_any_length(n_samples):
    output = to_low_rate(np.ones(n_samples, np.float32), 22_050)
    assert len(output) == (n_samples + 1) // 2
    assert output.dtype == np.float32
