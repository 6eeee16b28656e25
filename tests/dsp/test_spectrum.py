"""Spectral balance and harmonic levels, on harmonics of known level."""

from __future__ import annotations

import numpy as np
import pytest
from synthesis import RATE_HZ, harmonics, tone

from ser_batch.dsp.pitch import track_f0
from ser_batch.dsp.spectrum import harmonic_levels, spectral_balance

ALPHA, HAMMARBERG, _, HIGH_SLOPE = range(4)


def balance_of(samples):
    track = track_f0(samples, RATE_HZ)
    return spectral_balance(track.power, np.arange(len(track.analysed)), track.bin_hz).mean(axis=0)


@pytest.mark.parametrize("level_db", [-30.0, -10.0, 5.0])
def test_two_tones_give_ratio_and_index(level_db):
    samples = tone(500.0, 0.5, 0.1) + tone(3000.0, 0.5, 0.1 * 10 ** (level_db / 20))
    balance = balance_of(samples)
    assert balance[ALPHA] == pytest.approx(level_db, abs=0.1)
    # Which bin is the highest depends on how a tone lies between two.
    assert balance[HAMMARBERG] == pytest.approx(-level_db, abs=1.5)


def test_a_straight_spectrum_has_its_slope():
    # 10 dB per kHz, in narrow steps: harmonics of 80 Hz.
    levels = [-0.8 * k for k in range(60)]
    balance = balance_of(harmonics(80.0, 0.5, levels))
    assert balance[HIGH_SLOPE] == pytest.approx(-10.0, abs=2.0)


def test_silence_has_no_balance():
    balance = spectral_balance(np.zeros((2, 513), np.float32), np.arange(2), 21.5)
    assert np.isnan(balance[:, :2]).all()


@pytest.mark.parametrize("f0_hz", [150.0, 260.0])
@pytest.mark.parametrize("difference_db", [-6.0, 0.0, 12.0])
def test_the_first_two_harmonics_are_compared(f0_hz, difference_db):
    track = track_f0(harmonics(f0_hz, 0.5, [difference_db, 0.0, -10.0, -20.0]), RATE_HZ)
    levels = harmonic_levels(
        track.power, np.arange(len(track.analysed)), track.bin_hz, track.f0_hz, np.full(len(track.f0_hz), np.nan)
    )
    assert levels[:, 0].mean() == pytest.approx(difference_db, abs=1.5)
    assert np.isnan(levels[:, 1]).all()


def test_a_nasal_voice_has_a_weak_first_formant_against_its_first_harmonics():
    oral = [0.0, 0.0, 3.0, 8.0, 3.0, -10.0]
    nasal = [3.0, 0.0, -6.0, -4.0, -8.0, -10.0]
    a1_p0 = []
    for levels_db in (oral, nasal):
        track = track_f0(harmonics(150.0, 0.5, levels_db), RATE_HZ)
        f1_hz = np.full(len(track.f0_hz), 600.0)
        rows = np.arange(len(track.analysed))
        a1_p0.append(harmonic_levels(track.power, rows, track.bin_hz, track.f0_hz, f1_hz)[:, 1].mean())
    np.testing.assert_allclose(a1_p0, [8.0, -7.0], atol=1.5)
