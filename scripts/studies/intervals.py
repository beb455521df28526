"""Statistics of few runs: interquartile means, bootstrap intervals, learning curves in one number.

Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021
(sections 4.1 to 4.3: stratified bootstrap, interquartile mean, probability of improvement).

A *stratum* holds the runs of one environment: resampling never mixes environments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Strata = Sequence[Floats]
"""One array of run scores for each environment."""

RESAMPLES = 2_000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def interquartile_mean(values: Floats, axis: int = -1) -> Floats:
    """Mean along `axis` without the lowest and the highest ⌊n/4⌋ values (the 25 % trimmed mean)."""
    count = values.shape[axis]
    cut = count // 4
    return np.asarray(np.sort(values, axis).take(range(cut, count - cut), axis).mean(axis))


def bootstrap(
    strata: Strata,
    statistic: Callable[[Floats], Floats] = interquartile_mean,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """`statistic` of all scores together, with its percentile interval from a stratified bootstrap.

    `statistic` maps `[..., n]` to `[...]`. The same seed gives the same interval.
    """
    random = np.random.default_rng(seed)
    drawn = np.concatenate([_resample(stratum, resamples, random) for stratum in strata], axis=1)
    value = float(statistic(np.concatenate(list(strata))))
    return interval(value, statistic(drawn), confidence)


def probability_of_improvement(
    ours: Strata,
    theirs: Strata,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """P(a run of ours scores more than one of theirs), ties counting half, averaged over environments.

    In each environment this is the Mann-Whitney U statistic over the number of pairs.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"both need the same environments, got {len(ours)} and {len(theirs)} of them")
    random = np.random.default_rng(seed)
    values = [_wins(x, y) for x, y in zip(ours, theirs, strict=True)]
    drawn = [
        _wins(_resample(x, resamples, random), _resample(y, resamples, random))
        for x, y in zip(ours, theirs, strict=True)
    ]
    return interval(float(np.mean(values)), np.mean(drawn, axis=0), confidence)


def area_under_curve(steps: Floats, scores: Floats) -> float:
    """Mean height of the learning curve: its trapezoid area over the steps that it spans."""
    if len(steps) < 2:
        return float(scores.mean())
    return float(np.trapezoid(scores, steps) / (steps[-1] - steps[0]))


def steps_to(threshold: float, steps: Floats, scores: Floats) -> float:
    """Where the curve first reaches `threshold`, between two evaluations linearly; infinity if never."""
    reached = np.flatnonzero(scores >= threshold)
    if len(reached) == 0:
        return math.inf
    last = int(reached[0])
    if last == 0:
        return float(steps[0])
    part = (threshold - scores[last - 1]) / (scores[last] - scores[last - 1])
    return float(steps[last - 1] + part * (steps[last] - steps[last - 1]))


def interval(value: float, drawn: Floats, confidence: float = CONFIDENCE) -> Interval:
    """`value` between the percentiles of the resampled `drawn` `[resamples]`."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _resample(values: Floats, resamples: int, random: np.random.Generator) -> Floats:
    """`[resamples, n]`: as many values as there are, drawn with replacement."""
    return values[random.integers(len(values), size=(resamples, len(values)))]


def _wins(ours: Floats, theirs: Floats) -> Floats:
    """The fraction of pairs that ours win, `[..., n]` and `[..., m]` to `[...]`."""
    difference = ours[..., :, None] - theirs[..., None, :]
    return np.asarray(((np.sign(difference) + 1) / 2).mean((-2, -1)))
