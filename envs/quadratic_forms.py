"""Value iteration over quadratic forms: the optimum of switched linear systems with quadratic costs.

With `t` steps left the least cost is a minimum over forms, V(x) = min xᵀPx over P in a set (Zhang, Hu and
Abate, "On the value functions of the discrete-time switched LQR problem", 2009): the set for one step more
holds the Riccati step of each mode from each P.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_TOLERANCE = 1e-4


class Forms(NamedTuple):
    """What can be done with some number of steps left: `F` plans, each with its cost."""

    costs: Array
    """`[F, d, d]`: the cost from state `x` on is `xᵀPx`."""
    modes: NDArray[np.int64]
    """`[F]`: the mode to choose now."""
    gains: Array
    """`[F, d, d]`: the control is `u = −Kx`."""

    def best(self, states: Array) -> NDArray[np.int64]:
        """`[n]`: the cheapest plan at each of `states` `[n, d]`."""
        plan: NDArray[np.int64] = _costs(self.costs, states).argmin(1)
        return plan


def value_iteration(
    dynamics: Array, inputs: Array, state_cost: Array, control_cost: Array, steps: int, states: Array
) -> list[Forms]:
    """The plans with 1, 2, … `steps` steps left.

    The sets grow by the number of modes in every step. Kept are plans of which one comes within 1e-4 of the
    least cost at each of `states` and of those that the plans themselves lead to from there, found in two
    rounds. So the result is a policy that can be carried out, and at such states within 1e-4 for each step
    of the optimum.

    Args:
        dynamics: `A` `[d, d]`: x' = Ax + B_k u.
        inputs: `B` `[m, d, d]`, one for each mode.
        state_cost: `Q` `[d, d]`.
        control_cost: `R` `[d, d]`.
        states: `[n, d]`; their length does not matter, only where they point.
    """
    found = [states] * steps
    for _ in range(2):
        plans: list[Forms] = []
        costs = np.zeros((1, *state_cost.shape))
        for left in range(1, steps + 1):
            forms = _one_more(dynamics, inputs, state_cost, control_cost, costs)
            kept = _needed(_costs(forms.costs, found[steps - left]))
            plans.append(Forms(forms.costs[kept], forms.modes[kept], forms.gains[kept]))
            costs = plans[-1].costs
        visited = _visited(dynamics, inputs, plans, states)
        found = [np.concatenate(pair) for pair in zip(found, visited, strict=True)]
    return plans


def _needed(costs: Array) -> list[int]:
    """Few columns of `costs` `[n, F]` that together come within `_TOLERANCE` of the least of every row: the
    one that serves the most rows first."""
    serves = costs <= costs.min(1, keepdims=True) * (1.0 + _TOLERANCE)
    chosen: list[int] = []
    while len(serves):
        chosen.append(int(serves.sum(0).argmax()))
        serves = serves[~serves[:, chosen[-1]]]
    return chosen


def _one_more(dynamics: Array, inputs: Array, state_cost: Array, control_cost: Array, costs: Array) -> Forms:
    """The Riccati step of every mode from every form, `m·F` plans."""
    plans = []
    for mode, matrix in enumerate(inputs):
        through = matrix.T @ costs
        gains = np.linalg.solve(control_cost + through @ matrix, through @ dynamics)
        closed = dynamics - matrix @ gains
        # The form of Joseph: a sum of squares, which stays symmetric and positive.
        cost = (
            state_cost
            + gains.swapaxes(-1, -2) @ control_cost @ gains
            + closed.swapaxes(-1, -2) @ costs @ closed
        )
        plans.append((cost, np.full(len(costs), mode), gains))
    costs, modes, gains = (np.concatenate(column) for column in zip(*plans, strict=True))
    return Forms(costs, modes, gains)


def _visited(dynamics: Array, inputs: Array, plans: list[Forms], states: Array) -> list[Array]:
    """Where the plans lead from `states`: `steps` arrays `[n, d]`, the first of which are the starts."""
    visited = []
    for forms in reversed(plans):
        visited.append(states)
        plan = forms.best(states)
        control = -np.einsum("nij,nj->ni", forms.gains[plan], states)
        states = states @ dynamics.T + np.einsum("nij,nj->ni", inputs[forms.modes[plan]], control)
    return visited


def _costs(forms: Array, states: Array) -> Array:
    """`[n, F]`, by one product of matrices."""
    squares = states[:, :, None] * states[:, None, :]
    costs: Array = squares.reshape(len(states), -1) @ forms.reshape(len(forms), -1).T
    return costs
