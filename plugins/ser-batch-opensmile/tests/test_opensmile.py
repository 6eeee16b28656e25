"""The extractor keeps the contract, and gives what openSMILE gives wherever that is defined."""

from __future__ import annotations

import numpy as np
import opensmile
import pytest
from ser_batch_opensmile import NAMES, OpensmileExtractor, functionals, validate_config

from ser_batch import Clip, Config
from ser_batch.errors import ConfigError
from ser_batch.testing import check_extractor, check_signals

RATE_HZ = 22_050


@pytest.fixture(scope="module")
def smile() -> opensmile.Smile:
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)


def test_conforms() -> None:
    report = check_extractor(OpensmileExtractor())
    assert report.ok, str(report)


def test_the_names_are_those_of_opensmile_in_its_order(smile: opensmile.Smile) -> None:
    assert list(NAMES) == smile.feature_names
    assert "opensmile__f0semitonefrom27_5hz_sma3nz_amean" in OpensmileExtractor.spec.columns


def test_a_voice_has_the_numbers_of_opensmile(smile: opensmile.Smile) -> None:
    voice = check_signals(RATE_HZ)["voice"]
    windows_s = np.array([[3.0, 6.0]])
    block = OpensmileExtractor().extract(Clip(voice.copy(), RATE_HZ, RATE_HZ, 1), windows_s)
    whole = smile.process_signal(voice, RATE_HZ).to_numpy(np.float32)[0]
    part = smile.process_signal(voice[3 * RATE_HZ : 6 * RATE_HZ], RATE_HZ).to_numpy(np.float32)[0]
    np.testing.assert_array_equal(block.clip_scalars, whole)
    np.testing.assert_array_equal(block.scalars[0], part)


def test_what_has_no_voiced_or_no_unvoiced_frame_is_undefined() -> None:
    signals = check_signals(RATE_HZ)
    silence = dict(zip(NAMES, functionals(signals["silence"], RATE_HZ), strict=True))
    assert np.isnan(silence["F0semitoneFrom27.5Hz_sma3nz_amean"])
    assert np.isnan(silence["F1amplitudeLogRelF0_sma3nz_amean"])
    assert np.isnan(silence["MeanVoicedSegmentLengthSec"])
    assert silence["VoicedSegmentsPerSec"] == 0
    assert silence["MeanUnvoicedSegmentLength"] > 3
    tone = dict(zip(NAMES, functionals(signals["pure tone"], RATE_HZ), strict=True))
    assert tone["F0semitoneFrom27.5Hz_sma3nz_amean"] == pytest.approx(48, abs=0.01)  # 440 Hz, four octaves above A0
    assert np.isnan(tone["alphaRatioUV_sma3nz_amean"])


def test_full_scale_does_not_wrap_around() -> None:
    square = np.where(np.arange(RATE_HZ) // 100 % 2, 1, -1).astype(np.float32)
    at_full_scale, just_below = functionals(square, RATE_HZ), functionals(square * np.float32(0.9999), RATE_HZ)
    loudness = NAMES.index("loudness_sma3_amean")
    assert at_full_scale[loudness] == pytest.approx(just_below[loudness], rel=1e-3)


def test_a_rate_that_is_too_low_is_refused() -> None:
    low = Config().with_values({"audio": {"sample_rate_hz": 8_000}})
    validate_config(low)
    with pytest.raises(ConfigError, match=r"needs audio\.sample_rate_hz of 16000 or more, not 8000"):
        validate_config(low.with_values({"extract": {"extractors": ["opensmile"]}}))
