from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from equipoise.envs.quadratic_forms import Forms, value_iteration
from equipoise.envs.references import episode_returns, expert_behaviour
from equipoise.envs.switched_lqr import LIMIT, SwitchedLQR, SwitchedLQRState


def at(env: SwitchedLQR, *positions: list[float]) -> None:
    env.state = SwitchedLQRState(torch.tensor(positions), torch.zeros(len(positions), dtype=torch.long))


def test_a_step_is_that_of_the_chosen_mode() -> None:
    """In one dimension A is growth + 0.05, its only entry being the largest; mode 1 owns nothing of it."""
    env = SwitchedLQR(2, dimension=1, modes=2, growth=1.0)
    at(env, [2.0], [2.0])
    step = env.step((torch.tensor([0, 1]), torch.tensor([[-1.0, 50.0], [50.0, -1.0]])))
    growth = float(env._matrix[0, 0])
    assert abs(growth - 1.0) == pytest.approx(0.05)
    assert step.observation.tolist() == [
        [pytest.approx(2 * growth - 1.0)],
        [pytest.approx(2 * growth - 0.15)],
    ]
    assert step.rewards.tolist() == [[-4.0, pytest.approx(-0.1)]] * 2


def test_the_state_is_held_within_its_limits() -> None:
    env = SwitchedLQR(1, dimension=2)
    at(env, [99.0, -99.0])
    assert env.step((torch.tensor([0]), torch.zeros(1, 6))).observation.tolist() == [[LIMIT, -LIMIT]]


def riccati(a: np.ndarray, b: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The textbook's, with Q = I and R = 0.1·I."""
    inner = 0.1 * np.eye(len(a)) + b.T @ cost @ b
    return np.eye(len(a)) + a.T @ cost @ a - a.T @ cost @ b @ np.linalg.solve(inner, b.T @ cost @ a)


def test_value_iteration_finds_the_best_of_all_sequences_of_modes() -> None:
    env, steps = SwitchedLQR(1, dimension=2, modes=3), 4
    inputs = np.stack([np.diag(strength) for strength in env._strengths])
    directions = np.random.default_rng(3).uniform(-1, 1, (500, 2))
    one = np.eye(2)
    forms = value_iteration(env._matrix, inputs, one, 0.1 * one, steps, directions)[-1]
    every = []
    for modes in product(range(3), repeat=steps):
        cost = np.zeros((2, 2))
        for mode in modes:
            cost = riccati(env._matrix, inputs[mode], cost)
        every.append(cost)
    others = np.random.default_rng(4).uniform(-1, 1, (200, 2))

    def least(costs: np.ndarray) -> np.ndarray:
        return np.einsum("ni,fij,nj->nf", others, np.array(costs), others).min(1)

    assert len(forms.costs) < len(every)
    np.testing.assert_allclose(least(forms.costs), least(np.array(every)), rtol=1e-3)


def test_the_expert_reaches_its_own_forecast_and_no_single_mode_does() -> None:
    env = SwitchedLQR(256, dimension=4, modes=3)
    env.reset(7)
    start = env.state.position.double().numpy()
    best = env._plans[-1]
    forecast = -np.einsum("ni,nij,nj->n", start, best.costs[best.best(start)], start)
    returns = episode_returns(env, expert_behaviour, 7)
    np.testing.assert_allclose(returns.numpy(), forecast, rtol=1e-3)

    def one_mode(mode: int) -> list[Forms]:
        inputs = np.diag(env._strengths[mode])[None]
        return value_iteration(env._matrix, inputs, np.eye(4), 0.1 * np.eye(4), 20, start)

    single = min(np.einsum("ni,ij,nj->n", start, one_mode(m)[-1].costs[0], start).mean() for m in range(3))
    assert single > 1.1 * -forecast.mean()
