"""Harmonics-to-noise ratio: on voices with known noise, and against Praat."""

from __future__ import annotations

import numpy as np
import pytest
from synthesis import RATE_HZ, harmonics, noise, tone, vowel, with_noise

from ser_batch.dsp.harmonicity import harmonicity


# The highest of several peaks is taken, so what noise adds to one of them counts: about 1.5 dB where noise is weakest.
@pytest.mark.parametrize(("snr_db", "tolerance_db"), [(5.0, 1.0), (10.0, 1.0), (20.0, 1.0), (30.0, 2.0)])
def test_noise_added_to_a_periodic_signal_is_measured(snr_db, tolerance_db):
    samples = with_noise(harmonics(150.0, 2.0, [0, -3, -6, -9, -12, -15]), snr_db)
    assert np.nanmean(harmonicity(samples, RATE_HZ).hnr_db) == pytest.approx(snr_db, abs=tolerance_db)


def test_a_pure_tone_has_hardly_any_noise():
    assert np.nanmin(harmonicity(tone(200.0), RATE_HZ).hnr_db) > 50


@pytest.mark.parametrize("samples", [np.zeros(11_025, np.float32), np.zeros(2_000, np.float32), tone(200.0, 0.11)])
def test_silence_and_less_than_0_12_s_are_undefined(samples):
    assert np.isnan(harmonicity(samples, RATE_HZ).hnr_db).all()


def test_quiet_parts_are_left_out():
    samples = np.concatenate([tone(200.0, 0.5), tone(200.0, 0.5, amplitude=0.03)])
    result = harmonicity(samples, RATE_HZ)
    assert np.isnan(result.hnr_db[result.times_s > 0.6]).all()
    assert not np.isnan(result.hnr_db[result.times_s < 0.4]).any()


@pytest.mark.parametrize("snr_db", [60, 15, 5])
@pytest.mark.parametrize("f0_hz", [90, 210, 440])
def test_frames_agree_with_praat(praat, snr_db, f0_hz):
    voice = vowel(f0_hz, [600, 1300, 2500], [80, 100, 150])
    samples = with_noise(np.concatenate([noise(0.2, 0.001), voice, noise(0.2, 0.02, 1)]), snr_db)
    reference = praat.sound(samples).to_harmonicity_ac(0.01, 75.0, 0.1, 4.5)
    expected = np.where(reference.values[0] == -200, np.nan, reference.values[0])
    found = harmonicity(samples, RATE_HZ)
    np.testing.assert_allclose(found.times_s, reference.xs(), atol=1e-9)
    np.testing.assert_array_equal(np.isnan(found.hnr_db), np.isnan(expected))
    # As correlations: at 45 dB these differ from 1 by 3e-5, and single precision shows.
    np.testing.assert_allclose(1 / (1 + 10 ** (-found.hnr_db / 10)), 1 / (1 + 10 ** (-expected / 10)), atol=0.005)
    of_voices = expected < 40
    np.testing.assert_allclose(found.hnr_db[of_voices], expected[of_voices], atol=0.5)
    assert np.mean(found.hnr_db[of_voices]) == pytest.approx(np.mean(expected[of_voices]), abs=0.05)
