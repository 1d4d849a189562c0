"""Charts of curves: what is drawn where, and what is left out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blocklora_jax.io.line_chart import Curve, line_chart, running_mean

BLUE = (30, 90, 168)


def columns_of_line(chart) -> np.ndarray:
    """The mean row of the blue pixels in each column; NaN where there are none. (Tolerance 40: smoothed edges.)"""
    blue = (np.abs(np.asarray(chart).astype(int) - BLUE) < 40).all(-1)
    rows = np.arange(blue.shape[0])[:, None]
    return np.where(blue.any(0), (rows * blue).sum(0) / np.maximum(blue.sum(0), 1), np.nan)


def test_the_running_mean_begins_with_what_there_is():
    np.testing.assert_allclose(running_mean([4, 2, 0, 8], 2), [4, 3, 1, 4])


def test_a_rising_curve_rises_from_left_to_right():
    line = columns_of_line(line_chart({"loss": Curve([10, 20, 30], [0, 1, 2])}))
    seen = line[np.isfinite(line)]
    assert len(seen) > 250 and seen[0] > seen[-1] + 100
    assert (np.diff(seen) < 1.5).all()


def test_each_curve_has_a_panel_and_those_without_points_have_none():
    one = line_chart({"a": Curve([1], [1])})
    curves = {"a": Curve([1, 2], [1, 2]), "b": Curve([1, 2], [2, 1]), "none": Curve([], []), "c": Curve([3], [1])}
    chart = line_chart(curves, columns=2)
    assert chart.size == (2 * one.width, 2 * one.height)
    assert line_chart({}).getcolors() == [(one.width * one.height, (255, 255, 255))]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_left_out(bad):
    with_bad = line_chart({"loss": Curve([1, 2, 3, 4], [1, bad, 3, 4])})
    without = line_chart({"loss": Curve([1, 3, 4], [1, 3, 4])})
    np.testing.assert_array_equal(np.asarray(with_bad), np.asarray(without))


def test_constant_and_many_values_are_drawn():
    assert np.isfinite(columns_of_line(line_chart({"zero": Curve([1, 2], [0, 0])}))).any()
    many = line_chart({"noise": Curve(range(100_000), np.sin(np.arange(100_000)))})
    assert np.isfinite(columns_of_line(many)).any()
