"""The batched transform, against numpy's."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from ser_batch.dsp import transform as t
from ser_batch.dsp.frames import fast_length
from ser_batch.dsp.lanes import LANES, aligned_rows, load, log2, store


# They are called by kernels alone.
@numba.njit
def load_frames(samples, starts, means, taper, batch):
    t.load_frames(samples, starts, means, taper, batch)


@numba.njit
def powers(batch, scratch, factors):
    spectra, other = t.transform(batch, scratch, factors)
    t.power_of_pairs(spectra, len(factors) // 2 + 1, spectra)
    return spectra, other


@numba.njit
def autocorrelations(batch, scratch, factors, frames):
    spectra, other = powers(batch, scratch, factors)
    t.mirror(spectra, len(factors) // 2 + 1)
    result, _ = t.transform(spectra, other, factors)
    t.unload_frames(result, frames.shape[1], 0, frames)


def spectra_of(samples, starts, means, taper, n, dtype):
    first, second = aligned_rows(2 * n, dtype), aligned_rows(2 * n, dtype)
    load_frames(samples.astype(dtype), np.array(starts), np.array(means, dtype), t.padded(taper, dtype), first)
    power, _ = powers(first, second, t.twiddles(n, dtype))
    return power[: 2 * (n // 2 + 1)].reshape(-1, t.BATCH_FRAMES).T


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("n", [8, 64, 72, 128, 1024, 1152, 2048])
def test_power_spectra_are_those_of_numpy(n, dtype, tolerance):
    rng = np.random.default_rng(n)
    samples = rng.standard_normal(20 * n)
    taper = rng.random(n)
    starts = np.arange(t.BATCH_FRAMES) * n
    means = rng.random(t.BATCH_FRAMES)
    frames = np.stack([(samples[i : i + n] - m) * taper for i, m in zip(starts, means, strict=True)])
    expected = np.abs(np.fft.rfft(frames)) ** 2
    found = spectra_of(samples, starts, means, taper, n, dtype)
    np.testing.assert_allclose(found, expected, atol=tolerance * expected.max())


def test_a_frame_longer_than_the_transform_is_sampled_at_every_other_frequency():
    rng = np.random.default_rng(1)
    samples, taper = rng.standard_normal(4096), np.hanning(2048)
    expected = np.abs(np.fft.rfft(samples[100:2148] * taper))[::2] ** 2
    found = spectra_of(samples, [100], [0.0], taper, 1024, np.float64)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_zeros_count_beyond_the_ends_and_absent_frames_are_empty():
    samples = np.ones(100)
    found = spectra_of(samples, [-40, 80, 500], [0.0, 0.0, 0.0], np.ones(64), 64, np.float64)
    # The power at 0 Hz is the square of the sum: 24 and 20 samples lie inside.
    np.testing.assert_allclose(found[:3, 0], [24**2, 20**2, 0], atol=1e-12)
    np.testing.assert_allclose(found[3:], 0, atol=1e-20)


def test_lengths_that_do_not_fit_are_refused():
    for n, n_frame in [(12, 8), (16, 12), (16, 40)]:
        with pytest.raises(ValueError, match="multiples of 8"):
            load_frames(np.zeros(99), np.array([0]), np.zeros(1), np.ones(n_frame), aligned_rows(2 * n, np.float64))


def test_transforming_an_even_spectrum_gives_the_autocorrelation():
    rng = np.random.default_rng(2)
    n = 256
    frame = np.concatenate([rng.standard_normal(128), np.zeros(128)])
    first, second = aligned_rows(2 * n, np.float64), aligned_rows(2 * n, np.float64)
    load_frames(frame, np.array([0]), np.zeros(1), np.ones(n), first)
    frames = np.empty((t.BATCH_FRAMES, 128))
    autocorrelations(first, second, t.twiddles(n, np.float64), frames)
    expected = [np.dot(frame[: n - lag], frame[lag:]) for lag in range(128)]
    np.testing.assert_allclose(frames[0] / n, expected, atol=1e-9)


def test_logarithms_are_right_to_2e_6():
    @numba.njit
    def apply(values):
        for row in range(len(values)):
            store(values, row, log2(load(values, row)))

    values = np.exp(np.random.default_rng(3).uniform(-60, 60, (500, LANES))).astype(np.float32)
    expected = np.log2(values.astype(np.float64))
    apply(values)
    np.testing.assert_allclose(values, expected, rtol=2e-7, atol=2e-6)


@pytest.mark.parametrize("minimum", [2, 9, 100, 130, 998, 1129, 1153, 2039, 5000])
def test_fast_lengths_are_long_enough_and_made_of_2_and_3(minimum):
    length = fast_length(minimum)
    assert minimum <= length < max(2 * minimum, 9)
    assert length % LANES == 0
    while length % 2 == 0:
        length //= 2
    assert length in (1, 9)
