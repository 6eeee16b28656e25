"""Changes of the audio do what their names and numbers say, measured on sounds whose truth is known."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ser_batch.errors import ConfigError
from ser_batch.training.augment import AugmentConfig, augment, clip_generator

RATE_HZ = 22_050
CONTENT = "0123456789abcdef" * 4

#: Nothing is changed; tests switch on one change each.
NOTHING = replace(AugmentConfig(), **{f.name: 0.0 for f in fields(AugmentConfig) if f.name.endswith("_probability")})

Samples = NDArray[np.float32]


class Drawing(np.random.Generator):
    """A generator whose uniform draws lie at a given place of their range, 0 the bottom and 1 the top."""

    def __init__(self, place: float, kind: int = 0) -> None:
        super().__init__(np.random.PCG64(1))
        self.place, self.kind = place, kind

    def uniform(self, low: float = 0.0, high: float = 1.0, size: None = None) -> float:
        return low + self.place * (high - low)

    def integers(self, *_: object, **__: object) -> int:
        return self.kind


def tone(f0_hz: float, duration_s: float = 1.0, amplitude: float = 0.5) -> Samples:
    times = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    return (amplitude * np.sin(2 * np.pi * f0_hz * times)).astype(np.float32)


def frequency_hz(samples: Samples) -> float:
    """Frequency of the strongest partial, by the middle half, windowed and interpolated: good to 0.1 Hz on a tone."""
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(np.float64)
    spectrum = np.log(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) + 1e-12)
    top = int(spectrum.argmax())
    left, centre, right = spectrum[top - 1 : top + 2]
    return float((top + 0.5 * (left - right) / (left - 2 * centre + right)) * RATE_HZ / len(middle))


def level_db(samples: Samples) -> float:
    return float(10 * np.log10(np.mean(samples.astype(np.float64) ** 2)))


def one(config: AugmentConfig, samples: Samples, place: float = 1.0, kind: int = 0) -> Samples:
    return augment(samples, RATE_HZ, config, Drawing(place, kind))


def test_nothing_asked_for_changes_nothing() -> None:
    np.testing.assert_array_equal(augment(tone(200), RATE_HZ, NOTHING, np.random.default_rng(0)), tone(200))


@pytest.mark.parametrize(("place", "semitones"), [(0.0, -3.0), (0.25, -1.5), (1.0, 3.0)])
def test_pitch_moves_by_the_semitones_and_duration_stays(place: float, semitones: float) -> None:
    changed = one(replace(NOTHING, pitch_probability=1.0, pitch_st=3.0), tone(220, 2.0), place)
    moved = 12 * np.log2(frequency_hz(changed) / 220)
    assert moved == pytest.approx(semitones, abs=0.1)
    assert len(changed) == pytest.approx(2 * RATE_HZ, rel=0.002)


@pytest.mark.parametrize(("place", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.25)])
def test_stretch_changes_duration_and_pitch_stays(place: float, factor: float) -> None:
    changed = one(replace(NOTHING, stretch_probability=1.0, stretch=0.2), tone(220, 2.0), place)
    assert len(changed) == pytest.approx(2 * RATE_HZ / factor, rel=0.002)
    assert 12 * np.log2(frequency_hz(changed) / 220) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("place", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.25)])
def test_speed_changes_duration_and_pitch_together(place: float, factor: float) -> None:
    changed = one(replace(NOTHING, speed_probability=1.0, speed=0.2), tone(220, 2.0), place)
    assert len(changed) == pytest.approx(2 * RATE_HZ / factor, abs=2)
    assert frequency_hz(changed) == pytest.approx(220 * factor, rel=0.001)


@pytest.mark.parametrize("ratio_db", [5.0, 20.0, 40.0])
@pytest.mark.parametrize("place", [0.0, 1.0], ids=["white", "brown"])
def test_noise_hits_the_stated_ratio_to_what_is_audible(ratio_db: float, place: float) -> None:
    config = replace(NOTHING, noise_probability=1.0, noise_min_db=ratio_db, noise_max_db=ratio_db)
    # Silence around the voice is no part of its level.
    voice = np.concatenate([np.zeros(RATE_HZ, np.float32), tone(220, amplitude=0.2), np.zeros(RATE_HZ, np.float32)])
    noise = one(config, voice, place) - voice
    # Samples near the zero crossings are below the threshold of what counts as audible: up to 0.3 dB.
    assert level_db(tone(220, amplitude=0.2)) - level_db(noise) == pytest.approx(ratio_db, abs=0.4)


def test_noise_is_white_to_brown() -> None:
    config = replace(NOTHING, noise_probability=1.0, noise_min_db=0.0, noise_max_db=0.0)
    for place, slope_db in ((0.0, 0.0), (0.5, -3.0), (1.0, -6.0)):
        noise = one(config, tone(220, 4.0, 0.1), place) - tone(220, 4.0, 0.1)
        power = np.abs(np.fft.rfft(noise)) ** 2
        hz = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
        octaves = [10 * np.log10(power[(hz >= low) & (hz < 2 * low)].mean()) for low in (250, 500, 1000, 2000, 4000)]
        assert np.mean(np.diff(octaves)) == pytest.approx(slope_db, abs=0.3)


def gain_db(config: AugmentConfig, f0_hz: float, place: float = 0.0) -> float:
    return level_db(one(config, tone(f0_hz), place)[RATE_HZ // 4 :]) - level_db(tone(f0_hz)[RATE_HZ // 4 :])


def test_low_pass_takes_the_highs_and_leaves_the_lows() -> None:
    config = replace(NOTHING, lowpass_probability=1.0, lowpass_min_hz=3_000.0, lowpass_max_hz=6_000.0)
    assert gain_db(config, 1_000) == pytest.approx(0, abs=0.1)
    assert gain_db(config, 3_000) == pytest.approx(-3, abs=0.2)
    # Eight poles: 48 dB per octave.
    assert gain_db(config, 6_000) < -45
    assert gain_db(config, 3_000, place=1.0) == pytest.approx(0, abs=0.1)
    assert gain_db(config, 6_000, place=1.0) == pytest.approx(-3, abs=0.2)


def test_telephone_leaves_its_band_alone() -> None:
    config = replace(NOTHING, telephone_probability=1.0)
    assert gain_db(config, 1_000) == pytest.approx(0, abs=0.2)
    assert gain_db(config, 100) < -30
    assert gain_db(config, 7_000) < -30


def test_clipping_cuts_peaks_at_a_share_of_the_highest() -> None:
    config = replace(NOTHING, clipping_probability=1.0)
    for place, share in ((0.0, 0.3), (1.0, 0.8)):
        changed = one(config, tone(220), place)
        # The grid of samples misses the very peak of a tone by a little.
        assert np.abs(changed).max() == pytest.approx(share * 0.5, rel=0.001)
        inside = np.abs(tone(220)) < share * 0.49
        np.testing.assert_array_equal(changed[inside], tone(220)[inside])


def test_a_room_decays_by_60_db_in_the_stated_time() -> None:
    config = replace(
        NOTHING, reverberation_probability=1.0, reverberation_min_s=0.6, reverberation_max_s=0.6, shift_max_s=0.0
    )
    click = np.zeros(RATE_HZ, np.float32)
    click[0] = 0.9
    tail = one(config, click, place=0.0)[1 : int(0.5 * RATE_HZ)].astype(np.float64)
    energy = np.square(tail)[: len(tail) // 220 * 220].reshape(-1, 220).mean(axis=1)
    slope = np.polyfit(np.arange(len(energy)) * 220 / RATE_HZ, 10 * np.log10(energy), 1)[0]
    assert -60 / slope == pytest.approx(0.6, rel=0.05)


def test_a_room_is_between_as_loud_as_the_voice_and_12_db_below() -> None:
    config = replace(NOTHING, reverberation_probability=1.0)
    click = np.zeros(RATE_HZ, np.float32)
    click[0] = 0.9
    for place, direct_db in ((0.0, 0.0), (1.0, 12.0)):
        changed = one(config, click, place).astype(np.float64)
        assert 10 * np.log10(changed[0] ** 2 / np.sum(changed[1:] ** 2)) == pytest.approx(direct_db, abs=0.6)
        assert len(changed) > len(click)


def test_shift_adds_silence_or_takes_what_precedes_the_voice() -> None:
    config = replace(NOTHING, shift_probability=1.0, shift_max_s=0.5)
    voice = np.concatenate([np.zeros(RATE_HZ, np.float32), tone(220)])
    later, earlier = one(config, voice, place=1.0), one(config, voice, place=0.0)
    assert len(later) - len(voice) == RATE_HZ // 2
    np.testing.assert_array_equal(later[RATE_HZ // 2 :], voice)
    # All of the silence but 20 ms before the onset.
    assert len(voice) - len(earlier) == pytest.approx(RATE_HZ * 0.98, abs=30)
    np.testing.assert_array_equal(earlier, voice[len(voice) - len(earlier) :])


@pytest.mark.parametrize("kind", range(4), ids=["mp3", "ogg vorbis", "mu-law", "opus"])
def test_codecs_keep_what_is_said_and_lose_something(kind: int) -> None:
    samples = tone(220, 2.0) + tone(1_760, 2.0, 0.1)
    changed = one(replace(NOTHING, codec_probability=1.0), samples, 0.8, kind)
    assert len(changed) == pytest.approx(len(samples), abs=RATE_HZ // 100)
    assert frequency_hz(changed) == pytest.approx(220, abs=0.2)
    assert level_db(changed) == pytest.approx(level_db(samples), abs=0.5)
    shared = min(len(changed), len(samples))
    assert np.abs(changed[:shared] - samples[:shared]).max() > 1e-3


EVERYTHING = replace(AugmentConfig(), **{f.name: 1.0 for f in fields(AugmentConfig) if f.name.endswith("_probability")})


def test_the_same_seed_clip_and_copy_give_the_same_samples() -> None:
    first = augment(tone(200), RATE_HZ, EVERYTHING, clip_generator(3, CONTENT, 1))
    again = augment(tone(200), RATE_HZ, EVERYTHING, clip_generator(3, CONTENT, 1))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(("seed", "content", "copy"), [(4, CONTENT, 1), (3, CONTENT[::-1], 1), (3, CONTENT, 2)])
def test_another_seed_clip_or_copy_gives_others(seed: int, content: str, copy: int) -> None:
    draws = [clip_generator(*key).random(8) for key in ((3, CONTENT, 1), (seed, content, copy))]
    assert not np.array_equal(*draws)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "samples",
    [
        tone(200, 0.7, 1.0),
        np.zeros(RATE_HZ // 2, np.float32),
        tone(200, 0.002),
        np.ones(1, np.float32),
        np.random.default_rng(0).uniform(-1, 1, RATE_HZ // 2).astype(np.float32),
    ],
    ids=["loud tone", "silence", "2 ms", "one sample", "noise"],
)
def test_whatever_goes_in_sound_within_bounds_comes_out(samples: Samples, seed: int) -> None:
    before = samples.copy()
    changed = augment(samples, RATE_HZ, EVERYTHING, clip_generator(seed, CONTENT, 1))
    assert changed.dtype == np.float32
    assert changed.ndim == 1
    assert len(changed) > 0
    assert np.isfinite(changed).all()
    assert np.abs(changed).max() <= 1
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("copies", -1),
        ("noise_probability", 1.5),
        ("codec_probability", -0.1),
        ("speed", 0.5),
        ("stretch", 0.9),
        ("lowpass_min_hz", 100.0),
        ("noise_min_db", 41.0),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(AugmentConfig(), **{name: value})
