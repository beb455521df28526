from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from equipoise.trainer.data import Actions, Minibatch
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.entropy_regularization import EntropyRegularization
from equipoise.trainer.stages.protocol import LossStage, LossState, reduce_term

UNIT_SIGMA = 0.5 * math.log(2 * math.pi * math.e)
"""Entropy of a standard normal: log σ is a dimension's entropy minus this."""


def box() -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


def parameterised_space() -> HybridSpace:
    """One head of two choices, parameter i under choice i only."""
    space = gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2), box(), box()])
    return HybridSpace(space, None, torch.device("cpu"))


def state_of(
    logits: Tensor,
    log_std: Tensor,
    *,
    choices: Tensor | None = None,
    mask: Tensor | None = None,
    space: HybridSpace | None = None,
    progress: float = 0.0,
    side_scale: tuple[float, float] = (1.0, 1.0),
) -> LossState:
    """`logits` `[B, H, C]`, `log_std` `[B, P]`; without `choices` the first choice was taken everywhere."""
    size, heads, _ = logits.shape
    mask = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask
    choices = torch.zeros(size, heads, dtype=torch.int64) if choices is None else choices
    space = space or parameterised_space()
    distribution = HybridDistribution(space, logits, torch.zeros_like(log_std), log_std, mask)
    empty = torch.zeros(size, 0)
    actions = Actions(choices, torch.zeros_like(log_std))
    batch = Minibatch(empty, actions, mask, empty, empty, torch.zeros(size), empty, empty)
    scales = (torch.tensor(side_scale[0]), torch.tensor(side_scale[1]))
    return LossState(batch, distribution, empty, {}, torch.tensor(progress), scales, {})


def reduced(state: LossState) -> dict[str, float]:
    return {name: reduce_term(term).item() for name, term in state.terms.items()}


def logits_of_entropy(entropy: float) -> Tensor:
    """`[2]` logits of a head with two choices and this entropy in nats."""
    low, high = 0.5, 1.0 - 1e-12
    for _ in range(100):
        p = (low + high) / 2
        too_even = -(p * math.log(p) + (1 - p) * math.log(1 - p)) > entropy
        low, high = (p, high) if too_even else (low, p)
    return torch.tensor([math.log(low), math.log(1 - low)], dtype=torch.float64)


def state_of_entropies(discrete: float, continuous: float, **keywords: Any) -> LossState:
    logits = logits_of_entropy(discrete).expand(4, 1, 2).clone()
    log_std = torch.full((4, 2), continuous - UNIT_SIGMA, dtype=torch.float64)
    return state_of(logits, log_std, **keywords)


@pytest.mark.parametrize(
    ("progress", "coefficient"),
    [(0.0, 0.1), (0.1, 0.0802), (0.25, 0.0505), (0.5, 0.001), (0.75, 0.001), (1.0, 0.001)],
)
def test_golden_schedule(progress: float, coefficient: float) -> None:
    stage = EntropyRegularization()
    assert stage.coefficient(torch.tensor(progress)).item() == pytest.approx(coefficient, rel=1e-5)


@pytest.mark.parametrize(
    ("coefficient", "discrete", "continuous", "terms"),
    [
        (0.1, 0.6416, 0.8822, (-0.06416, -0.04411, 0.0, 0.0)),
        (0.08, 0.1 - 0.14 / 3, 1.0025, (-0.004266666666666667, -0.0401, 0.14, 0.0)),
        (0.001, 0.5, -2.5, (-0.0005, 0.00125, 0.0, 1.5)),
    ],
)
def test_golden_terms(
    coefficient: float, discrete: float, continuous: float, terms: tuple[float, ...]
) -> None:
    stage = EntropyRegularization(entropy_coeff_start=coefficient)
    assert isinstance(stage, LossStage)
    state = stage.losses(state_of_entropies(discrete, continuous))
    names = ("entropy_discrete", "entropy_continuous", "entropy_discrete_guard", "entropy_continuous_guard")
    assert set(state.terms) == set(names)  # each counted once, and nothing else
    assert [reduced(state)[name] for name in names] == pytest.approx(terms, abs=1e-6)
    metrics = {tag: metric.value.item() for tag, metric in state.metrics.items()}
    assert metrics["entropy/coefficient"] == pytest.approx(coefficient)
    assert metrics["entropy/discrete"] == pytest.approx(discrete)
    assert metrics["entropy/continuous"] == pytest.approx(continuous)
    assert metrics["entropy/discrete_guard_active"] == (terms[2] > 0)
    assert metrics["entropy/continuous_guard_active"] == (terms[3] > 0)


