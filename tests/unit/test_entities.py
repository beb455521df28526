"""Entities with actions of their own: their order does not matter, and those that do not exist do not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.observation_parts import read_parts
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import Entities, EntitiesSummary
from equipoise.trainer.policy.encoders.living import Living
from equipoise.trainer.policy.nodes import NodeLayout
from equipoise.trainer.spaces import HybridSpace
from tests.envs.squad import Squad


def policy_for(env: Squad, **keywords: Any) -> ActorCritic:
    torch.manual_seed(0)
    layout = ObservationLayout(env.observation_space)
    encoders = {
        key: lambda observation_shape, observation_parts, make=make: make(
            observation_shape, observation_parts, edges="near" if env.edges else None, **keywords
        )
        for key, make in (("encoder", Entities), ("critic_encoder", EntitiesSummary))
    }
    space = HybridSpace(env.action_space, env.relevance, "cpu")
    parts = read_parts(layout.describe())
    return ActorCritic(space, (layout.width,), 1, parts, **encoders, state_dependent_std=True)


def rows(env: Squad, observation: dict[str, Any]) -> Tensor:
    return torch.from_numpy(ObservationLayout(env.observation_space).row(observation)[0])[None]


@pytest.mark.parametrize("count", [4, 64, 256])
@pytest.mark.parametrize("edges", [False, True])
def test_permuting_the_entities_permutes_the_outputs(count: int, edges: bool) -> None:
    env = Squad(count, edges)
    policy = policy_for(env, rounds=2)
    observation, _ = env.reset(seed=1)
    order = np.random.default_rng(0).permutation(count)
    moved = {
        **observation,
        "units": observation["units"][order],
        "units_mask": observation["units_mask"][order],
    }
    if edges:
        moved["near"] = observation["near"][order][:, order]
    before, after = (policy(policy.normalize(rows(env, each))) for each in (observation, moved))
    there = torch.from_numpy(moved["units_mask"] > 0)
    for found, permuted in zip(before[:3], after[:3], strict=True):
        torch.testing.assert_close(permuted[0][there], found[0][torch.from_numpy(order)][there])
    torch.testing.assert_close(after.values, before.values)
    assert not torch.allclose(before.mean[0, 0], before.mean[0, 1])


def test_what_does_not_exist_has_no_influence_and_costs_no_row() -> None:
    env = Squad(6, edges=True)
    policy = policy_for(env)
    observation, _ = env.reset(seed=3)
    there = observation["units_mask"] > 0
    assert 0 < there.sum() < 6
    other = {**observation, "units": np.where(there[:, None], observation["units"], 0.5).astype(np.float32)}
    found, same = (policy(rows(env, each)) for each in (observation, other))
    for ours, theirs in zip((*found[:3], found.values), (*same[:3], same.values), strict=True):
        assert torch.equal(ours, theirs)
    seen: list[int] = []
    policy.discrete_trunk.each.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    policy(rows(env, observation))
    assert seen == [there.sum()]


def test_living_rows_alone_give_what_all_rows_give() -> None:
    exists = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    everything, of_sets = torch.randn(12, 2), torch.randn(3, 2)
    few, many = Living(exists), Living(exists)
    many._rows = None  # as on a GPU
    there = exists.view(-1) > 0
    assert torch.equal(few.of(everything), everything[there])
    torch.testing.assert_close(few.mean(few.of(everything)), many.mean(everything))
    torch.testing.assert_close(few.mean(few.of(everything))[0], everything[[0, 2, 3]].mean(0))
    assert torch.equal(few.given(of_sets), many.given(of_sets)[there])
    assert torch.equal(few.placed(few.of(everything)), many.placed(everything))


def test_a_head_of_living_rows_has_the_gradients_of_a_head_of_all_rows() -> None:
    """The bias is what those put out that do not exist, and learns from it."""
    torch.manual_seed(0)
    exists, head = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), nn.Linear(2, 3)
    everything, cotangent = torch.randn(6, 2, requires_grad=True), torch.randn(2, 3, 3)
    found = []
    for all_rows in (False, True):
        living = Living(exists)
        if all_rows:
            living._rows = None
        placed = living.through(head, living.of(everything))
        found.append((placed, *torch.autograd.grad(placed, [everything, *head.parameters()], cotangent)))
    for few, many in zip(*found, strict=True):
        torch.testing.assert_close(few, many)
    assert torch.equal(found[0][0][1], head.bias.expand(3, 3))


def test_several_parts_of_an_action_by_hand() -> None:
    """Two entities; heads a0 a1 b0 b1, parameters p00 p01 p10 p11 q0 q1."""
    space = spaces.Dict(
        a=spaces.MultiDiscrete([2, 2]),
        b=spaces.MultiDiscrete([2, 2]),
        p=spaces.Box(-1, 1, (2, 2)),
        q=spaces.Box(-1, 1, (2,)),
    )
    encoder = torch.nn.Identity()
    encoder.nodes = 2
    owned = NodeLayout(encoder, HybridSpace(space))
    assert (owned.heads_each, owned.parameters_each) == (2, 3)
    logits = torch.tensor(
        [[[0.0, 1.0, 10.0, 11.0], [2.0, 3.0, 12.0, 13.0]]]
    )  # of each: those of a, those of b
    assert owned.of_heads(logits).tolist() == [[[0.0, 1.0], [2.0, 3.0], [10.0, 11.0], [12.0, 13.0]]]
    numbers = torch.tensor([[[0.0, 1.0, 4.0], [2.0, 3.0, 5.0]]])  # of each: two of p, one of q
    assert owned.of_parameters(numbers).tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    assert owned.state_dict() == {}
    crossed = [[[], [2]], [[], []], [[], []], [[], []]]
    with pytest.raises(ValueError, match="parameter 2 belongs to head 0 of another node"):
        NodeLayout(encoder, HybridSpace(space, crossed))


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"entities": "unit"}, "entities = unit: no part of the observation; there are"),
        ({"entities": "wind"}, r"must have shape \[entities, features\], not \(1,\)"),
        ({"mask": "wind"}, "mask = wind: must hold a number for each of 8 entities"),
        ({"edges": "units"}, r"edges = units: must be a part \[8, 8\] or \[8, 8, kinds\]"),
    ],
)
def test_what_does_not_fit_is_said(keywords: dict[str, Any], said: str) -> None:
    layout = ObservationLayout(Squad().observation_space)
    with pytest.raises(ValueError, match=said):
        Entities((layout.width,), read_parts(layout.describe()), **keywords)


def test_a_squad_learns_its_orders_and_its_numbers(tmp_path: Path) -> None:
    """Without an order among 8 units, and with a mask; at best 16 points an episode, at random about 0."""
    overrides = (
        "env=gymnasium", "env.make=tests.envs.squad:Squad", "policy=entities", "policy.hidden_sizes=[32]", "device=cpu",
        "trainer.total_env_steps=6144", "trainer.batch.rollout_steps=64", "trainer.eval_every=0",
        "trainer.final_eval_episodes=4", "trainer.ratio=per_decision",
    )  # fmt: skip
    trainer = build(compose([*overrides]), tmp_path / "run")
    returns = [trainer.iterate()["episode/return"] for _ in range(12)]
    trainer.close()
    assert returns[0] < 3.0
    assert returns[-1] > 6.0, returns
