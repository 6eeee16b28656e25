"""Cepstral peak prominence: higher for clearer voices, and Praat's."""

from __future__ import annotations

import numpy as np
import pytest
from synthesis import RATE_HZ, noise, vowel, with_noise

from ser_batch.dsp.cepstrum import cepstral_prominence
from ser_batch.dsp.decimate import LOW_RATE_HZ, to_low_rate
from ser_batch.dsp.formants import pre_emphasised


def analyse(samples):
    low_rate = pre_emphasised(to_low_rate(samples, RATE_HZ), float(LOW_RATE_HZ), 50.0)
    return cepstral_prominence(low_rate, LOW_RATE_HZ, len(samples) / RATE_HZ)


def test_noise_lowers_the_prominence_of_a_voice():
    voice = vowel(150, [700, 1200, 2500], [80, 100, 150])
    levels = [np.mean(analyse(with_noise(voice, snr_db)).cpps_db) for snr_db in (40, 20, 10, 0)]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > levels[-1] + 8


def test_silent_frames_are_undefined_and_others_are_not():
    result = analyse(np.concatenate([np.zeros(11_025, np.float32), vowel(150, [700], [80], 0.5)]))
    assert np.isnan(result.cpps_db[result.times_s < 0.4]).all()
    assert not np.isnan(result.cpps_db[result.times_s > 0.5]).any()


@pytest.mark.parametrize("offset", [0.0, 0.05])
def test_digital_silence_is_undefined_whatever_its_offset_and_has_no_say_in_means(offset):
    voice = with_noise(vowel(150, [700], [80], 0.5), 20)
    silence = np.zeros(11_025, np.float32)
    result = analyse(np.concatenate([silence, voice, silence]) + np.float32(offset))
    inside = (result.times_s > 0.46) & (result.times_s < 1.04)
    # Away from the voice, and from the ends, where a resampled offset begins and ends.
    silent = np.abs(np.abs(result.times_s - 0.75) - 0.49) < 0.15
    assert np.isnan(result.cpps_db[silent]).all() and not np.isnan(result.cpps_db[inside]).any()


@pytest.mark.parametrize("duration_s", [0.0, 0.001, 0.099])
def test_less_than_a_tenth_of_a_second_has_no_frame(duration_s):
    assert len(analyse(noise(duration_s)).cpps_db) == 0


@pytest.mark.parametrize("snr_db", [30, 15, 5])
@pytest.mark.parametrize("f0_hz", [90, 180, 320])
def test_the_mean_agrees_with_praat(praat, snr_db, f0_hz):
    voice = vowel(f0_hz, [600, 1300, 2500, 3500, 4500], [80, 100, 150, 200, 250])
    samples = with_noise(np.concatenate([noise(0.3, 0.001), voice]), snr_db)
    cepstrogram = praat.call(praat.sound(samples), "To PowerCepstrogram", 60, 0.01, 5000, 50)
    settings = (60, 330, 0.05, "Parabolic", 0.001, 0, "Straight", "Robust")
    expected = praat.call(cepstrogram, "Get CPPS", False, 0.01, 0.001, *settings)
    result = analyse(samples)
    assert len(result.times_s) == praat.call(cepstrogram, "Get number of frames")
    assert result.times_s[0] == pytest.approx(praat.call(cepstrogram, "Get time from frame number", 1), abs=1e-4)
    # The band ends at 4.9 kHz here; there at 5 kHz, where the resampling fades out.
    assert np.mean(result.cpps_db) == pytest.approx(expected, abs=0.35)
