"""What counts as a voice: clear cases of what is none are refused, and no voice is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import chirp, sawtooth

from ser_batch.dsp.voice import synthetic_voice
from ser_batch.extractors.voicing import voice_spans
from ser_batch.records import Clip

RATE_HZ = 22_050
TIMES_S = np.arange(4 * RATE_HZ) / RATE_HZ


def spans(samples: np.ndarray, start_s: float = 0.0) -> np.ndarray:
    return voice_spans(Clip(np.asarray(samples, np.float32), RATE_HZ, RATE_HZ, 1, start_s))


def noise(exponent: float = 0.0) -> np.ndarray:
    """White (0), pink (1), brown (2), between and beyond."""
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(len(TIMES_S)))
    spectrum /= np.maximum(np.fft.rfftfreq(len(TIMES_S), 1 / RATE_HZ), 30) ** (exponent / 2)
    samples = np.fft.irfft(spectrum, len(TIMES_S))
    return 0.1 * samples / samples.std()


def tone(*frequencies_hz: float) -> np.ndarray:
    return 0.3 / len(frequencies_hz) * sum(np.sin(2 * np.pi * hz * TIMES_S) for hz in frequencies_hz)


def held_notes() -> np.ndarray:
    """A scale of half seconds, each note with eight harmonics that die away."""
    place_s = TIMES_S % 0.5
    f0_hz = 262.0 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12])[(TIMES_S / 0.5).astype(int)] / 12)
    return sum(0.1 / k * np.sin(2 * np.pi * k * f0_hz * place_s) * np.exp(-3 * k**0.5 * place_s) for k in range(1, 9))


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(RATE_HZ),
        np.zeros(0),
        np.full(400, 0.1),
        noise(),
        noise(1.0),
        noise(1.5),
        noise(2.0),
        noise(3.0),
        noise(4.0),
        1e-3 * noise(),
        np.concatenate([noise(), np.zeros(5 * RATE_HZ)]),
        tone(1_000),
        tone(100),
        tone(440) + 0.01 * noise(),
        tone(770, 1_336),
        tone(440, 480) * (TIMES_S % 2 < 1),
        tone(*range(50, 1_000, 50)),
        held_notes(),
        chirp(TIMES_S, 80, 4, 4_000, method="logarithmic"),
        sawtooth(2 * np.pi * 220 * TIMES_S),
        np.sin(2 * np.pi * np.cumsum(np.where(np.arange(len(TIMES_S)) // 73 % 3 == 1, 1_200, 2_200)) / RATE_HZ),
    ],
)
def test_silence_noise_and_held_tones_are_no_voice(samples):
    assert spans(samples).shape == (0, 2)


@pytest.mark.parametrize("gain", [1, 30, 300])
def test_an_overdriven_voice_is_a_voice(gain):
    assert len(spans(np.clip(gain * synthetic_voice(1.4, RATE_HZ), -1, 1)))


def whisper() -> np.ndarray:
    return noise() * (0.02 + np.sin(2 * np.pi * 2 * TIMES_S) ** 2)


@pytest.mark.parametrize("gain", [1.0, 1e-3])
def test_voices_and_whispers_are_found_where_they_are(gain):
    [[begin_s, end_s]] = spans(gain * np.pad(synthetic_voice(1.4, RATE_HZ), RATE_HZ))
    assert (begin_s, end_s) == pytest.approx((1.0, 2.4), abs=0.02)
    [[begin_s, end_s]] = spans(gain * whisper())
    assert begin_s < 0.1 and end_s > 3.9


def test_a_short_voice_in_long_noise_of_a_room_is_found():
    samples = 5e-4 * np.random.default_rng(3).standard_normal(14 * RATE_HZ)
    samples[11 * RATE_HZ :][: round(0.6 * RATE_HZ)] += synthetic_voice(0.6, RATE_HZ)
    assert [round(begin_s) for begin_s, _ in spans(samples)] == [11]


def test_a_low_groan_in_long_noise_of_a_room_is_found():
    """Its slope's slope is lost in the noise; its level stands out."""
    samples = 5e-4 * np.random.default_rng(3).standard_normal(14 * RATE_HZ)
    n_groan = round(0.6 * RATE_HZ)
    samples[11 * RATE_HZ :][:n_groan] += 0.8 * np.hanning(n_groan) * noise(3.0)[:n_groan]
    assert [round(begin_s) for begin_s, _ in spans(samples)] == [11]


def test_pauses_part_spans_and_short_ones_do_not():
    voice = synthetic_voice(1.4, RATE_HZ)
    apart = [spans(np.concatenate([voice, np.zeros(round(pause_s * RATE_HZ)), voice])) for pause_s in (0.2, 0.5)]
    assert [len(found) for found in apart] == [1, 2]


def test_consonants_before_a_vowel_belong_to_it_and_noise_of_the_room_does_not():
    room = 3e-4 * np.random.default_rng(2).standard_normal(3 * RATE_HZ)
    samples = room.copy()
    samples[RATE_HZ:][: round(0.2 * RATE_HZ)] += 0.1 * np.random.default_rng(1).standard_normal(round(0.2 * RATE_HZ))
    samples[round(1.2 * RATE_HZ) :][: round(1.4 * RATE_HZ)] += synthetic_voice(1.4, RATE_HZ)
    [[begin_s, _]] = spans(samples)
    assert begin_s == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("n_samples", [1, 97, 11_025, 11_111])
def test_silence_in_front_moves_spans_by_its_length(n_samples):
    voice = synthetic_voice(2.5, RATE_HZ)
    moved = spans(np.pad(voice, (n_samples, 3_000)))
    np.testing.assert_allclose(moved[0, 0] - n_samples / RATE_HZ, spans(voice)[0, 0], atol=1e-9)
    np.testing.assert_allclose(moved - n_samples / RATE_HZ, spans(voice), atol=1e-3)


def test_a_piece_gives_times_of_the_recording():
    voice = synthetic_voice(2.5, RATE_HZ)
    np.testing.assert_allclose(spans(voice, start_s=60.0), spans(voice) + 60.0)
