"""The high-pass that precedes all analyses: offsets and rumble go, voices stay, and pieces join without a seam."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import butter, sosfreqz
from synthesis import RATE_HZ, noise

from ser_batch.dsp.highpass import HighPass
from ser_batch.dsp.voice import synthetic_voice


def filtered(samples: np.ndarray) -> np.ndarray:
    return HighPass(RATE_HZ)(samples.astype(np.float32))


def test_it_is_a_butterworth_filter_of_second_order_at_30_hz():
    impulse = np.zeros(2 * RATE_HZ, np.float32)
    impulse[RATE_HZ] = 1.0
    measured = np.abs(np.fft.rfft(filtered(impulse)[RATE_HZ:]))
    hz = np.arange(len(measured), dtype=float)
    _, expected = sosfreqz(butter(2, 30.0, "highpass", fs=RATE_HZ, output="sos"), hz, fs=RATE_HZ)
    np.testing.assert_allclose(measured, np.abs(expected), atol=2e-4)


@pytest.mark.parametrize("offset", [0.05, -0.3])
def test_an_offset_makes_no_difference_not_even_at_the_start(offset):
    voice = synthetic_voice(1.0, RATE_HZ)
    np.testing.assert_allclose(filtered(voice + np.float32(offset)), filtered(voice), atol=1e-6)
    assert not filtered(np.full(RATE_HZ, offset)).any()


def test_a_recording_in_pieces_that_overlap_gives_the_very_samples_of_the_whole():
    samples = noise(3.0, seed=1).astype(np.float32)
    whole, high_pass = filtered(samples), HighPass(RATE_HZ)
    n_piece, n_overlap = 12_345, 1_001
    for start in range(0, len(samples), n_piece):
        piece = samples[start : start + n_piece + n_overlap]
        np.testing.assert_array_equal(
            high_pass(piece, min(n_piece, len(piece))), whole[start : start + n_piece + n_overlap]
        )


def test_digital_silence_behind_a_voice_is_digital_silence_soon():
    samples = np.concatenate([synthetic_voice(0.5, RATE_HZ), np.zeros(RATE_HZ, np.float32)])
    assert not filtered(samples)[round(0.75 * RATE_HZ) :].any()


def test_no_samples_give_none():
    assert filtered(np.empty(0)).shape == (0,)
