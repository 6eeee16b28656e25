"""Estimates against textbooks, against ppi-python, and against archives whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ser_batch.reviews.estimates import Design, interval, prediction_powered, ratio


def test_the_mean_of_a_stratified_sample_and_its_variance_are_cochrans() -> None:
    """Cochran 1977, 5.5: the mean is sum W y, its variance sum W² s² (1 - f) / n."""
    y = np.array([1.0, 0, 1, 1, 0, 0, 0, 1, 0])
    stratum, sizes = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1]), np.array([100, 300])
    design = Design(stratum, sizes)
    found = ratio(design, y, np.ones(9))
    means, variances = [0.75, 0.2], [0.25, 0.2]
    assert found.value == pytest.approx(0.25 * means[0] + 0.75 * means[1])
    expected = sum((sizes[h] / 400) ** 2 * (1 - n / sizes[h]) * variances[h] / n for h, n in enumerate((4, 5)))
    assert design.covariance(found.scores, found.scores) == pytest.approx(expected)


def test_a_ratio_in_a_part_of_the_archive_is_that_of_its_weighted_sums() -> None:
    design = Design([0, 0, 1, 1], [10, 90])
    found = ratio(design, [1, 0, 1, 0], [1, 1, 1, 0])
    assert found.value == pytest.approx((5 + 45) / (5 + 5 + 45))


def test_where_everything_was_heard_there_is_no_doubt() -> None:
    design = Design([0, 0, 1, 1], [2, 2])
    found = design.estimate(ratio(design, [1, 0, 1, 1], np.ones(4)))
    assert (found.value, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75), abs=1e-4)


def test_where_all_answers_agree_the_interval_still_has_a_width() -> None:
    design = Design(np.zeros(50, int), [100_000])
    found = design.estimate(ratio(design, np.ones(50), np.ones(50)))
    # Wilson's for 50 of 50, by Student's t in place of the normal.
    assert found.high == 1
    assert found.low == pytest.approx(0.925, abs=0.005)


def test_a_share_that_is_1_but_for_rounding_has_the_interval_of_1() -> None:
    design = Design(np.arange(30) % 3, [101, 1_003, 7_777])
    third = np.full(30, 1 / 3) * 3 - 1e-16
    found = design.estimate(ratio(design, np.nextafter(third, 0), third))
    assert found.low < 0.9


def test_without_any_answer_nothing_is_said() -> None:
    design = Design([0, 0], [10])
    found = design.estimate(ratio(design, [0, 0], [0, 0]))
    assert math.isnan(found.value)
    assert found.n_answers == 0
    assert math.isnan(design.estimate_mean([ratio(design, [0, 0], [0, 0])]).value)


def test_a_mean_of_recalls_knows_how_few_cases_one_of_them_rests_on() -> None:
    design = Design(np.zeros(203, int), [100_000])
    many = ratio(design, np.repeat([1, 0, 0], [150, 50, 3]), np.repeat([1, 0], [200, 3]))
    few = ratio(design, [*np.zeros(200), 1, 1, 0], np.repeat([0, 1], [200, 3]))
    found = design.estimate_mean([many, few])
    # By Student's t of two degrees of freedom, those of three cases: by that of all answers it would be 0.48 wide.
    assert found.value == pytest.approx((0.75 + 2 / 3) / 2)
    assert 0.7 < found.high - found.low < 0.85


def test_strata_without_answers_and_with_one_are_spoken_for_by_their_neighbours() -> None:
    design = Design([0, 0, 2, 3, 3], [10, 20, 30, 40])
    assert design.weights.sum() == pytest.approx(100)
    found = ratio(design, [1, 1, 0, 0, 1], np.ones(5))
    assert design.covariance(found.scores, found.scores) > 0


@pytest.mark.parametrize(
    ("n_right", "n", "low", "high"), [(0, 10, 0.0, 0.278), (8, 10, 0.490, 0.943), (50, 100, 0.404, 0.596)]
)
def test_intervals_are_wilsons(n_right: int, n: int, low: float, high: float) -> None:
    p = n_right / n
    found = interval(p, p * (1 - p) / n, n, 10**6)
    assert found == pytest.approx((low, high), abs=0.001)


@pytest.mark.parametrize("power", [0.0, 0.4, 1.0])
def test_prediction_powered_means_are_those_of_ppi_python(power: float) -> None:
    """The estimate is theirs; the interval too, but for what they add since their predictions are of a sample."""
    ppi = pytest.importorskip("ppi_py", reason="the comparison needs ppi-python")
    rng = np.random.default_rng(0)
    n, n_archive = 400, 1_000_000
    everything = rng.beta(2, 5, n_archive)
    predicted = rng.choice(everything, n)
    truth = (rng.random(n) < predicted).astype(float)
    stratum = rng.integers(0, 3, n)
    # Weights of two kinds: theirs are given, ours come from the strata.
    sizes = np.bincount(stratum) * np.array([1_000, 2_000, 4_000])
    design = Design(stratum, sizes)
    found, _ = prediction_powered(design, truth, predicted, everything.mean(), power)
    weights = design.weights / design.weights.mean()
    theirs = ppi.ppi_mean_pointestimate(truth, predicted, everything, lam=power, w=weights)
    assert found.value == pytest.approx(float(theirs[0]), abs=1e-9)
    alone = Design(np.zeros(n, int), [n_archive])
    found, _ = prediction_powered(alone, truth, predicted, everything.mean(), power)
    low, high = (float(end[0]) for end in ppi.ppi_mean_ci(truth, predicted, everything, alpha=0.05, lam=power))
    half = 1.959964 * math.sqrt(alone.covariance(found.scores, found.scores))
    assert half == pytest.approx((high - low) / 2, rel=0.01)


def test_the_power_that_is_chosen_gives_the_least_variance() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.beta(2, 5, 300)
    truth = (rng.random(300) < predicted).astype(float)
    design = Design(rng.integers(0, 4, 300), [500, 1_000, 300, 8_000])

    def variance(power: float | None) -> float:
        found, _ = prediction_powered(design, truth, predicted, 0.3, power)
        return design.covariance(found.scores, found.scores)

    assert variance(None) <= min(variance(power) for power in np.linspace(0, 1, 101)) * (1 + 1e-9)
    assert variance(None) < variance(0.0)


def test_predictions_that_say_nothing_are_not_believed() -> None:
    design = Design(np.zeros(50, int), [1_000])
    truth = np.arange(50) % 2
    assert prediction_powered(design, truth, np.zeros(50), 0.0)[1] == 0
    assert prediction_powered(design, truth, 1.0 - truth, 0.5)[1] == 0
