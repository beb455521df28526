"""Statistics over runs: values worked out by hand, and how often intervals and tests are right."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.scripts.studies.intervals import (
    Floats,
    area_under_curve,
    equivalent,
    holm,
    interquartile_mean,
    iqm_interval,
    paired,
    probability_of_improvement,
    rank_sum_test,
    steps_to,
    within_pairs,
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


Draw = Callable[[int], Floats]
SHAPES: dict[str, Callable[[np.random.Generator], Draw]] = {
    "normal": lambda random: lambda n: random.normal(size=n),
    "skewed": lambda random: lambda n: random.beta(8.0, 1.0, size=n),
    "heavy tails": lambda random: lambda n: random.standard_t(3.0, size=n),
    "success rates": lambda random: (
        lambda n: np.minimum(np.round(200 * random.beta(20.0, 1.0, size=n)) / 200, 1.0)
    ),
    "one run in five fails": lambda random: (
        lambda n: np.where(random.random(n) < 0.2, 0.45, 0.88) + 0.03 * random.normal(size=n)
    ),
}


def coverage(find: Callable[[Floats], tuple[float, float]], draw: Draw, truth: float, count: int) -> float:
    """How often an interval of `count` runs holds the truth, in 3,000 studies (standard error 0.004)."""
    limits = [find(draw(count)) for _ in range(3_000)]
    return float(np.mean([low <= truth <= high for low, high in limits]))


def percentile_bootstrap(values: Floats, random: np.random.Generator) -> tuple[float, float]:
    """What was in use before."""
    drawn = interquartile_mean(values[random.integers(len(values), size=(200, len(values)))])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("count", [6, 8, 10, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_interval_called_95_percent_covers_95_percent(shape: str, count: int) -> None:
    draw = SHAPES[shape](np.random.default_rng(count))
    truth = float(interquartile_mean(draw(1_000_000)))

    def limits(values: Floats) -> tuple[float, float]:
        found = iqm_interval([values])
        assert not found.is_range
        return found.low, found.high

    assert 0.93 <= coverage(limits, draw, truth, count) <= 0.97


@pytest.mark.parametrize(("count", "covers"), [(3, 0.74), (5, 0.91)])
def test_the_percentile_bootstrap_did_not(count: int, covers: float) -> None:
    random = np.random.default_rng(count)
    found = coverage(
        lambda values: percentile_bootstrap(values, random), lambda n: random.normal(size=n), 0.0, count
    )
    assert found == pytest.approx(covers, abs=0.025)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_few_runs_have_a_range_and_no_interval(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    found = iqm_interval([values])
    assert found.is_range
    assert (found.low, found.high, found.runs) == (values.min(), values.max(), (count,))


def test_several_environments_cover_95_percent_too() -> None:
    """Of different spread and with different numbers of runs; the mean of their interquartile means."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(3_000):
        found = iqm_interval(
            [random.normal(1.0, 1.0, 6), random.normal(3.0, 0.2, 10), random.normal(5.0, 0.5, 8)]
        )
        hits += found.low <= 3.0 <= found.high
    assert 0.94 <= hits / 3_000 <= 0.985
    assert found.runs == (24,)


def test_several_environments_with_too_few_runs_have_no_interval() -> None:
    found = iqm_interval([floats(1, 1, 1, 1, 1, 1), floats(2, 2, 2)])
    assert found.value == 1.5
    assert math.isnan(found.low)


def test_the_interval_of_six_by_hand() -> None:
    """The whole range of six holds the median in 62 of 64 studies; 95 % need a little less."""
    found = iqm_interval([floats(0, 1, 2, 3, 4, 5)])
    assert found.value == 2.5
    assert 0.0 < found.low < 0.5
    assert found.high == pytest.approx(5.0 - found.low)


@given(scores)
def test_the_interval_holds_the_value_and_stays_within_the_scores(values: Floats) -> None:
    found = iqm_interval([values])
    assert values.min() - 1e-9 <= found.low <= found.value <= found.high <= values.max() + 1e-9


def test_probability_of_improvement_by_hand() -> None:
    """Of the nine pairs 3 > 2 twice, and 2 = 2 twice, for half each."""
    found = probability_of_improvement([floats(1, 2, 3)], [floats(2, 2, 4)])
    assert found.value == pytest.approx(3 / 9)
    assert found.runs == (3, 3)


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize("truth", [0.5, 0.75, 0.97])
def test_the_probability_of_improvement_has_an_interval_that_covers(truth: float, count: int) -> None:
    random = np.random.default_rng(count)
    shift = math.sqrt(2.0) * statistics.NormalDist().inv_cdf(truth)

    def limits(values: Floats) -> tuple[float, float]:
        found = probability_of_improvement([values[0]], [values[1]])
        return found.low, found.high

    def draw(n: int) -> Floats:
        return np.stack([shift + random.normal(size=n), random.normal(size=n)])

    assert coverage(limits, draw, truth, count) >= 0.945


