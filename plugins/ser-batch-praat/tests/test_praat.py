"""The extractor keeps the contract, and gives what Praat itself gives."""

from __future__ import annotations

import numpy as np
import parselmouth
import pytest
from parselmouth.praat import call
from ser_batch_praat import PraatExtractor

from ser_batch import Clip
from ser_batch.testing import check_extractor, check_signals

RATE_HZ = 22_050
COLUMNS = [name for name, _ in PraatExtractor.spec.scalars]


def measure(samples: np.ndarray, windows_s: list[list[float]] | None = None, start_s: float = 0.0) -> dict[str, float]:
    clip = Clip(samples.astype(np.float32), RATE_HZ, RATE_HZ, 1, start_s)
    block = PraatExtractor().extract(clip, np.array(windows_s or [[0.0, 3.0]]))
    values = block.clip_scalars if windows_s is None else block.scalars[0]
    return dict(zip(COLUMNS, values.tolist(), strict=True))


def pulse_train(f0_hz: float, duration_s: float = 3.0) -> np.ndarray:
    """A voice without any noise: all harmonics of a constant F0, falling by 6 dB per octave."""
    times_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    harmonics = np.arange(1, int(0.45 * RATE_HZ / f0_hz))
    return 0.2 * sum(np.sin(2 * np.pi * f0_hz * h * times_s) / h for h in harmonics)


def test_conforms() -> None:
    report = check_extractor(PraatExtractor())
    assert report.ok, str(report)


def test_a_steady_voice_has_its_pitch_and_no_perturbation() -> None:
    found = measure(pulse_train(137.0))
    assert found["f0_mean"] == pytest.approx(137.0, rel=1e-3)
    assert found["f0_sd"] == pytest.approx(0, abs=0.02)
    assert found["voiced_fraction"] > 0.95
    assert found["jitter_local"] < 0.001
    assert found["shimmer_local"] < 0.005
    assert found["hnr_mean"] > 40


def test_values_are_those_of_praat_for_the_whole_sound() -> None:
    samples = check_signals(RATE_HZ)["voice"]
    sound = parselmouth.Sound(samples.astype(np.float64), RATE_HZ)
    found = measure(samples)
    pulses = call(sound, "To PointProcess (periodic, cc)", 75, 600)
    assert found["jitter_local"] == pytest.approx(call(pulses, "Get jitter (local)", 0, 0, 0.0001, 0.02, 1.3), rel=1e-5)
    shimmer = call([sound, pulses], "Get shimmer (local)", 0, 0, 0.0001, 0.02, 1.3, 1.6)
    assert found["shimmer_local"] == pytest.approx(shimmer, rel=1e-5)
    assert found["f0_mean"] == pytest.approx(call(sound.to_pitch_ac(), "Get mean", 0, 0, "Hertz"), rel=1e-4)
    harmonicity = call(sound, "To Harmonicity (ac)", 0.01, 75, 0.1, 4.5)
    assert found["hnr_mean"] == pytest.approx(call(harmonicity, "Get mean", 0, 0), abs=1e-3)


def test_a_window_measures_its_own_stretch() -> None:
    samples = np.concatenate([pulse_train(110.0), pulse_train(220.0)])
    assert measure(samples, [[0.0, 3.0]])["f0_median"] == pytest.approx(110, rel=0.01)
    assert measure(samples, [[3.0, 6.0]])["f0_median"] == pytest.approx(220, rel=0.01)
    assert measure(samples, [[123.0, 126.0]], start_s=120.0)["f0_median"] == pytest.approx(220, rel=0.01)


def test_formants_are_where_the_resonances_are() -> None:
    samples = pulse_train(120.0)
    for frequency_hz in (600.0, 1_500.0, 2_600.0, 3_600.0, 4_500.0):
        radius, angle = np.exp(-np.pi * 80 / RATE_HZ), 2 * np.pi * frequency_hz / RATE_HZ
        a1, a2 = -2 * radius * np.cos(angle), radius**2
        out = np.zeros(len(samples) + 2)
        for i, value in enumerate(samples):
            out[i + 2] = value - a1 * out[i + 1] - a2 * out[i]
        samples = out[2:]
    found = measure(samples / np.abs(samples).max())
    assert found["f1_mean"] == pytest.approx(600, rel=0.05)
    assert found["f2_mean"] == pytest.approx(1_500, rel=0.05)
    assert found["f3_mean"] == pytest.approx(2_600, rel=0.05)


@pytest.mark.parametrize("n_samples", [1, 441, 3 * RATE_HZ])
def test_silence_of_any_length_is_undefined(n_samples: int) -> None:
    found = measure(np.zeros(n_samples))
    assert all(np.isnan(value) for name, value in found.items() if name != "voiced_fraction")
