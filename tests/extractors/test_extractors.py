"""The four extractors: what they promise, on audio of every kind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.extractors import mel, prosodic, quality, voice_quality
from ser_batch.records import Clip, Extractor
from ser_batch.windows import plan_windows

RATE_HZ = 22_050
MODULES = (mel, prosodic, voice_quality, quality)
EXTRACTORS = [extractor for module in MODULES for extractor in module.register_extractors(Config())]
DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "features.md"


def clip_of(samples, start_s=0.0):
    return Clip(np.array(samples, np.float32), RATE_HZ, RATE_HZ, 1, start_s)


def speech(duration_s=4.2, seed=0):
    return synthetic_voice(duration_s, RATE_HZ, 150, seed)


KINDS = {
    "nothing": np.zeros(0),
    "one sample": np.ones(1),
    "20 ms": 0.1 * np.sin(np.arange(441) * 0.1),
    "digital silence": np.zeros(66_150),
    "constant offset": np.full(66_150, 0.5),
    "pure tone": 0.5 * np.sin(np.arange(66_150) * 0.06),
    "white noise": 0.1 * np.random.default_rng(0).standard_normal(66_150),
    "clipped": np.clip(3 * np.sin(np.arange(66_150) * 0.06), -1, 1),
    "one click": np.eye(1, 66_150, 30_000)[0],
    "not a number": np.full(66_150, np.nan),
    "some infinite": np.where(np.arange(66_150) % 1000, 0.1, np.inf),
    "as integers": 30_000 * np.sin(np.arange(66_150) * 0.06),
    "speech": speech(),
    "speech with an offset": speech() + 0.3,
    "over a minute": np.tile(speech(5.0), 13),
}


def check_block(extractor: Extractor, block, windows_s):
    spec = extractor.spec
    assert block.extractor == spec.extractor
    assert block.scalars.shape == (len(windows_s), len(spec.scalars))
    assert block.clip_scalars.shape == (len(spec.scalars),)
    assert block.scalars.dtype == block.clip_scalars.dtype == np.float32
    assert not np.isinf(block.scalars).any()
    assert not np.isinf(block.clip_scalars).any()
    if spec.tensor_shape is None:
        assert block.tensor is None
    else:
        assert block.tensor.shape == (len(windows_s), *spec.tensor_shape)
        assert block.tensor.dtype == np.float32
        assert np.isfinite(block.tensor).all()


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: e.spec.extractor)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_audio_gives_the_declared_shapes(extractor, kind):
    clip = clip_of(KINDS[kind])
    windows_s = plan_windows(clip.duration_s)
    check_block(extractor, extractor.extract(clip, windows_s), windows_s)


@pytest.mark.parametrize("kind", ["digital silence", "constant offset", "not a number"])
def test_silence_is_undefined_but_for_shares_and_activity(kind):
    clip = clip_of(KINDS[kind])
    for extractor in EXTRACTORS[1:]:
        values = dict(zip(extractor.spec.columns, extractor.extract(clip, plan_windows(3.0)).scalars[0], strict=True))
        defined = {name: value for name, value in values.items() if not np.isnan(value)}
        assert set(defined) <= {
            "prosodic__voiced_fraction",
            "prosodic__voiced_segment_rate_per_s",
            "quality__clipped_fraction",
            "quality__active_s",
        }
        assert not any(defined.values())
    assert (EXTRACTORS[0].extract(clip_of(np.zeros(66_150)), plan_windows(3.0)).tensor == -100).all()


@settings(max_examples=40, deadline=None)
@given(
    samples=npst.arrays(
        np.float32, st.integers(0, 9_000), elements=st.floats(width=32), fill=st.floats(-1, 1, width=32)
    ),
    scale=st.sampled_from([1.0, 1e-30, 1e-20, 1e-6, 1e6]),
    start_s=st.sampled_from([0.0, 57.0]),
)
def test_no_array_breaks_them(samples, scale, start_s):
    with np.errstate(all="ignore"):
        clip = clip_of(samples * np.float32(scale), start_s)
    windows_s = plan_windows(clip.duration_s, 0.1, 0.07) + start_s
    extractor = mel.MelExtractor(RATE_HZ, 0.1)
    check_block(extractor, extractor.extract(clip, windows_s), windows_s)
    for extractor in EXTRACTORS[1:]:
        check_block(extractor, extractor.extract(clip, windows_s), windows_s)


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: e.spec.extractor)
def test_the_same_clip_gives_the_same_numbers_again(extractor):
    windows_s = plan_windows(4.2)
    first, again = (extractor.extract(clip_of(speech()), windows_s) for _ in range(2))
    np.testing.assert_array_equal(first.scalars, again.scalars)
    np.testing.assert_array_equal(first.clip_scalars, again.clip_scalars)
    if first.tensor is not None:
        np.testing.assert_array_equal(first.tensor, again.tensor)


@pytest.mark.parametrize("extractor", EXTRACTORS[1:], ids=lambda e: e.spec.extractor)
def test_a_window_that_holds_the_clip_has_the_values_of_the_clip(extractor):
    block = extractor.extract(clip_of(speech()), np.array([[0.0, 5.0]]))
    np.testing.assert_array_equal(block.scalars[0], block.clip_scalars)


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: e.spec.extractor)
def test_a_piece_of_a_recording_counts_from_its_own_start(extractor):
    windows_s = plan_windows(4.2, 3.0, 1.5)
    alone = extractor.extract(clip_of(speech()), windows_s)
    piece = extractor.extract(clip_of(speech(), start_s=57.0), windows_s + 57.0)
    np.testing.assert_allclose(piece.scalars, alone.scalars, rtol=1e-6)
    if alone.tensor is not None:
        np.testing.assert_array_equal(piece.tensor, alone.tensor)


def test_the_order_of_extractors_does_not_matter():
    clip, windows_s = clip_of(speech()), plan_windows(4.2)
    shared = {e.spec.extractor: e.extract(clip, windows_s) for e in reversed(EXTRACTORS)}
    for extractor in EXTRACTORS:
        alone = extractor.extract(clip_of(speech()), windows_s)
        np.testing.assert_array_equal(shared[extractor.spec.extractor].scalars, alone.scalars)


def columns_of(extractor, samples):
    block = extractor.extract(clip_of(samples), np.zeros((0, 2)))
    return dict(zip((name for name, _ in extractor.spec.scalars), block.clip_scalars, strict=True))


@pytest.mark.parametrize("gain", [0.05, 0.3, 4.0])
def test_gain_moves_levels_only(gain):
    levels = {"intensity_mean", "level", "clipped_fraction"}
    for extractor in EXTRACTORS[1:]:
        before, after = columns_of(extractor, speech()), columns_of(extractor, gain * speech())
        for name in before.keys() - levels:
            np.testing.assert_allclose(after[name], before[name], rtol=2e-3, atol=1e-3, err_msg=name)


def test_the_pitch_columns_follow_the_pitch():
    times_s = np.arange(3 * RATE_HZ) / RATE_HZ
    semitones = 24.0 + 4.0 * times_s
    phase = np.cumsum(27.5 * 2 ** (semitones / 12)) / RATE_HZ
    samples = sum(0.1 / k * np.sin(2 * np.pi * k * phase) for k in range(1, 15))
    values = columns_of(prosodic.ProsodicExtractor(), samples)
    assert values["f0_median"] == pytest.approx(30.0, abs=0.05)
    assert values["f0_slope"] == pytest.approx(4.0, abs=0.05)
    assert values["f0_final_slope"] == pytest.approx(4.0, abs=0.1)
    assert values["f0_range"] == pytest.approx(0.9 * 12, abs=0.2)
    assert values["voiced_fraction"] == pytest.approx(1.0, abs=0.01)


def test_voiced_segments_are_counted_per_second():
    values = columns_of(prosodic.ProsodicExtractor(), speech(4.2))
    # Four syllables per s, but for a quarter of the time: 13 in all.
    assert values["voiced_segment_rate"] == pytest.approx(13 / 4.2, abs=0.2)
    assert values["voiced_fraction"] == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize("snr_db", [5.0, 20.0, 40.0])
def test_noise_over_speech_with_pauses_is_measured(snr_db):
    # Half a second on, half a second off.
    speaking = np.arange(4 * RATE_HZ) % RATE_HZ < RATE_HZ // 2
    clean = np.where(speaking, 0.1 * np.sin(np.arange(4 * RATE_HZ) * 0.07), 0.0)
    rms = np.sqrt(np.mean(clean[speaking] ** 2)) * 10 ** (-snr_db / 20)
    noisy = clean + rms * np.random.default_rng(1).standard_normal(len(clean))
    assert columns_of(quality.QualityExtractor(), noisy)["snr"] == pytest.approx(snr_db, abs=1.0)
    assert np.isnan(columns_of(quality.QualityExtractor(), noisy[speaking])["snr"])


def test_activity_and_clipping_are_shares_of_the_window():
    samples = np.concatenate([np.zeros(RATE_HZ), 0.1 * np.sin(np.arange(RATE_HZ)), (-1.0) ** np.arange(RATE_HZ // 2)])
    values = columns_of(quality.QualityExtractor(), samples)
    assert values["active"] == pytest.approx(1.5, abs=0.02)
    assert values["clipped_fraction"] == pytest.approx(0.2, abs=0.001)
    assert values["level"] == pytest.approx(10 * np.log10(np.var(samples)), abs=0.1)


def test_clipping_is_judged_by_the_samples_as_they_were_read():
    """A high-pass tilts what stood at full scale."""
    as_read = np.where(np.arange(RATE_HZ) < RATE_HZ // 4, 1.0, 0.1).astype(np.float32)
    clip = Clip(0.5 * as_read, RATE_HZ, RATE_HZ, 1, as_read=as_read)
    extractor = quality.QualityExtractor()
    values = extractor.extract(clip, np.zeros((0, 2))).clip_scalars
    assert values[extractor.spec.columns.index("quality__clipped_fraction")] == pytest.approx(0.25, abs=1e-3)


def test_the_mel_of_a_window_ignores_what_lies_around_it():
    samples = speech(9.0)
    extractor = mel.MelExtractor()
    whole = extractor.extract(clip_of(samples), np.array([[3.0, 6.0]])).tensor
    alone = extractor.extract(clip_of(samples[66_150:132_300]), np.array([[0.0, 3.0]])).tensor
    np.testing.assert_array_equal(whole, alone)


def test_other_windows_change_the_declared_shape():
    config = Config().with_values({"audio": {"sample_rate_hz": 16_000, "window_s": 2.0, "window_hop_s": 1.0}})
    (extractor,) = mel.register_extractors(config)
    assert extractor.spec.tensor_shape == (128, 63)
    clip = Clip(np.zeros(40_000, np.float32), 16_000, 16_000, 1)
    assert extractor.extract(clip, plan_windows(2.5, 2.0, 1.0)).tensor.shape == (2, 128, 63)


def test_the_dense_branch_takes_thirteen_columns_that_exist():
    columns = {column for extractor in EXTRACTORS for column in extractor.spec.columns}
    assert len(DENSE_FEATURES) == len(set(DENSE_FEATURES)) == 13
    assert set(DENSE_FEATURES) <= columns


def test_every_column_has_its_row_in_the_documentation_and_no_other_has():
    documented = re.findall(r"^\| `(\w+__\w+)` \|", DOCUMENTED.read_text(encoding="utf-8"), re.MULTILINE)
    assert documented == [column for extractor in EXTRACTORS[1:] for column in extractor.spec.columns]
    dense = re.findall(r"^\d+\. `(\w+)`", DOCUMENTED.read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(dense) == DENSE_FEATURES
