"""What a plugin should test: the contract, by the kit, and its own numbers, by audio whose truth is known."""

import numpy as np
import pytest
import ser_batch_template
from ser_batch_template import PauseExtractor

from ser_batch import Clip, ClipOutcome, ClipRef, FeatureBlock, Status
from ser_batch.testing import check_extractor

RATE_HZ = 16_000


def clip_of(*parts_s: float) -> Clip:
    """Tones and silences in turn, beginning with a tone."""
    pieces = [
        np.sin(2 * np.pi * 200 * np.arange(round(part_s * RATE_HZ)) / RATE_HZ) * (index % 2 == 0)
        for index, part_s in enumerate(parts_s)
    ]
    return Clip(np.concatenate(pieces).astype(np.float32), RATE_HZ, RATE_HZ, 1)


def test_conforms() -> None:
    report = check_extractor(PauseExtractor())
    assert report.ok, str(report)


def test_counts_and_measures_pauses() -> None:
    block = PauseExtractor().extract(clip_of(1.0, 0.3, 1.0, 0.7, 1.0), np.array([[0.0, 2.0], [2.0, 4.0]]))
    np.testing.assert_allclose(block.clip_scalars, [2 / 4, 0.5, 1 / 4], rtol=1e-5)
    np.testing.assert_allclose(block.scalars, [[1 / 2, 0.3, 0.15], [1 / 2, 0.7, 0.35]], rtol=1e-5)


def test_the_closure_of_a_plosive_is_no_pause() -> None:
    block = PauseExtractor().extract(clip_of(1.0, 0.1, 0.9), np.array([[0.0, 2.0]]))
    rate, mean, fraction = block.scalars[0]
    assert (rate, fraction) == (0, 0)
    assert np.isnan(mean)


def test_silence_is_undefined() -> None:
    silence = Clip(np.zeros(RATE_HZ, np.float32), RATE_HZ, RATE_HZ, 1)
    assert np.isnan(PauseExtractor().extract(silence, np.array([[0.0, 3.0]])).clip_scalars).all()


@pytest.mark.parametrize("fraction", [0.9, 0.5])
def test_mostly_silent_files_are_logged(fraction: float, caplog: pytest.LogCaptureFixture) -> None:
    block = FeatureBlock("pauses", np.zeros((0, 3), np.float32), np.array([0.1, 1.0, fraction], np.float32))
    ref = ClipRef("a/001.wav", "/archive/a/001.wav", size_bytes=1, mtime_ns=0)
    ser_batch_template.clip_finished(ClipOutcome(ref, Status.OK, blocks=(block,)))
    assert ("a/001.wav is silent for 90 %" in caplog.text) == (fraction > 0.8)
