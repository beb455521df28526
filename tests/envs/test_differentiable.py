"""Derivatives through the environments against small differences, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise.envs.catch_point import CatchPoint
from equipoise.envs.episodic import EpisodicEnv
from equipoise.envs.goal.environment import Goal
from equipoise.envs.hard_move import HardMove
from equipoise.envs.inventory import Inventory
from equipoise.envs.moving import Moving, Sliding
from equipoise.envs.platform.environment import Platform
from equipoise.envs.protocol import DifferentiableEnv
from equipoise.envs.random_numbers import StreamPerEnv
from equipoise.envs.references import random_action
from equipoise.envs.switched_lqr import SwitchedLQR
from equipoise.envs.topology_spawn.environment import TopologySpawn

ENVS, STEPS, H = 64, 4, 1e-6

Env = EpisodicEnv[Any] | TopologySpawn
KINDS: dict[str, Callable[[], Env]] = {
    "catch_point": lambda: CatchPoint(ENVS),
    "hard_move": lambda: HardMove(ENVS),
    "moving": lambda: Moving(ENVS),
    "sliding": lambda: Sliding(ENVS),
    "platform": lambda: Platform(ENVS),
    "goal": lambda: Goal(ENVS, max_substeps=60),
    "switched_lqr": lambda: SwitchedLQR(ENVS, dimension=3),
    "inventory": lambda: Inventory(ENVS),
    "topology_spawn": lambda: TopologySpawn(ENVS),
}


def double(tensors: Any) -> Any:
    return type(tensors)(*(t.double() if t.is_floating_point() else t for t in tensors))


def numbers(action: Any) -> list[Tensor]:
    """The floating-point leaves of an action."""
    if isinstance(action, Tensor):
        return [action] if action.is_floating_point() else []
    parts = action.values() if isinstance(action, dict) else action
    return [leaf for part in parts for leaf in numbers(part)]


def with_numbers(action: Any, leaves: list[Tensor]) -> Any:
    if isinstance(action, Tensor):
        return leaves.pop(0) if action.is_floating_point() else action
    if isinstance(action, dict):
        return {name: with_numbers(part, leaves) for name, part in action.items()}
    return tuple(with_numbers(part, leaves) for part in action)


class Simulation:
    """The return `[N]` of a fixed sequence of actions from fixed states, with fixed luck, in float64."""

    def __init__(self, env: Env) -> None:
        env.reset(3)
        self.env, self.weights = env, torch.tensor(env.reward_weights, dtype=torch.float64)
        stream, mask = StreamPerEnv(ENVS, env.device, 5), None
        self.actions = []
        for _ in range(STEPS):
            self.actions.append(random_action(env, mask, stream))
        self.start = double(env.colony if isinstance(env, TopologySpawn) else env.state)
        self.random = env._random if isinstance(env, TopologySpawn) else env.random
        self.luck = self.random.state_dict()

    def leaves(self) -> list[list[Tensor]]:
        return [[leaf.double() for leaf in numbers(action)] for action in self.actions]

    def returns(self, leaves: list[list[Tensor]]) -> Tensor:
        self.random.load_state_dict(self.luck)
        state, running = self.start, torch.ones(ENVS, dtype=torch.bool)
        total = torch.zeros(ENVS, dtype=torch.float64)
        for action, own in zip(self.actions, leaves, strict=True):
            filled = with_numbers(action, list(own))
            if isinstance(self.env, TopologySpawn):
                self.env.colony = state
                step = self.env.step(filled)
                state, rewards = self.env.colony, step.rewards
                done = step.terminated | step.truncated
            else:
                outcome = self.env.advance(state, filled)
                state, done = outcome.state, outcome.terminated | outcome.truncated
                rewards = torch.stack([reward.double() for reward in outcome.rewards], 1)
            total = total + torch.where(running, rewards.double() @ self.weights, 0.0)
            running = running & ~done
        return total


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_small_differences(kind: str) -> None:
    """Where nothing jumps between the two sides, to 1e-4 of the largest derivative of that parameter."""
    simulation = Simulation(KINDS[kind]())
    assert isinstance(simulation.env, DifferentiableEnv)
    leaves = simulation.leaves()
    for own in leaves:
        for leaf in own:
            leaf.requires_grad_()
    middle = simulation.returns(leaves)
    derivatives = torch.autograd.grad(middle.sum(), [leaf for own in leaves for leaf in own])
    compared = moved = 0
    plain = [[leaf.detach() for leaf in own] for own in leaves]
    places = [(t, k) for t in range(STEPS) for k in range(len(plain[t]))]
    for (t, k), derivative in zip(places, derivatives, strict=True):
        flat = derivative.reshape(ENVS, -1)
        assert flat.isfinite().all()
        for column in range(0, flat.shape[1], max(1, flat.shape[1] // 6)):
            sides = []
            for sign in (1.0, -1.0):
                changed = [[leaf.clone() for leaf in own] for own in plain]
                changed[t][k].view(ENVS, -1)[:, column] += sign * H
                sides.append(simulation.returns(changed))
            difference = (sides[0] - sides[1]) / (2 * H)
            size = max(1e-3, float(flat[:, column].abs().max()))
            jump = (sides[0] - 2 * middle + sides[1]).abs() / H > 1e-3 * size + 1e-2
            torch.testing.assert_close(
                flat[~jump, column], difference.detach()[~jump], rtol=1e-4, atol=1e-4 * size
            )
            compared += int((~jump).sum())
            moved += int((flat[~jump, column] != 0).sum())
    assert compared > 0.9 * sum(1 for _ in places) * ENVS
    assert moved > 50


@pytest.mark.parametrize("kind", KINDS)
def test_detaching_cuts_what_went_before(kind: str) -> None:
    env = KINDS[kind]()
    simulation = Simulation(env)
    env.reset(3)
    action = simulation.actions[0]
    env.step(with_numbers(action, [leaf.float().requires_grad_() for leaf in numbers(action)]))
    assert simulation_state(env).requires_grad
    env.detach()
    assert not any(t.requires_grad for t in (env.colony if isinstance(env, TopologySpawn) else env.state))


def simulation_state(env: Env) -> Tensor:
    """Any part of the state that depends on the action."""
    parts = env.colony if isinstance(env, TopologySpawn) else env.state
    return next((part for part in parts if part.requires_grad), parts[0])


def test_a_body_at_rest_has_finite_derivatives() -> None:
    env = Sliding(2)
    env.reset(0)
    amounts = torch.zeros(2, 2, requires_grad=True)
    step = env.step((torch.tensor([0, 1]), amounts))
    (derivative,) = torch.autograd.grad(step.rewards.sum() + step.observation.sum(), amounts)
    assert derivative.isfinite().all()
