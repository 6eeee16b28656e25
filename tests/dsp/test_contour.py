"""Summaries of contours, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from ser_batch.dsp import contour


@pytest.mark.parametrize("n", [1, 2, 5, 200])
def test_descriptions_are_those_of_numpy(n):
    values = np.random.default_rng(n).standard_normal(n)
    with_gaps = np.insert(values, [0, n // 2, n], np.nan)
    expected = [np.median(values), values.mean(), values.std(), *np.percentile(values, [5, 95])]
    np.testing.assert_allclose(contour.describe(with_gaps), expected, atol=1e-12)


@pytest.mark.parametrize("values", [np.empty(0), np.full(3, np.nan)])
def test_nothing_defined_is_undefined(values):
    assert np.isnan(contour.describe(values)).all()
    assert np.isnan(contour.slope_per_s(values))
    assert np.isnan(contour.final_part_slope(values, 0.3))
    assert np.isnan(contour.means_of_parts(values[:, None], np.array([[0, len(values)]]))).all()


def test_a_line_with_gaps_has_its_slope():
    values = 3.0 - 4.0 * 0.01 * np.arange(50)
    values[10:20] = np.nan
    assert contour.slope_per_s(values) == pytest.approx(-4.0)
    assert np.isnan(contour.slope_per_s(np.array([1.0, 2.0, np.nan, 3.0, 4.0])))


def test_the_end_of_a_contour_has_a_slope_of_its_own():
    rise_fall = np.concatenate([np.arange(70) * 0.02, 1.4 - np.arange(30) * 0.05])
    with_gaps = np.insert(rise_fall, [30, 80, 100], np.nan)
    assert contour.final_part_slope(rise_fall, 0.3) == pytest.approx(-5.0)
    assert contour.final_part_slope(with_gaps, 0.3) == pytest.approx(-5.0, rel=0.05)
    assert contour.slope_per_s(rise_fall) > 0


def test_voiced_stretches_are_counted_from_a_length_on():
    f0_hz = np.array([np.nan, 100, 100, np.nan, 100, 100, 100, np.nan, 100, 100, 100, 100])
    assert contour.count_voiced_stretches(f0_hz, 3) == 2
    assert contour.count_voiced_stretches(f0_hz, 1) == 3


def test_means_leave_out_nan_column_by_column():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan]])
    parts = np.array([[0, len(values)], [0, 1], [1, 1]])
    np.testing.assert_array_equal(
        contour.means_of_parts(values, parts), [[2.0, 4.0, np.nan], values[0], [np.nan, np.nan, np.nan]]
    )
