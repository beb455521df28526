"""The optimum of one product's inventory with fixed ordering costs, by value iteration on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEP = 0.05
_LOWEST, _HIGHEST = -20.0, 30.0
_DEMANDS = 2.0 * (np.arange(40) + 0.5) / 40
"""Equally likely: uniform between 0 and 2, at distances of the grid."""


class OrderingPlan(NamedTuple):
    levels: Array
    """`[G]`: stock on the grid."""
    choices: NDArray[np.int64]
    """`[T, G]`: what is best with 1, 2, … T steps left."""
    up_to: Array
    """`[T, G, m]`: the stock after ordering, under each choice."""
    costs: Array
    """`[T, G]`: the least expected cost from there on."""

    def best(self, stock: Array, left: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
        """Choice `[N, n]` and stock after ordering `[N, n, m]` for stock `[N, n]` with `left` `[N]` steps."""
        place = np.clip(np.round((stock - self.levels[0]) / _STEP), 0, len(self.levels) - 1).astype(np.int64)
        when = (left - 1)[:, None]
        return self.choices[when, place], self.up_to[when, place]


def order_up_to(
    fixed: Sequence[float], unit: Sequence[float], holding: float, shortage: float, largest: float, steps: int
) -> OrderingPlan:
    """The best order at every level of stock, for 1 to `steps` steps left.

        G(y) = E[holding·(y − D)⁺ + shortage·(D − y)⁺ + V'(y − D)],   V(x) = min over k of
        fixed_k + min {unit_k·(y − x) + G(y): x ≤ y ≤ x + largest}

    where choice 0 is not to order (y = x) and D is uniform between 0 and 2 (Scarf, 1960). Beyond the
    grid, -20 to 30, V' goes on as a straight line.
    """
    levels = np.arange(_LOWEST, _HIGHEST + _STEP / 2, _STEP)
    after = levels[:, None] - _DEMANDS
    now = (holding * after.clip(min=0) + shortage * (-after).clip(min=0)).mean(1)
    reach = round(largest / _STEP)
    value = np.zeros_like(levels)
    choices, up_to, costs = [], [], []
    for _ in range(steps):
        ahead = now + _straight(levels, value, after).mean(1)
        price, place = [ahead], [np.arange(len(levels))]
        for start, each in zip(fixed[1:], unit[1:], strict=True):
            least, where = _least_ahead(ahead + each * levels, reach)
            price.append(start + least - each * levels)
            place.append(where)
        choices.append(np.argmin(price, 0))
        up_to.append(levels[np.stack(place, 1)])
        value = np.min(price, 0)
        costs.append(value)
    return OrderingPlan(levels, np.stack(choices), np.stack(up_to), np.stack(costs))


def _straight(levels: Array, value: Array, at: Array) -> Array:
    """`value` at any place, by straight lines, which go on below the grid."""
    below = (value[1] - value[0]) / _STEP * np.minimum(at - levels[0], 0.0)
    result: Array = np.interp(at, levels, value) + below
    return result


def _least_ahead(numbers: Array, reach: int) -> tuple[Array, NDArray[np.int64]]:
    """The least of each number and the `reach` after it, and where it is."""
    padded = np.concatenate([numbers, np.full(reach, np.inf)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach + 1)
    where = windows.argmin(1)
    return windows.min(1), where + np.arange(len(numbers))
