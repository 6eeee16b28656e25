"""Intervals by speaker cover what they say, also where few speak."""

from __future__ import annotations

import numpy as np
import pytest

from ser_batch.bootstrap import mean_interval


@pytest.mark.parametrize(("n_clusters", "alike"), [(4, 0.0), (4, 0.2), (20, 0.2), (80, 0.0)])
def test_intervals_of_means_hold_the_truth_also_with_few_clusters(n_clusters: int, alike: float) -> None:
    rng, n_each, covered, widths = np.random.default_rng(1), 80 // n_clusters, 0, []
    for _ in range(400):
        values = rng.normal(0, alike**0.5, (n_clusters, 1)) + rng.normal(0, (1 - alike) ** 0.5, (n_clusters, n_each))
        low, high = mean_interval(values.ravel(), np.repeat(np.arange(n_clusters), n_each))
        covered += low < 0 < high
        widths.append(high - low)
    assert covered / 400 > (0.8 if n_clusters == 4 and alike else 0.9)
    independent = 2 * 1.96 / 80**0.5
    assert np.mean(widths) < 1.5 * independent * (1 + (n_each - 1) * alike) ** 0.5
    assert np.mean(widths) > 0.9 * independent


def test_what_is_all_the_same_has_an_interval_of_no_width() -> None:
    assert mean_interval(np.ones(6), np.array([0, 0, 1, 1, 2, 2])) == (1, 1)
