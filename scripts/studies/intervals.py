"""Statistics of few runs: interquartile means with intervals, probabilities of improvement, exact tests.

An interval called 95 % has to hold the true value in 95 % of all studies, and the usual percentile bootstrap
of an interquartile mean does not: it covers 74 % with three runs, 91 % with five and 93 % with ten. In use
here are

- for interquartile means: interpolated order statistics (Hettmansperger & Sheather, "Confidence intervals
  based on interpolated order statistics", Statistics & Probability Letters 4, 1986). They use ranks alone and
  assume no shape. With 6 to 20 runs they cover 94 to 96 % for normal, uniform, skewed and heavy-tailed scores
  and for success rates. The exception are scores in two heaps of unequal size with the interquartile mean
  between them (86 % with ten runs). Five runs cannot give 95 %: even their whole range holds the median only
  94 % of the time. So fewer than `FEWEST` runs get their range, under that name;
- for probabilities of improvement: Newcombe's score interval for the Mann-Whitney statistic ("Confidence
  intervals for an effect size measure based on the Mann-Whitney statistic. Part 2", Statistics in Medicine
  25, 2006, method 5), with a t quantile in place of the normal one. With 3 to 20 runs a side it covers 95 %
  or more for equal spreads, 93 % or more where one arm's runs spread three times as far. Where one side wins
  every pair it is still an interval; the bootstrap's has no width there;
- for several environments: the mean of their values, the distances to the limits added in squares (MOVER, Zou
  & Donner, Statistics in Medicine 27, 2008);
- for "better": the exact rank-sum test, corrected by Holm's method for all comparisons of a study.

`tests/unit/test_intervals.py` simulates the coverage. A *stratum* holds the runs of one environment.
Interquartile mean and probability of improvement: Agarwal et al., "Deep reinforcement learning at the edge of
the statistical precipice", NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Strata = Sequence[Floats]
"""One array of run scores for each environment."""

CONFIDENCE = 0.95
SIGNIFICANT = 1.0 - CONFIDENCE
"""Largest corrected p that is called a difference."""
FEWEST = 6
"""Runs in an environment from which on there is a 95 % interval."""


class Interval(NamedTuple):
    value: float
    low: float
    high: float
    runs: tuple[int, ...] = ()
    """How many it rests on, of one arm or of each of two."""
    is_range: bool = False
    """Whether `low` and `high` are merely the lowest and the highest run."""


def interquartile_mean(values: Floats, axis: int = -1) -> Floats:
    """Mean along `axis` without the lowest and the highest ⌊n/4⌋ values (the 25 % trimmed mean)."""
    count = values.shape[axis]
    cut = count // 4
    return np.asarray(np.sort(values, axis).take(range(cut, count - cut), axis).mean(axis))


def iqm_interval(strata: Strata) -> Interval:
    """Interquartile mean with its 95 % interval; of several environments, the mean of theirs.

    With fewer than `FEWEST` runs the limits are the range of the runs; of several environments, of which one
    has too few, they are NaN.
    """
    each = [_of_one(np.sort(stratum)) for stratum in strata]
    return each[0] if len(each) == 1 else _mean_of(each)


def probability_of_improvement(ours: Strata, theirs: Strata) -> Interval:
    """P(a run of ours scores more than one of theirs) with its 95 % interval; ties count half.

    In each environment this is the Mann-Whitney U statistic over the number of pairs; the mean over the
    environments counts each of them alike.
    """
    each = [_newcombe(x, y) for x, y in _paired(ours, theirs)]
    return each[0] if len(each) == 1 else _mean_of(each)


def rank_sum_test(ours: Strata, theirs: Strata) -> float:
    """Two-sided p of the exact rank-sum test (Wilcoxon, Mann & Whitney); ties get their mean rank.

    Null hypothesis: within each environment both arms have the same distribution of scores. The statistic is
    the sum of our ranks over all environments, its distribution that over all ways to deal the ranks out.
    """
    distribution, observed, middle = np.ones(1), 0, 0.0
    for x, y in _paired(ours, theirs):
        ranks = _doubled_ranks(np.concatenate([x, y]))
        observed += int(ranks[: len(x)].sum())
        middle += len(x) * float(ranks.mean())
        distribution = np.convolve(distribution, _sums_of(ranks, len(x)))
    distance = np.abs(np.arange(len(distribution)) - middle)
    return min(float(distribution[distance >= abs(observed - middle) - 1e-9].sum()), 1.0)


def equivalent(ours: Floats, theirs: Floats, margin: float) -> float:
    """p of the two one-sided t tests (Schuirmann, 1987; degrees of freedom after Welch): the chance of seeing
    means this close if they really lie `margin` or more apart. Each side needs two runs."""
    spreads = [side.var(ddof=1) / len(side) for side in (ours, theirs)]
    error = math.sqrt(sum(spreads))
    room = margin - abs(float(ours.mean() - theirs.mean()))
    if error == 0.0:
        return 0.0 if room > 0 else 1.0
    parts = [s * s / (len(side) - 1) for s, side in zip(spreads, (ours, theirs), strict=True)]
    return 1.0 - _t_below(room / error, sum(spreads) ** 2 / sum(parts))


def within_pairs(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Floats:
    """What ours have more than theirs, seed by seed, of the seeds that both have."""
    return np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


def paired(differences: Floats) -> tuple[Interval, float]:
    """Mean of differences within pairs, its 95 % interval, and the two-sided p, both after Student's t."""
    count = len(differences)
    value, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(count)
    width = _t_quantile(count - 1) * error
    p = float(value == 0.0) if error == 0.0 else 2.0 * (1.0 - _t_below(abs(value) / error, count - 1))
    return Interval(value, value - width, value + width, (count,)), p


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for being several: the chance that any of them is a false alarm stays below
    the level (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        corrected[index] = largest
    return corrected


def area_under_curve(steps: Floats, scores: Floats) -> float:
    """Mean height of a learning curve: its trapezoid area over the steps that it spans."""
    if len(steps) < 2:
        return float(scores.mean())
    return float((scores[1:] + scores[:-1]) / 2 @ np.diff(steps) / (steps[-1] - steps[0]))


def steps_to(threshold: float, steps: Floats, scores: Floats) -> float:
    """Where a curve first reaches `threshold`, between two evaluations linearly; infinity if never."""
    reached = np.flatnonzero(scores >= threshold)
    if len(reached) == 0:
        return math.inf
    last = int(reached[0])
    if last == 0:
        return float(steps[0])
    part = (threshold - scores[last - 1]) / (scores[last] - scores[last - 1])
    return float(steps[last - 1] + part * (steps[last] - steps[last - 1]))


def _of_one(ordered: Floats) -> Interval:
    """Of one environment; `ordered` from low to high."""
    count, value = len(ordered), float(interquartile_mean(ordered))
    if count < FEWEST:
        return Interval(value, float(ordered[0]), float(ordered[-1]), (count,), is_range=True)
    rank, part = _order_statistics(count)
    low = (1.0 - part) * ordered[rank - 1] + part * ordered[rank]
    high = (1.0 - part) * ordered[count - rank] + part * ordered[count - rank - 1]
    return Interval(value, min(float(low), value), max(float(high), value), (count,))


def _order_statistics(count: int) -> tuple[int, float]:
    """The rank from either end at which the interval begins, and how far it moves to the next one inward."""

    def coverage(rank: int) -> float:
        """How often the values of this rank from both ends have the median between them."""
        return float(1.0 - 2.0 * sum(math.comb(count, i) for i in range(rank)) / 2.0**count)

    rank = max(rank for rank in range(1, count // 2 + 1) if coverage(rank) >= CONFIDENCE)
    outer, inner = coverage(rank), coverage(rank + 1)
    excess = (outer - CONFIDENCE) / (outer - inner)
    return rank, (count - rank) * excess / (rank + (count - 2 * rank) * excess)


def _newcombe(ours: Floats, theirs: Floats) -> Interval:
    difference = ours[:, None] - theirs[None, :]
    value = float(((np.sign(difference) + 1) / 2).mean())
    count, pairs = len(ours) + len(theirs), len(ours) * len(theirs)
    quantile, more = _t_quantile(max(count - 2, 1)), count / 2.0 - 1.0

    def outside(p: float) -> bool:
        spread = p * (1.0 - p) / pairs * (1.0 + more * ((1.0 - p) / (2.0 - p) + p / (1.0 + p)))
        return (value - p) ** 2 > quantile**2 * spread

    limits = []
    for far in (0.0, 1.0):
        near = value
        for _ in range(50):  # halving [far, near] each time
            middle = (far + near) / 2.0
            far, near = (middle, near) if outside(middle) else (far, middle)
        limits.append(near)
    return Interval(value, limits[0], limits[1], (len(ours), len(theirs)))


@cache
def _t_quantile(degrees: int) -> float:
    """Student's t beyond which, on both sides together, 1 - `CONFIDENCE` lies."""
    angle, within = _t_within(degrees)
    return math.sqrt(degrees) * math.tan(float(np.interp(CONFIDENCE, within, angle)))


def _t_below(t: float, degrees: float) -> float:
    """P(T < t) of Student's t."""
    angle, within = _t_within(degrees)
    share = float(np.interp(math.atan(abs(t) / math.sqrt(degrees)), angle, within))
    return 0.5 + math.copysign(0.5 * share, t)


def _t_within(degrees: float) -> tuple[Floats, Floats]:
    """Angles θ from 0 to π/2, and P(|T| < √ν tan θ): the density over θ is proportional to cos^(ν-1) θ."""
    angle = np.linspace(0.0, np.pi / 2.0, 20_001)
    density = np.cos(angle) ** (degrees - 1)
    within = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return angle, within / within[-1]


def _mean_of(each: Sequence[Interval]) -> Interval:
    """The mean of independent estimates with its interval, NaN where one has no interval."""
    count, known = len(each), not any(one.is_range for one in each)
    value = sum(one.value for one in each) / count
    below = math.sqrt(sum((one.value - one.low) ** 2 for one in each)) / count if known else math.nan
    above = math.sqrt(sum((one.high - one.value) ** 2 for one in each)) / count if known else math.nan
    runs = tuple(sum(counts) for counts in zip(*(one.runs for one in each), strict=True))
    return Interval(value, value - below, value + above, runs)


def _paired(ours: Strata, theirs: Strata) -> list[tuple[Floats, Floats]]:
    if len(ours) != len(theirs):
        raise ValueError(f"both need the same environments, got {len(ours)} and {len(theirs)} of them")
    return list(zip(ours, theirs, strict=True))


def _doubled_ranks(values: Floats) -> NDArray[np.int64]:
    """Twice the rank of each value from 1 on, which is whole where ties share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    return np.asarray((2 * before + counts + 1)[place], dtype=np.int64)


def _sums_of(ranks: NDArray[np.int64], count: int) -> Floats:
    """The probability of each sum, from 0 on, of `count` of the `ranks` drawn without replacement."""
    ways = np.zeros((count + 1, int(ranks.sum()) + 1))
    ways[0, 0] = 1.0
    for rank in ranks.tolist():
        ways[1:, rank:] = ways[1:, rank:] + ways[:-1, :-rank]
    return np.asarray(ways[count] / ways[count].sum())
