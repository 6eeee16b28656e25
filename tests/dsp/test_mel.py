"""The log-mel spectrogram is librosa's."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
from synthesis import RATE_HZ, noise, tone, vowel

from ser_batch.dsp import mel


def reference(samples, rate_hz=RATE_HZ, n_bands=128):
    power = librosa.feature.melspectrogram(
        y=samples, sr=rate_hz, n_fft=2048, hop_length=512, n_mels=n_bands, fmin=0, fmax=min(8000, rate_hz / 2),
        htk=False, norm="slaney", center=True, pad_mode="constant", power=2,
    )  # fmt: skip
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)


SIGNALS = {
    "noise": noise(3.0),
    "loud and quiet": np.concatenate([noise(1.5, 0.3), noise(1.5, 1e-5, 1)]),
    "tone": tone(440.0, 3.0),
    "voice": np.tile(vowel(140, [600, 1200, 2500], [80, 100, 150]), 5),
    "click": np.eye(1, 66_150, 30_000, dtype=np.float32)[0],
    "offset": np.full(66_150, 0.4, np.float32),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_it_equals_librosa_to_a_thousandth_of_a_db(name):
    samples = SIGNALS[name]
    found = mel.log_mel(samples, len(samples), RATE_HZ)
    assert found.dtype == np.float32
    assert found.shape == (128, 130)
    np.testing.assert_allclose(found, reference(samples), atol=0.001)


@pytest.mark.parametrize("n_samples", [0, 1, 1000, 1024, 30_000, 66_149])
def test_a_short_stretch_is_padded_with_zeros(n_samples):
    samples = noise(3.0)[:n_samples]
    padded = np.pad(samples, (0, 66_150 - n_samples))
    np.testing.assert_allclose(mel.log_mel(samples, 66_150, RATE_HZ), reference(padded), atol=0.001)


@pytest.mark.parametrize("n_bands", [128, 64, 40, 16])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_other_rates_and_bands(rate_hz, n_bands):
    samples = noise(1.0)
    expected = reference(samples, rate_hz, n_bands)
    np.testing.assert_allclose(mel.log_mel(samples, len(samples), rate_hz, n_bands), expected, atol=0.001)


def test_silence_lies_on_the_floor():
    np.testing.assert_array_equal(mel.log_mel(np.zeros(66_150, np.float32), 66_150, RATE_HZ), -100)


def test_the_filters_are_a_few_numbers_each():
    filters = mel.mel_filters(RATE_HZ)
    dense = np.zeros((128, 1025))
    for band in range(128):
        weights = filters.weights[filters.first_weight[band] : filters.first_weight[band + 1]]
        dense[band, filters.first_bin[band] : filters.first_bin[band] + len(weights)] = weights
    expected = librosa.filters.mel(sr=RATE_HZ, n_fft=2048, n_mels=128, fmin=0, fmax=8000, dtype=np.float64)
    np.testing.assert_allclose(dense, expected, atol=1e-12)
    assert len(filters.weights) < 2000


@pytest.mark.parametrize(("scale", "highest_hz"), [((), 8_000.0), ((64, 16_000), 8_000.0), ((40, 8_000), 4_000.0)])
def test_bands_are_centred_where_librosa_has_them(scale, highest_hz):
    n_bands = scale[0] if scale else 128
    bands = np.arange(float(n_bands))
    expected = librosa.mel_frequencies(n_bands + 2, fmin=0.0, fmax=highest_hz, htk=False)[1:-1]
    np.testing.assert_allclose(mel.band_centre_hz(bands, *scale), expected, rtol=1e-9)
    np.testing.assert_allclose(mel.band_at_hz(mel.band_centre_hz(bands + 0.3, *scale), *scale), bands + 0.3, atol=1e-9)
