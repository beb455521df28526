"""Statistics over runs, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.scripts.studies.intervals import (
    Floats,
    area_under_curve,
    bootstrap,
    interquartile_mean,
    probability_of_improvement,
    steps_to,
)


def floats(*values: float) -> Floats:
    return np.array(values, dtype=float)


scores = st.lists(st.floats(-10, 10), min_size=1, max_size=8).map(lambda values: floats(*values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8, 1, 7, 2, 6, 3, 5, 4], 4.5),  # 3, 4, 5, 6 stay
        ([0, -99, 1, 2, 3, 4, 5, 6, 99, 100], 3.5),  # 1 … 6 stay: two go at each end
        ([1, 2, 6], 3.0),  # fewer than four: the mean
        ([0, 1, 1, 100], 1.0),
    ],
)
def test_interquartile_mean_by_hand(values: list[float], expected: float) -> None:
    assert interquartile_mean(floats(*values)) == pytest.approx(expected)


def test_interquartile_mean_takes_the_axis_it_is_told() -> None:
    table = np.array([[0.0, 1.0, 1.0, 100.0], [5.0, 2.0, 4.0, 3.0]])
    np.testing.assert_allclose(interquartile_mean(table), [1.0, 3.5])
    np.testing.assert_allclose(interquartile_mean(table.T, axis=0), [1.0, 3.5])


@given(scores, st.floats(0.1, 10), st.floats(-5, 5))
def test_interquartile_mean_moves_with_the_scores(values: Floats, scale: float, shift: float) -> None:
    expected = scale * float(interquartile_mean(values)) + shift
    assert interquartile_mean(scale * values + shift) == pytest.approx(expected, abs=1e-6)


def test_the_bootstrap_of_two_values_has_three_means() -> None:
    """0, ½, 1 with probabilities ¼, ½, ¼: the middle 40 % are ½, the middle 95 % reach both ends."""
    assert bootstrap([floats(0, 1)], confidence=0.4) == (0.5, 0.5, 0.5)
    assert bootstrap([floats(0, 1)]) == (0.5, 0.0, 1.0)


def test_the_bootstrap_never_mixes_environments() -> None:
    assert bootstrap([floats(0, 0), floats(1, 1)]) == (0.5, 0.5, 0.5)
    mixed = bootstrap([floats(0, 0, 1, 1)])
    assert mixed.low < 0.5 < mixed.high


@given(scores)
def test_the_interval_repeats_holds_the_value_and_stays_within_the_scores(values: Floats) -> None:
    found = bootstrap([values], resamples=200)
    assert found == bootstrap([values], resamples=200)
    assert values.min() - 1e-9 <= found.low <= found.high <= values.max() + 1e-9


def test_more_runs_give_a_narrower_interval() -> None:
    few, many = (bootstrap([np.tile(floats(0.0, 0.3, 0.7, 1.0), n)]) for n in (2, 50))
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_probability_of_improvement_by_hand() -> None:
    """Of the nine pairs 3 > 2 twice, and 2 = 2 twice, for half each."""
    assert probability_of_improvement([floats(1, 2, 3)], [floats(2, 2, 4)]).value == pytest.approx(3 / 9)


def test_each_environment_counts_alike_however_many_runs_it_has() -> None:
    ours = [floats(*[1.0] * 10), floats(0)]
    theirs = [floats(*[0.0] * 10), floats(1)]
    assert probability_of_improvement(ours, theirs) == (0.5, 0.5, 0.5)


def test_probability_of_improvement_needs_the_same_environments() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        probability_of_improvement([floats(1)], [floats(1), floats(2)])


@given(scores, scores)
def test_one_of_two_arms_wins(ours: Floats, theirs: Floats) -> None:
    there = probability_of_improvement([ours], [theirs], resamples=10).value
    back = probability_of_improvement([theirs], [ours], resamples=10).value
    assert there + back == pytest.approx(1.0)


def test_area_heeds_the_distances_between_evaluations() -> None:
    """Triangle of 5 and rectangle of 20 over 30 steps; the mean of the three scores would be 2/3."""
    assert area_under_curve(floats(0, 10, 30), floats(0, 1, 1)) == pytest.approx(25 / 30)
    assert area_under_curve(floats(7), floats(0.4)) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.8, 180.0), (0.5, 150.0), (0.0, 100.0), (-1.0, 100.0), (0.95, 295.0), (1.1, math.inf)],
)
def test_steps_to_the_first_crossing(threshold: float, expected: float) -> None:
    """Up from 0 to 0.9 in [100, 190], down to 0.5 at 250, up to 1 at 300."""
    curve = floats(100, 190, 250, 300), floats(0.0, 0.9, 0.5, 1.0)
    assert steps_to(threshold, *curve) == pytest.approx(expected)
