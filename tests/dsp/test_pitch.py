"""F0 and voicing: on signals of known F0, and against Praat."""

from __future__ import annotations

import numpy as np
import pytest
from synthesis import RATE_HZ, harmonics, noise, seconds, tone, vowel, with_noise

from ser_batch.dsp.pitch import mean_spectrum, track_f0

SLOPE = [0, -6, -9.5, -12, -14, -15.5, -17, -18]


# At 80 Hz a frame holds three periods, and which parts of them moves the peak.
@pytest.mark.parametrize(
    ("f0_hz", "tolerance"), [(80.0, 5e-4), (123.4, 1e-4), (220.0, 1e-4), (441.7, 1e-4), (590.0, 1e-4)]
)
def test_a_steady_voice_is_found(f0_hz, tolerance):
    track = track_f0(harmonics(f0_hz, 0.5, SLOPE), RATE_HZ)
    assert not np.isnan(track.f0_hz).any()
    np.testing.assert_allclose(track.f0_hz, f0_hz, rtol=tolerance)
    assert (track.strength > 0.98).all()


@pytest.mark.parametrize(("start_hz", "end_hz"), [(120.0, 240.0), (400.0, 150.0)])
def test_a_glide_is_followed(start_hz, end_hz):
    times = seconds(1.0)
    f0_hz = start_hz + (end_hz - start_hz) * times
    track = track_f0(harmonics(f0_hz, 1.0, SLOPE), RATE_HZ)
    np.testing.assert_allclose(track.f0_hz, np.interp(track.times_s, times, f0_hz), rtol=0.005)


def test_frames_are_10_ms_apart_and_centred():
    track = track_f0(tone(200.0, 0.5), RATE_HZ)
    np.testing.assert_allclose(np.diff(track.times_s), 0.01)
    assert track.times_s[0] + track.times_s[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("samples", [np.zeros(11_025, np.float32), np.full(11_025, 0.3, np.float32)])
def test_silence_and_a_constant_are_unvoiced(samples):
    track = track_f0(samples, RATE_HZ)
    assert len(track.f0_hz) == 47
    assert np.isnan(track.f0_hz).all()


def test_noise_is_almost_all_unvoiced():
    assert np.isnan(track_f0(noise(3.0), RATE_HZ).f0_hz).mean() > 0.98


@pytest.mark.parametrize("n_samples", [0, 1, 440, 881])
def test_less_than_three_longest_periods_has_no_frame(n_samples):
    assert len(track_f0(np.ones(n_samples, np.float32), RATE_HZ).f0_hz) == 0


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_other_sample_rates(rate_hz):
    samples = np.sin(2 * np.pi * 150.0 * np.arange(rate_hz // 2) / rate_hz).astype(np.float32)
    np.testing.assert_allclose(track_f0(samples, rate_hz).f0_hz, 150.0, rtol=1e-3)


def test_frames_that_are_too_quiet_to_be_voiced_are_not_analysed():
    samples = np.concatenate([tone(200.0, 0.5), tone(200.0, 0.5, amplitude=0.005)])
    track = track_f0(samples, RATE_HZ)
    assert track.times_s[track.analysed].max() < 0.53
    assert np.isnan(track.f0_hz[track.times_s > 0.53]).all()
    assert len(track.power) == len(track.analysed)


def test_the_spectra_have_their_peak_at_the_tone():
    track = track_f0(tone(500.0, 0.3), RATE_HZ)
    np.testing.assert_allclose(track.power.argmax(axis=1) * track.bin_hz, 500.0, atol=track.bin_hz / 2)
    assert mean_spectrum(tone(500.0, 0.3), RATE_HZ, np.array([0.1, 0.2])).argmax() == track.power[0].argmax()


@pytest.mark.parametrize("snr_db", [60, 20, 10, 5])
@pytest.mark.parametrize("range_hz", [(75.0, 600.0), (60.0, 400.0), (100.0, 1000.0)])
def test_frames_agree_with_praat(praat, snr_db, range_hz):
    parts = [noise(0.3, 0.001), vowel(110, [600, 1100, 2500], [80, 100, 150]), noise(0.2, 0.01, 1)]
    parts += [vowel(320, [400, 2000, 2700], [60, 100, 150]), noise(0.3, 0.001, 2)]
    samples = with_noise(np.concatenate(parts), snr_db)
    reference = praat.sound(samples).to_pitch_ac(0.01, *range_hz[:1], pitch_ceiling=range_hz[1])
    expected = reference.selected_array["frequency"]
    track = track_f0(samples, RATE_HZ, *range_hz)
    np.testing.assert_allclose(track.times_s, reference.xs(), atol=1e-9)
    voiced = expected > 0
    assert np.mean(voiced != ~np.isnan(track.f0_hz)) < 0.01
    both = voiced & ~np.isnan(track.f0_hz)
    cents = 1200 * np.abs(np.log2(track.f0_hz[both] / expected[both]))
    assert np.median(cents) < 0.1
    assert np.mean(cents > 50) < 0.01
