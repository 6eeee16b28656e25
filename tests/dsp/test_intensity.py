"""Intensity: of sines of known level, and Praat's."""

from __future__ import annotations

import numpy as np
import pytest
from synthesis import RATE_HZ, noise, tone, vowel

from ser_batch.dsp.intensity import intensity


@pytest.mark.parametrize("amplitude", [1.0, 0.1, 0.001])
def test_a_sine_has_half_the_square_of_its_amplitude(amplitude):
    level_db = intensity(tone(220.0, 0.5, amplitude) + np.float32(0.2), RATE_HZ).level_db
    np.testing.assert_allclose(level_db, 20 * np.log10(amplitude) - 10 * np.log10(2), atol=0.05)


def test_silence_is_undefined_and_short_signals_have_no_frame():
    assert np.isnan(intensity(np.zeros(RATE_HZ, np.float32), RATE_HZ).level_db).all()
    assert len(intensity(np.ones(1_000, np.float32), RATE_HZ).level_db) == 0


def test_it_is_praats_but_for_the_reference(praat):
    samples = np.concatenate([noise(0.3), vowel(120, [700], [80], 0.3), noise(0.3, 0.001)])
    reference = praat.sound(samples).to_intensity(100.0, 0.01)
    found = intensity(samples, RATE_HZ)
    np.testing.assert_allclose(found.times_s, reference.xs(), atol=1e-9)
    np.testing.assert_allclose(found.level_db + 10 * np.log10(1 / 4e-10), reference.values[0], atol=0.01)
