"""Choices that later heads and parameters see: all by enumeration of every joint choice of a small space."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.encoders import MLP, NodeSet, NodeSetSummary
from equipoise.trainer.spaces import HybridSpace

EVEN = HybridSpace(
    spaces.Dict(
        {"kind": spaces.Discrete(3), "where": spaces.MultiDiscrete([2, 3]), "x": spaces.Box(-1, 1, (2,))}
    )
)
UNEVEN = HybridSpace(spaces.Tuple((spaces.MultiDiscrete([2, 2, 2, 12]), spaces.Box(-1, 1, (1,)))))
"""Whose logits come head after head, unpadded."""
CASES: list[tuple[HybridSpace, dict[str, Any]]] = [
    (EVEN, {}),
    (EVEN, {"order": [2, 0, 1]}),
    (EVEN, {"order": ["where", "kind"], "state_dependent_std": True, "shared_trunk": False}),
    (UNEVEN, {}),
    (UNEVEN, {"order": [3, 1, 0, 2], "distribution": "beta"}),
    (EVEN, {"conditioning": "choices"}),
    (EVEN, {"conditioning": "choices", "distribution": "squashed", "state_dependent_std": True}),
    (EVEN, {"conditioning": "none"}),
]
IDS = [f"{i}-{settings.get('conditioning', 'autoregressive')}" for i, (_, settings) in enumerate(CASES)]


def made(space: HybridSpace = EVEN, seed: int = 0, **settings: Any) -> ActorCritic:
    """In double precision, with weights large enough that everything depends on everything."""
    torch.manual_seed(seed)
    encoder = partial(MLP, hidden_sizes=(8,))
    policy = ActorCritic(space, (3,), 1, **{"encoder": encoder, "conditioning": "autoregressive", **settings})
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=0.7)
    return policy.double()


def every_choice(space: HybridSpace) -> Tensor:
    return torch.tensor(list(product(*map(range, space.choice_counts))))


def a_mask(space: HybridSpace) -> Tensor:
    """`[...]` as `valid_choices`, without choice 1 of the last head."""
    mask = space.valid_choices.clone()
    space.of_head(mask[None], space.num_heads - 1)[0, 1] = False
    return mask


@torch.no_grad()
def joint(policy: ActorCritic, mask: Tensor | None = None) -> tuple[Tensor, HybridDistribution]:
    """Every joint choice of one observation, and what the policy says given each."""
    choices = every_choice(policy.space)
    inputs = torch.tensor([[0.3, -1.0, 0.8]], dtype=torch.float64).expand(len(choices), -1)
    masks = None if mask is None else mask.expand(len(choices), *mask.shape)
    return choices, policy.distribution(inputs, masks, choices)


@pytest.mark.parametrize(("space", "settings"), CASES, ids=IDS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_probabilities_of_all_joint_choices_add_up_to_one(
    space: HybridSpace, settings: dict[str, Any], masked: bool
) -> None:
    policy = made(space, **settings)
    choices, given = joint(policy, a_mask(space) if masked else None)
    log_prob = given.discrete_log_prob(choices).sum(-1)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    if masked:
        assert float(log_prob[choices[:, -1] == 1].exp().sum()) == 0.0


@pytest.mark.parametrize(("space", "settings"), CASES, ids=IDS)
def test_entropy_and_kl_of_the_heads_are_those_of_the_joint_choice_on_average(
    space: HybridSpace, settings: dict[str, Any]
) -> None:
    one, other = made(space, **settings), made(space, seed=1, **settings)
    (choices, p), (_, q) = joint(one), joint(other)
    log_p, log_q = (d.discrete_log_prob(choices).sum(-1) for d in (p, q))
    entropy, kl = -(log_p.exp() * log_p).sum(), (log_p.exp() * (log_p - log_q)).sum()
    assert ((log_p.exp() * p.discrete_entropy().sum(-1)).sum()) == pytest.approx(float(entropy), abs=1e-6)
    assert (log_p.exp() * p.discrete_kl(q).sum(-1)).sum().item() == pytest.approx(kl.item(), abs=1e-6)


@pytest.mark.parametrize(("space", "settings"), CASES, ids=IDS)
def test_joint_choices_come_as_often_as_their_probability_says(
    space: HybridSpace, settings: dict[str, Any]
) -> None:
    policy = made(space, **settings)
    choices, given = joint(policy)
    size = 200_000
    inputs = torch.tensor([[0.3, -1.0, 0.8]], dtype=torch.float64).expand(size, -1)
    with torch.no_grad():
        acting = policy.acting(inputs, None)
        drawn = acting.draw(torch.Generator().manual_seed(3))
    counts = torch.tensor(space.choice_counts)
    number = torch.tensor([int(counts[head + 1 :].prod()) for head in range(len(counts))])
    often = torch.bincount((drawn.discrete * number).sum(-1), minlength=len(choices)) / size
    probabilities = given.discrete_log_prob(choices).sum(-1).exp().detach()
    assert float((often - probabilities).abs().max()) < 4 * 0.5 / size**0.5
    # What it was drawn from is what it is told to be afterwards.
    again = policy.distribution(inputs[:500], None, drawn.discrete[:500])
    then = acting.given(drawn.discrete)
    assert torch.equal(then.mean[:500], again.mean)
    assert torch.equal(then.logits[:500], again.logits)


@pytest.mark.parametrize(("space", "settings"), CASES, ids=IDS)
def test_the_deterministic_action_is_greedy_along_the_order(
    space: HybridSpace, settings: dict[str, Any]
) -> None:
    policy = made(space, **settings)
    choices, given = joint(policy)
    left = torch.ones(len(choices), dtype=torch.bool)
    for head in policy.order:  # of what is left, the choice that is likeliest given those before
        of_head = policy.space.of_head(given.log_probs, head)
        left &= choices[:, head] == int(of_head[left][0].argmax())
    inputs = torch.tensor([[0.3, -1.0, 0.8]], dtype=torch.float64)
    mode = policy.acting(inputs, None).mode()
    assert mode.discrete.tolist() == choices[left].tolist()
    assert torch.allclose(mode.continuous, given.family.mode(given.mean, given.log_std)[left])


def test_who_sees_what() -> None:
    order = [2, 0, 1]
    inputs = torch.zeros(2, 3, dtype=torch.float64)
    for conditioning in ("none", "choices", "autoregressive"):
        policy = made(conditioning=conditioning, order=order, state_dependent_std=True)
        for place, changed in enumerate(order):
            choices = torch.zeros(2, 3, dtype=torch.int64)
            choices[1, changed] = 1
            given = policy.distribution(inputs, None, choices)
            differs = [bool((given.logits[0, head] != given.logits[1, head]).any()) for head in range(3)]
            later = order[place + 1 :] if conditioning == "autoregressive" else []
            assert differs == [head in later for head in range(3)]
            for outputs in (given.mean, given.log_std):
                assert bool((outputs.expand(2, -1)[0] != outputs.expand(2, -1)[1]).any()) is (
                    conditioning != "none"
                )


def test_an_update_learns_by_the_gradient_of_the_joint_log_probability() -> None:
    policy = made(state_dependent_std=True)
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        actions = policy.acting(inputs, None).draw(draw)
    parameters = list(policy.parameters())

    def log_prob() -> Tensor:
        given = policy.distribution(inputs, None, actions.discrete)
        relevant = given.relevant(actions.discrete)
        both = (
            given.discrete_log_prob(actions.discrete),
            given.continuous_log_prob(actions.continuous, relevant),
        )
        return torch.cat(both, -1).sum()

    slopes = torch.autograd.grad(log_prob(), parameters, allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            flat, index = parameter.view(-1), int(slope.abs().argmax())
            before = flat[index].clone()
            up, down = (flat[index].copy_(before + step) is not None and log_prob() for step in (1e-6, -1e-6))
            flat[index] = before
            assert ((up - down) / 2e-6).item() == pytest.approx(
                float(slope.reshape(-1)[index]), rel=1e-5, abs=1e-6
            )


def test_each_side_reaches_its_own_embedding() -> None:
    policy = made(shared_trunk=False)
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    sides = {
        side: {names[id(p)].partition(".")[0] for p in policy.side_parameters(side)}  # type: ignore[arg-type]
        for side in ("discrete", "continuous")
    }
    assert sides["discrete"] == {"discrete_trunk", "discrete_head", "heads_in_turn"}
    assert sides["continuous"] == {"continuous_trunk", "continuous_head", "log_std", "given_choices"}


def test_none_is_what_it_was() -> None:
    """The same weights from the same draws, and none of the parts."""
    encoder = partial(MLP, hidden_sizes=(8,))
    torch.manual_seed(0)
    policy = ActorCritic(EVEN, (3,), 1, encoder=encoder)
    torch.manual_seed(0)
    other = ActorCritic(EVEN, (3,), 1, encoder=encoder, conditioning="autoregressive")
    weights = policy.state_dict()
    assert not any("given" in name or "turn" in name for name in weights)
    assert all(torch.equal(other.state_dict()[name], weight) for name, weight in weights.items())
    assert type(policy.acting(torch.zeros(2, 3), None)) is HybridDistribution


NODES = HybridSpace(
    spaces.Dict({"a": spaces.MultiDiscrete([3] * 4), "b": spaces.Box(-1, 1, (4, 2))}),
    [[[], [2 * node, 2 * node + 1], []] for node in range(4)],
)


def node_set(conditioning: str) -> ActorCritic:
    torch.manual_seed(0)
    kinds = {
        "encoder": partial(NodeSet, hidden_sizes=(8,)),
        "critic_encoder": partial(NodeSetSummary, hidden_sizes=(8,)),
    }
    policy = ActorCritic(NODES, (4, 3), 1, **kinds, conditioning=conditioning)  # type: ignore[arg-type]
    for parameter in policy.parameters():
        nn.init.normal_(parameter, std=0.7)
    return policy.double()


def test_the_parameters_of_a_node_see_its_own_choice_alone() -> None:
    policy = node_set("choices")
    nodes = torch.rand(2, 4, 3, dtype=torch.float64)
    nodes[..., 0] = 1.0
    nodes[1] = nodes[0]
    choices = torch.tensor([[0, 1, 2, 0], [0, 2, 2, 0]])
    means = policy.distribution(nodes.flatten(1), None, choices).mean.view(2, 4, 2)
    assert (means[0] != means[1]).any(-1).tolist() == [False, True, False, False]
    order = torch.tensor([3, 0, 2, 1])
    moved = policy.distribution(nodes[:, order].flatten(1), None, choices[:, order]).mean.view(2, 4, 2)
    torch.testing.assert_close(moved, means[:, order])


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: node_set("autoregressive"), "nodes of a set have no order.*policy.conditioning=choices"),
        (lambda: made(order=["kind"]), r"policy.order = \['kind'\]: must name each of these once: kind, 1, 2"),
        (lambda: made(order=[0, 0, 1, 2]), "must name each"),
        (lambda: made(order=[0, 1, 7]), "must name each"),
        (lambda: made(HybridSpace(spaces.Box(-1, 1, (2,)))), "no choices that anything could depend on; leave it out"),
        (lambda: made(HybridSpace(spaces.Discrete(2))), "nothing that could depend on a choice; leave it out"),
        (lambda: made(HybridSpace(spaces.MultiDiscrete([2, 2])), conditioning="choices"), "leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(attempt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attempt()