def test_descending_the_terms_spreads_both_types() -> None:
    logits = torch.tensor([[[2.0, 0.0]]], requires_grad=True)
    log_std = torch.full((1, 2), -0.5, requires_grad=True)
    state = EntropyRegularization().losses(state_of(logits, log_std))
    sum(reduce_term(term) for term in state.terms.values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert log_std.grad is not None
    assert logits.grad[0, 0, 0] > 0 > logits.grad[0, 0, 1]  # a step down lowers the larger logit
    # d(−0.1 · 0.5 · entropy)/d log σ, and nothing for the parameter of the choice that was not taken
    assert log_std.grad[0].tolist() == pytest.approx([-0.05, 0.0])


def test_only_decisions_that_exist_count() -> None:
    """Two samples; in the second one choice is masked, so its head has nothing to decide."""
    logits = torch.zeros(2, 1, 2, requires_grad=True)
    log_std = torch.tensor([[0.0, -9.0], [-9.0, -1.0]], requires_grad=True)
    mask = torch.tensor([[[True, True]], [[False, True]]])
    choices = torch.tensor([[0], [1]])
    state = EntropyRegularization().losses(state_of(logits, log_std, choices=choices, mask=mask))
    assert state.metrics["entropy/discrete"].value.item() == pytest.approx(math.log(2))
    assert state.metrics["entropy/continuous"].value.item() == pytest.approx(UNIT_SIGMA - 0.5)
    discrete, continuous = (
        reduce_term(state.terms[f"entropy_{side}"]) for side in ("discrete", "continuous")
    )
    assert discrete.item() == pytest.approx(-0.1 * math.log(2))
    assert continuous.item() == pytest.approx(-0.05 * (UNIT_SIGMA - 0.5))
    (gradient,) = torch.autograd.grad(continuous, log_std)
    assert gradient.tolist() == [pytest.approx([-0.025, 0]), pytest.approx([0, -0.025])]


def test_without_any_decision_nothing_has_collapsed() -> None:
    logits = torch.zeros(3, 1, 2, requires_grad=True)
    mask = torch.tensor([True, False]).expand(3, 1, 2)
    state = EntropyRegularization().losses(state_of(logits, torch.zeros(3, 2), mask=mask))
    assert reduced(state)["entropy_discrete"] == 0
    assert reduced(state)["entropy_discrete_guard"] == 0
    assert state.metrics["entropy/discrete"].value.isnan()
    assert state.metrics["entropy/discrete_guard_active"].value == 0


def test_precision_is_not_collapse() -> None:
    """σ = 0.05 has an entropy of −1.58 nats: far below the discrete threshold, and allowed."""
    precise = state_of_entropies(0.5, math.log(0.05) + UNIT_SIGMA)
    assert reduced(EntropyRegularization().losses(precise))["entropy_continuous_guard"] == 0
    forbidding = EntropyRegularization(min_continuous_entropy=0.1)
    assert reduced(forbidding.losses(precise))["entropy_continuous_guard"] > 4


def test_each_bonus_follows_its_side_and_the_guard_does_not() -> None:
    keywords: dict[str, Any] = {"discrete": 0.05, "continuous": -2.5}
    plain = reduced(EntropyRegularization().losses(state_of_entropies(**keywords)))
    scaled_state = state_of_entropies(**keywords, side_scale=(0.01, 3.0))
    scaled = reduced(EntropyRegularization().losses(scaled_state))
    fixed = reduced(EntropyRegularization(scale_with_side=False).losses(scaled_state))
    assert scaled["entropy_discrete"] == pytest.approx(0.01 * plain["entropy_discrete"])
    assert scaled["entropy_continuous"] == pytest.approx(3 * plain["entropy_continuous"])
    for guard in ("entropy_discrete_guard", "entropy_continuous_guard"):
        assert scaled[guard] == plain[guard] > 0
    assert fixed == plain


def test_not_adaptive_is_a_constant_bonus_without_a_guard() -> None:
    stage = EntropyRegularization(enable_adaptive_entropy=False, discrete_entropy_weight=2.0)
    for progress in (0.0, 0.9):
        terms = reduced(stage.losses(state_of_entropies(0.05, -2.5, progress=progress)))
        assert terms == pytest.approx({"entropy_discrete": -0.0001, "entropy_continuous": 0.00125})


def test_a_space_of_one_side_has_the_terms_of_that_side() -> None:
    discrete = HybridSpace(gymnasium.spaces.Discrete(3), None, torch.device("cpu"))
    continuous = HybridSpace(box(), None, torch.device("cpu"))
    stage = EntropyRegularization()
    only_heads = stage.losses(state_of(torch.zeros(2, 1, 3), torch.zeros(2, 0), space=discrete))
    no_heads = stage.losses(state_of(torch.zeros(2, 0, 0), torch.zeros(2, 1), space=continuous))
    assert set(only_heads.terms) == {"entropy_discrete", "entropy_discrete_guard"}
    assert set(no_heads.terms) == {"entropy_continuous", "entropy_continuous_guard"}
    assert "entropy/continuous" not in only_heads.metrics


def entropies_after_training(stage: EntropyRegularization, steps: int = 150) -> list[tuple[float, float]]:
    """A linear policy under surrogates that never stop asking for more certainty.

    Starts nearly collapsed: the discrete side at 0.02 nats, σ = 0.018 (−2.6 nats). The surrogate of each
    side is what PPO's is when one choice is always the better one and the mean is already right.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 3, generator=generator)
    policy = torch.nn.Linear(3, 2)
    log_std = torch.full((2,), -4.0, requires_grad=True)
    with torch.no_grad():
        policy.weight.mul_(0.1)
        policy.bias.copy_(torch.tensor([5.6, 0.0]))
    optimizer = torch.optim.Adam([*policy.parameters(), log_std], lr=0.02)
    trajectory = []
    for _ in range(steps):
        logits = policy(inputs).unsqueeze(1)
        state = stage.losses(state_of(logits, log_std.expand(64, 2), progress=1.0))
        surrogates = -logits.log_softmax(-1)[..., 0].exp().mean() + 0.02 * log_std.mean()
        loss = surrogates + torch.stack([reduce_term(term) for term in state.terms.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trajectory.append(
            (state.metrics["entropy/discrete"].value.item(), state.metrics["entropy/continuous"].value.item())
        )
    return trajectory


def test_the_guard_brings_a_collapsing_policy_back() -> None:
    guarded = entropies_after_training(EntropyRegularization())
    unguarded = entropies_after_training(EntropyRegularization(guard_multiplier=0.0))
    for trajectory in (guarded, unguarded):
        assert trajectory[0][0] < 0.03
        assert trajectory[0][1] < -2.5
    discrete, continuous = guarded[-1]
    assert discrete > 0.08  # the threshold is 0.1, held against a surrogate that pushes the other way
    assert continuous > -2.05
    assert unguarded[-1][0] < unguarded[0][0]  # what the schedule's end of 0.001 leaves to itself collapses
    assert unguarded[-1][1] < unguarded[0][1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("entropy_coeff_start", -0.1),
        ("entropy_decay_fraction", 0.0),
        ("entropy_decay_fraction", 1.5),
        ("min_continuous_entropy", float("nan")),
        ("guard_multiplier", -3.0),
        ("entropy_coef", 0.1),
    ],
)
def test_a_wrong_keyword_is_refused_by_name(key: str, value: float) -> None:
    keywords: dict[str, Any] = {key: value}
    with pytest.raises(ValidationError, match=key):
        EntropyRegularization(**keywords)
