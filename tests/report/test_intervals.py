"""95 % intervals of shares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from ser_batch.report.intervals import clustered_intervals, wilson_intervals


@pytest.mark.parametrize("counts", [[3, 7], [0, 10, 5], [1, 0, 0], [120, 4, 999]])
def test_wilson_intervals_are_those_of_scipy(counts: list[int]) -> None:
    found = wilson_intervals(counts)
    for n, interval in zip(counts, found, strict=True):
        reference = binomtest(n, sum(counts)).proportion_ci(method="wilson")
        np.testing.assert_allclose(interval, [reference.low, reference.high], atol=1e-12)


def test_no_files_give_no_interval() -> None:
    assert np.isnan(wilson_intervals([0, 0, 0])).all()


def test_one_speaker_says_nothing_about_others() -> None:
    assert np.isnan(clustered_intervals([[5, 7]])).all()
    assert np.isnan(clustered_intervals([[5, 7], [0, 0]])).all()


def test_speakers_who_all_differ_make_the_interval_wide_and_equal_ones_make_it_narrow() -> None:
    all_or_nothing = clustered_intervals([[100, 0], [0, 100]] * 10)
    all_alike = clustered_intervals([[50, 50]] * 20)
    independent = wilson_intervals([1000, 1000])
    assert np.ptp(all_or_nothing[0]) > 5 * np.ptp(independent[0])
    assert np.ptp(all_alike[0]) == 0
    assert all_or_nothing[0, 0] < 0.5 < all_or_nothing[0, 1]


def test_clusters_of_one_file_each_come_to_the_interval_of_independent_files() -> None:
    files = np.zeros((400, 2))
    files[:120, 0] = 1
    files[120:, 1] = 1
    np.testing.assert_allclose(clustered_intervals(files), wilson_intervals([120, 280]), atol=0.01)


def test_intervals_are_the_same_every_time() -> None:
    counts = np.random.default_rng(1).integers(0, 9, (30, 6))
    np.testing.assert_array_equal(clustered_intervals(counts), clustered_intervals(counts))
