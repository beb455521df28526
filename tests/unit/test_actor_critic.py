"""The actor-critic: symmetry, what each loss reaches, bounds, initialisation."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from equipoise.trainer.data import Actions
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import MLP, NodeSet, NodeSetSummary
from equipoise.trainer.spaces import HybridSpace

HYBRID = HybridSpace(spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,)))))
M, F = 5, 4
NODES = HybridSpace(
    spaces.Dict({"decide": spaces.MultiDiscrete([3] * M), "how": spaces.Box(-1, 1, (M, 2))}),
    [[[], [2 * node, 2 * node + 1], []] for node in range(M)],
)


def mlp(space: HybridSpace = HYBRID, num_values: int = 2, **settings: Any) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(
        space, (6,), num_values, **{"encoder": partial(MLP, hidden_sizes=(16, 16)), **settings}
    )


def encoders(activation: str = "tanh", hidden_sizes: tuple[int, ...] = (16, 16)) -> dict[str, Any]:
    kinds = {"encoder": NodeSet, "critic_encoder": NodeSetSummary}
    return {
        name: partial(kind, hidden_sizes=hidden_sizes, activation=activation) for name, kind in kinds.items()
    }


def node_set(activation: str = "tanh", **settings: Any) -> ActorCritic:
    torch.manual_seed(0)
    policy = ActorCritic(NODES, (M, F), 3, **encoders(activation), **settings)
    for parameter in policy.parameters():  # heads start near zero, where everything looks equivariant
        nn.init.normal_(parameter, std=0.5)
    return policy.double()


def colony(seed: int = 0) -> Tensor:
    """`[8, M, F]`: nodes of which about a third do not exist."""
    draw = torch.Generator().manual_seed(seed)
    nodes = torch.randn(8, M, F, generator=draw, dtype=torch.float64)
    nodes[..., 0] = (torch.rand(8, M, generator=draw) < 0.7).double()
    return nodes


def outputs(policy: ActorCritic, nodes: Tensor) -> dict[str, Tensor]:
    logits, mean, log_std, values = (part.detach() for part in policy(nodes.flatten(1)))
    by_node = {
        "logits": logits,
        "mean": mean.view(-1, M, 2),
        "log_std": log_std.expand_as(mean).view(-1, M, 2),
    }
    return {**by_node, "values": values}


# --- sets of nodes --------------------------------------------------------------------------------------

VARIANTS: list[dict[str, Any]] = [
    {},
    {"activation": "relu", "shared_trunk": False},
    {"activation": "silu", "state_dependent_std": True},
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_permuting_the_nodes_permutes_the_policy_and_leaves_the_values(settings: dict[str, Any]) -> None:
    policy, nodes, order = node_set(**settings), colony(), torch.tensor([3, 0, 4, 1, 2])
    before, after = outputs(policy, nodes), outputs(policy, nodes[:, order])
    for name in ("logits", "mean", "log_std"):
        torch.testing.assert_close(after[name], before[name][:, order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after["values"], before["values"], rtol=1e-9, atol=1e-9)
    assert float((before["logits"][:, order] - before["logits"]).abs().max()) > 0.1  # nodes do differ


@pytest.mark.parametrize("settings", VARIANTS)
def test_empty_slots_have_no_influence_on_anybody(settings: dict[str, Any]) -> None:
    policy, nodes = node_set(**settings), colony()
    exists = nodes[..., 0] == 1
    other = nodes.clone()
    other[..., 1:][~exists] = 100.0
    before, after = outputs(policy, nodes), outputs(policy, other)
    for name in ("logits", "mean", "log_std"):
        assert torch.equal(after[name][exists], before[name][exists])
    assert torch.equal(after["values"], before["values"])


def test_existing_nodes_do_influence_each_other() -> None:
    policy, nodes = node_set(), colony()
    nodes[..., 0] = 1.0
    other = nodes.clone()
    other[:, 0, 1:] += 1.0
    changed = (outputs(policy, other)["logits"] - outputs(policy, nodes)["logits"]).abs().amax(-1)
    assert bool((changed > 0).all())


def test_a_set_without_any_node_is_finite() -> None:
    assert all(bool(part.isfinite().all()) for part in node_set()(torch.zeros(2, M * F, dtype=torch.float64)))


def test_node_sets_are_never_normalised() -> None:
    assert node_set(normalize_observations=True).normalizer is None
    assert mlp(normalize_observations=True).normalizer is not None
    assert mlp(normalize_observations=False).normalizer is None


# --- what each loss reaches -----------------------------------------------------------------------------

REACH: list[dict[str, Any]] = [
    {},
    {"shared_trunk": False},
    {"state_dependent_std": True},
    {"shared_critic": True},
    {"shared_trunk": False, "shared_critic": True, "state_dependent_std": True},
    {**encoders()},
    {**encoders(), "shared_trunk": False},
]


@pytest.mark.parametrize("settings", REACH)
def test_side_parameters_are_those_that_a_sides_loss_reaches(settings: dict[str, Any]) -> None:
    if "critic_encoder" in settings:
        policy, inputs = ActorCritic(NODES, (M, F), 2, **settings), torch.rand(3, M * F)
    else:
        policy, inputs = mlp(**settings), torch.rand(3, 6)
    distribution = policy.distribution(inputs, None)
    everything = torch.ones(3, policy.space.num_continuous, dtype=torch.bool)
    losses = {
        "discrete": distribution.log_probs[..., 0].sum(),
        "continuous": distribution.continuous_log_prob(torch.ones_like(distribution.mean), everything).sum(),
        "value": policy.critic(inputs).sum(),
    }
    parameters = dict(policy.named_parameters())
    reached: dict[str, set[str]] = {}
    for side, loss in losses.items():
        parts = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        reached[side] = {name for name, part in zip(parameters, parts, strict=True) if part is not None}
    names = {id(parameter): name for name, parameter in parameters.items()}
    for side in ("discrete", "continuous"):
        assert {names[id(p)] for p in policy.side_parameters(side)} == reached[side]  # type: ignore[arg-type]
    assert bool(reached["discrete"] & reached["continuous"]) == settings.get("shared_trunk", True)
    assert bool(reached["value"] & reached["discrete"]) == settings.get("shared_critic", False)


def test_every_component_has_a_value_of_its_own() -> None:
    policy = mlp(num_values=4)
    values = policy.critic(torch.rand(7, 6))
    assert values.shape == (7, 4)
    weight = torch.autograd.grad(values[:, 2].sum(), policy.value_head.weight)[0]
    assert weight.any(-1).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("space", "heads", "parameters"),
    [(spaces.MultiDiscrete([2, 3]), (2, 3), 0), (spaces.Box(-1, 1, (2,)), (0, 0), 2)],
)
def test_spaces_with_one_side(space: spaces.Space[Any], heads: tuple[int, int], parameters: int) -> None:
    policy = mlp(HybridSpace(space), shared_critic=True)
    logits, mean, log_std, values = policy(torch.rand(5, 6))
    assert logits.shape == (5, *heads)
    assert mean.shape == (5, parameters)
    assert log_std.shape == (parameters,)
    assert values.shape == (5, 2)


# --- the spread of the parameters -----------------------------------------------------------------------


@pytest.mark.parametrize("state_dependent_std", [False, True])
@pytest.mark.parametrize("log_std_init", [-4.9, -1.5, -0.5, 1.9])
def test_log_std_starts_where_it_should(log_std_init: float, state_dependent_std: bool) -> None:
    policy = mlp(log_std_init=log_std_init, state_dependent_std=state_dependent_std)
    _, mean, log_std = policy.actor(torch.zeros(3, 6))  # zero inputs: only biases speak
    assert log_std.expand_as(mean).flatten().tolist() == pytest.approx([log_std_init] * 6, abs=1e-5)


def test_log_std_is_bounded_with_slope_1_in_the_middle() -> None:
    policy = mlp(log_std_min=-3.0, log_std_max=1.0, log_std_init=-1.0)
    assert policy.log_std is not None
    slope = torch.autograd.grad(policy.actor(torch.zeros(1, 6))[2].sum(), policy.log_std)[0]
    assert slope.tolist() == pytest.approx([1.0, 1.0])
    nn.init.constant_(policy.log_std, 1e6)
    assert policy.actor(torch.zeros(1, 6))[2].tolist() == pytest.approx([1.0, 1.0])
    nn.init.constant_(policy.log_std, -1e6)
    assert policy.actor(torch.zeros(1, 6))[2].tolist() == pytest.approx([-3.0, -3.0])


def test_state_dependent_std_depends_on_the_state() -> None:
    log_std = mlp(state_dependent_std=True).actor(torch.rand(3, 6))[2]
    assert log_std.shape == (3, 2)
    assert not torch.equal(log_std[0], log_std[1])


# --- acting and starting --------------------------------------------------------------------------------


def test_the_deterministic_action_is_the_mode_under_normalised_observations() -> None:
    policy = mlp()
    assert policy.normalizer is not None
    policy.normalizer.update(5.0 + 3.0 * torch.randn(200, 6))
    nn.init.normal_(policy.discrete_head.weight)  # type: ignore[union-attr]
    observations = 5.0 + 3.0 * torch.randn(50, 6)
    logits, mean, _ = policy.actor((observations - policy.normalizer.mean) / policy.normalizer.std)
    action = policy.act(observations, None)
    assert isinstance(action, Actions)
    assert torch.equal(action.discrete, logits.argmax(-1))
    torch.testing.assert_close(action.continuous, mean.detach())
    only_2 = torch.tensor([[[False, False, True]]]).expand(50, 1, 3)
    assert bool((policy.act(observations, only_2).discrete == 2).all())


def test_layers_start_orthogonal_with_their_gains_and_without_bias() -> None:
    policy = mlp(state_dependent_std=True)
    gains = {"trunk": math.sqrt(2.0), "value_head": 1.0, "head": 0.01}
    for name, module in policy.named_modules():
        if isinstance(module, nn.Linear):
            gain = next(gain for part, gain in gains.items() if part in name)
            singular = np.linalg.svd(module.weight.detach().numpy(), compute_uv=False)
            assert singular.tolist() == pytest.approx([gain] * len(singular), rel=1e-4), name
            if name != "log_std_head":
                assert not module.bias.any()


# --- what cannot work -----------------------------------------------------------------------------------


@pytest.mark.parametrize("log_std_init", [-5.0, 2.0, 7.0])
def test_a_log_std_outside_its_bounds_is_refused(log_std_init: float) -> None:
    with pytest.raises(ValueError, match=rf"policy.log_std_init = {log_std_init}"):
        mlp(log_std_init=log_std_init)


@pytest.mark.parametrize(
    ("space", "shape", "settings", "message"),
    [
        (NODES, (M * F,), {}, r"\[nodes, features\]"),
        (NODES, (M + 1, F), {}, "5 heads"),
        (HybridSpace(spaces.Box(-1, 1, (M + 1,))), (M, F), {}, "0 heads"),
        (NODES, (M, F), {"shared_critic": True}, "policy.shared_critic"),
        (NODES, (M, F), {"shared_critic": True, "critic_encoder": None}, "features of the whole observation"),
        (NODES, (M, F), {"critic_encoder": None}, "NodeSetSummary suits NodeSet"),
    ],
)
def test_a_node_set_that_does_not_fit_is_refused(
    space: HybridSpace, shape: tuple[int, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ActorCritic(space, shape, 1, **{**encoders(), **settings})


UNEVEN = HybridSpace(spaces.Tuple((spaces.Discrete(2_000), spaces.MultiDiscrete([3] * 4))))


def test_the_head_has_a_row_for_each_choice_and_none_for_what_is_beyond_them() -> None:
    policy = mlp(UNEVEN)
    assert policy.discrete_head is not None
    assert policy.discrete_head.weight.shape == (2_000 + 4 * 3, 16)
    observation = torch.randn(8, 6, generator=torch.Generator().manual_seed(3))
    logits = policy(observation).logits
    assert logits.shape == (8, 2_000 + 4 * 3), "no room for what is beyond them"
    assert policy.discrete_trunk is not None
    rows = policy.discrete_head(policy.discrete_trunk(observation))
    assert torch.equal(logits, rows)