def test_winning_every_pair_is_no_certainty() -> None:
    """With three runs each, one study in ten comes out so by chance. The bootstrap said [1, 1]."""
    few = probability_of_improvement([floats(4, 5, 6)], [floats(1, 2, 3)])
    more = probability_of_improvement([np.arange(10.0) + 10.0], [np.arange(10.0)])
    assert (few.value, few.high) == (1.0, 1.0)
    assert few.low < 0.5 < more.low < 0.85


def test_each_environment_counts_alike_however_many_runs_it_has() -> None:
    ours = [floats(*[1.0] * 10), floats(0)]
    theirs = [floats(*[0.0] * 10), floats(1)]
    found = probability_of_improvement(ours, theirs)
    assert found.value == 0.5
    assert found.low < 0.45
    assert found.runs == (11, 11)


def test_probability_of_improvement_needs_the_same_environments() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        probability_of_improvement([floats(1)], [floats(1), floats(2)])


@given(scores, scores)
def test_one_of_two_arms_wins(ours: Floats, theirs: Floats) -> None:
    there = probability_of_improvement([ours], [theirs])
    back = probability_of_improvement([theirs], [ours])
    assert there.value + back.value == pytest.approx(1.0)
    assert there.low + back.high == pytest.approx(1.0, abs=1e-6)
    assert rank_sum_test([ours], [theirs]) == pytest.approx(rank_sum_test([theirs], [ours]))


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [
        ([4, 5, 6], [1, 2, 3], 2 / 20),  # the most that three runs each can show
        ([6, 7, 8, 9, 10], [1, 2, 3, 4, 5], 2 / 252),
        ([1, 4], [2, 3], 1.0),
        ([1, 1, 2], [1, 2, 2], 1.0),
        ([2, 2, 2], [1, 1, 2], 0.4),  # ranks 1.5 and 4.5: the sum is 13.5 in 4 of 20 deals, and 7.5 in 4
    ],
)
def test_the_rank_sum_test_by_hand(ours: list[float], theirs: list[float], p: float) -> None:
    assert rank_sum_test([floats(*ours)], [floats(*theirs)]) == pytest.approx(p)


def test_equivalence_by_hand() -> None:
    """Both variances are 1/n: error 1, two degrees of freedom, of which t = 1 leaves ½ − 1/(2√3) above."""
    ours, theirs = floats(-0.5, 0.5), floats(-0.5, 0.5)
    error = math.sqrt(0.5)
    assert equivalent(ours, theirs, error) == pytest.approx(0.5 - 0.5 / math.sqrt(3), abs=1e-6)
    assert equivalent(ours, theirs + error, error) == pytest.approx(0.5)
    assert equivalent(ours, theirs + 2 * error, error) == pytest.approx(0.5 + 0.5 / math.sqrt(3), abs=1e-6)
    assert equivalent(floats(1, 1), floats(1, 1), 0.1) == 0.0
    assert equivalent(floats(1, 1), floats(2, 2), 0.1) == 1.0


def test_equivalence_is_seldom_claimed_where_means_are_a_margin_apart() -> None:
    random = np.random.default_rng(0)
    claims = [
        equivalent(random.normal(size=10), random.normal(5.0, 2.0, size=10), 5.0) < 0.05 for _ in range(2000)
    ]
    assert 0.03 < np.mean(claims) < 0.065


def test_the_rank_sum_test_deals_out_ranks_within_environments_only() -> None:
    """Twice 3 against 3, every pair won: both environments at once come out so in 2 of 400 deals."""
    high, low = floats(4, 5, 6), floats(1, 2, 3)
    assert rank_sum_test([high, high], [low, low]) == pytest.approx(2 / 400)
    assert rank_sum_test([high, low], [low, high]) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_study_of_thirty_cells_without_any_difference_shows_none() -> None:
    """In 95 of 100 studies; without the correction four of five would have shown one."""
    random, alarms, uncorrected = np.random.default_rng(0), 0, 0
    for _ in range(100):
        p = [rank_sum_test([random.normal(size=6)], [random.normal(size=6)]) for _ in range(30)]
        uncorrected += min(p) < 0.05
        alarms += min(holm(p)) < 0.05
    assert alarms <= 9
    assert uncorrected >= 60


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


def test_paired_differences_by_hand() -> None:
    # Mean 2, deviation 1, four pairs: t = 4 with 3 degrees of freedom, for which tables give p = 0.028.
    spread = math.sqrt(3.0) / 2.0
    interval, p = paired(np.array([2.0 - spread, 2.0 - spread, 2.0 + spread, 2.0 + spread]))
    assert interval.value == pytest.approx(2.0)
    assert interval.high - 2.0 == pytest.approx(3.182 / 2.0, abs=1e-3)
    assert p == pytest.approx(0.0280, abs=2e-4)
    assert paired(np.zeros(3))[1] == 1.0


def test_differences_are_those_of_seeds_that_both_have() -> None:
    assert within_pairs({3: 1.0, 1: 0.5, 9: 7.0}, {1: 0.25, 3: 2.0, 4: 0.0}).tolist() == [0.25, -1.0]
