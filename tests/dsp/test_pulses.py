"""Pulses, jitter and shimmer: on pulse trains of known perturbation, and against Praat."""

from __future__ import annotations

import numpy as np
import pytest
from synthesis import RATE_HZ, noise, pulses, resonance, with_noise

from ser_batch.dsp.pitch import track_f0
from ser_batch.dsp.pulses import find_pulses, jitter_local, period_amplitudes, shimmer_local

LIMITS = (0, 0, 0.0001, 0.02, 1.3)


def analyse(samples):
    track = track_f0(samples, RATE_HZ)
    pulses_s = find_pulses(samples, RATE_HZ, track.times_s[0], track.f0_hz)
    return pulses_s, period_amplitudes(samples, float(RATE_HZ), pulses_s)


def train(jitter, shimmer, period_s=0.008, n=120):
    """Periods and amplitudes that alternate: consecutive ones differ by `jitter` and `shimmer` of their means."""
    sign = np.where(np.arange(n) % 2, 0.5, -0.5)
    times_s = 0.05 + np.cumsum(period_s * (1 + sign * jitter))
    return times_s, 1 + sign * shimmer, times_s[-1] + 0.05


@pytest.mark.parametrize("jitter", [0.0, 0.005, 0.02, 0.06])
@pytest.mark.parametrize("shimmer", [0.0, 0.05, 0.15])
def test_known_jitter_and_shimmer_are_recovered(jitter, shimmer):
    times_s, amplitudes, duration_s = train(jitter, shimmer)
    found_s, found_amplitudes = analyse(pulses(times_s, amplitudes, duration_s))
    # The last pulse may lie outside of the voiced stretch; Praat's grid decides.
    assert len(times_s) - 4 <= len(found_s) <= len(times_s)
    assert jitter_local(found_s) == pytest.approx(jitter, abs=0.001)
    assert shimmer_local(found_s, found_amplitudes) == pytest.approx(shimmer, abs=0.005)


def test_pulses_are_found_where_they_are():
    times_s, amplitudes, duration_s = train(0.02, 0.0)
    found_s, _ = analyse(pulses(times_s, amplitudes, duration_s))
    distance = np.abs(found_s[:, None] - times_s[None, :]).min(axis=1)
    # A fiftieth of a sample, or 2 microseconds per step away from the seed.
    assert np.median(distance) < 3e-5


def test_jitter_of_exact_times():
    assert jitter_local(np.cumsum([0.01, 0.011, 0.01, 0.011, 0.01])) == pytest.approx(0.001 / 0.0105)


@pytest.mark.parametrize(
    ("intervals", "why"),
    [
        ([], "no pulse"),
        ([0.01], "one pulse"),
        ([0.01, 0.01], "one period"),
        ([0.01, 0.03, 0.03, 0.03], "periods above 20 ms"),
        ([0.01, 0.005, 0.01, 0.005, 0.01], "neighbours differ by more than 1.3"),
    ],
)
def test_jitter_is_undefined(intervals, why):
    assert np.isnan(jitter_local(np.cumsum(np.array(intervals, np.float64)))), why


def test_shimmer_leaves_out_neighbours_that_differ_by_more_than_1_6():
    times_s = np.arange(1, 7) * 0.01
    amplitudes = np.array([1.0, 1.1, 1.0, 2.0, 2.2, 2.0])
    expected = np.mean([0.1, 0.1, 0.2, 0.2]) / np.mean(amplitudes[:-1])
    assert shimmer_local(times_s, amplitudes) == pytest.approx(expected)
    assert np.isnan(shimmer_local(times_s, np.full(6, np.nan)))


def test_the_amplitude_of_a_steady_sine_is_its_root_mean_square_around_the_pulse():
    times = (np.arange(RATE_HZ) + 0.5) / RATE_HZ
    samples = np.sign(np.sin(2 * np.pi * 100 * times)).astype(np.float32) * 0.5
    amplitudes = period_amplitudes(samples, float(RATE_HZ), np.array([0.2025, 0.2125, 0.2225, 0.2325]))
    np.testing.assert_allclose(amplitudes, [np.nan, 0.5, 0.5, np.nan], rtol=1e-6)


def test_nothing_is_voiced_in_silence():
    samples = np.zeros(RATE_HZ, np.float32)
    assert len(find_pulses(samples, RATE_HZ, 0.02, np.full(97, np.nan))) == 0
    assert len(find_pulses(samples, RATE_HZ, 0.0, np.empty(0))) == 0


@pytest.mark.parametrize("snr_db", [60, 20, 10])
@pytest.mark.parametrize("f0_hz", [95, 180, 350])
def test_voices_agree_with_praat(praat, snr_db, f0_hz):
    rng = np.random.default_rng(f0_hz)
    periods_s = (1 + 0.02 * rng.standard_normal(round(0.8 * f0_hz))) / f0_hz
    clicks = pulses(0.1 + np.cumsum(periods_s), 1 + 0.05 * rng.standard_normal(len(periods_s)), 1.1)
    ring = resonance([700, 1200], [90, 110], 0.04)
    samples = with_noise(np.convolve(clicks, ring)[: len(clicks)].astype(np.float32) + noise(1.1, 1e-4), snr_db)
    sound = praat.sound(samples)
    points = praat.call([sound, sound.to_pitch_ac(0.01)], "To PointProcess (cc)")
    found_s, amplitudes = analyse(samples)
    assert len(found_s) == praat.call(points, "Get number of points")
    assert jitter_local(found_s) == pytest.approx(praat.call(points, "Get jitter (local)", *LIMITS), abs=1e-5)
    expected = praat.call([sound, points], "Get shimmer (local)", *LIMITS, 1.6)
    assert shimmer_local(found_s, amplitudes) == pytest.approx(expected, abs=1e-5)
