"""The clipped surrogates: worked out by hand, the sign of their gradient, and wrong variants that fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from equipoise.trainer.data import Actions, Minibatch
from equipoise.trainer.losses import Divisor, RatioOf, Surrogates, surrogates
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.protocol import reduce_term

# Two heads of two choices; parameter h matters when head h takes choice 1.
SPACE = HybridSpace(
    spaces.Tuple((spaces.MultiDiscrete([2, 2]), spaces.Box(-1, 1, (2,)))), [[[], [0]], [[], [1]]]
)
CLIP = 0.2


class Case:
    """A policy (uniform choices, standard normal parameters) and a batch whose ratios are as given."""

    def __init__(
        self,
        choices: list[list[int]],
        discrete_ratios: list[list[float]],
        continuous_ratios: list[list[float]],
        advantages: list[float],
        action_mask: Tensor | None = None,
    ) -> None:
        size = len(choices)
        self.logits = torch.zeros(size, 2, 2, requires_grad=True)
        self.mean = torch.zeros(size, 2, requires_grad=True)
        self.log_std = torch.zeros(2, requires_grad=True)
        mask = torch.ones(size, 2, 2, dtype=torch.bool) if action_mask is None else action_mask
        self.distribution = HybridDistribution(SPACE, self.logits, self.mean, self.log_std, mask)
        actions = Actions(torch.tensor(choices), torch.tensor([[0.5, -0.5]]).repeat(size, 1))
        relevant = self.distribution.relevant(actions.discrete)
        discrete = self.distribution.discrete_log_prob(actions.discrete).detach()
        continuous = self.distribution.continuous_log_prob(actions.continuous, relevant).detach()
        nothing = torch.zeros(size, 1)
        self.batch = Minibatch(
            inputs=nothing,
            actions=actions,
            action_mask=mask,
            discrete_log_prob=discrete - torch.tensor(discrete_ratios).log(),
            continuous_log_prob=continuous - torch.tensor(continuous_ratios).log(),
            advantages=torch.tensor(advantages),
            values=nothing,
            returns=nothing,
        )

    def surrogates(self, ratio: RatioOf = "per_decision", reduction: Divisor = "common") -> Surrogates:
        return surrogates(self.batch, self.distribution, CLIP, ratio, reduction)

    def losses(self, ratio: RatioOf = "per_decision", reduction: Divisor = "common") -> tuple[float, float]:
        result = self.surrogates(ratio, reduction)
        return float(reduce_term(result.discrete).detach()), float(reduce_term(result.continuous).detach())


def two_by_two() -> Case:
    """Two samples, two heads. In the second sample head 0 can only take choice 1, so it decides nothing.

    | sample | A  | head | discrete ratio | min(r·A, clip(r)·A) | continuous ratio | min(r·A, clip(r)·A) |
    |--------|----|------|----------------|---------------------|------------------|---------------------|
    | 0      | +1 | 0    | 1.1            | 1.1                 | 0.9              | 0.9                 |
    | 0      | +1 | 1    | 1.5            | 1.2                 | –                | –                   |
    | 1      | −2 | 0    | –              | –                   | 1.0              | −2.0                |
    | 1      | −2 | 1    | 0.5            | −1.6                | 1.3              | −2.6                |
    """
    mask = torch.ones(2, 2, 2, dtype=torch.bool)
    mask[1, 0, 0] = False
    return Case([[1, 0], [1, 1]], [[1.1, 1.5], [1.0, 0.5]], [[0.9, 1.0], [1.0, 1.3]], [1.0, -2.0], mask)


BY_HAND = {
    # Active: 3 discrete decisions and 3 continuous ones; either: 4.
    ("per_decision", "active"): (-(1.1 + 1.2 - 1.6) / 3, -(0.9 - 2.0 - 2.6) / 3),
    ("per_decision", "common"): (-(1.1 + 1.2 - 1.6) / 4, -(0.9 - 2.0 - 2.6) / 4),
    # Discrete ratios 1.1·1.5 = 1.65 and 0.5, continuous ones 0.9 and 1.3; two samples either way.
    ("per_type", "active"): (-(1.2 - 1.6) / 2, -(0.9 - 2.6) / 2),
    ("per_type", "common"): (-(1.2 - 1.6) / 2, -(0.9 - 2.6) / 2),
}


def check_by_hand() -> None:
    for (ratio, reduction), expected in BY_HAND.items():
        assert two_by_two().losses(ratio, reduction) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]


def test_two_samples_of_two_heads_by_hand() -> None:
    check_by_hand()


def test_the_check_by_hand_refuses_the_maximum_in_place_of_the_minimum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "minimum", torch.maximum)
    with pytest.raises(AssertionError):
        check_by_hand()


def test_the_check_by_hand_refuses_an_unclipped_surrogate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "minimum", lambda left, right: left)
    with pytest.raises(AssertionError):
        check_by_hand()


Compute = Callable[[Minibatch, HybridDistribution], Surrogates]


def ours(batch: Minibatch, distribution: HybridDistribution) -> Surrogates:
    return surrogates(batch, distribution, CLIP, "per_decision", "common")


def check_own_ratios(compute: Compute) -> None:
    """A side's surrogate does not know how far the other side has moved."""
    case = two_by_two()
    reference = compute(case.batch, case.distribution)
    for moved, still in (("discrete", "continuous"), ("continuous", "discrete")):
        log_prob = f"{moved}_log_prob"
        batch = case.batch._replace(**{log_prob: getattr(case.batch, log_prob) - 0.05})
        result = compute(batch, case.distribution)
        assert torch.equal(getattr(result, still).values, getattr(reference, still).values)
        assert not torch.equal(getattr(result, moved).values, getattr(reference, moved).values)


def test_each_side_has_a_ratio_of_its_own() -> None:
    check_own_ratios(ours)


def test_the_check_of_own_ratios_refuses_a_shared_one() -> None:
    def shared(batch: Minibatch, distribution: HybridDistribution) -> Surrogates:
        relevant = distribution.relevant(batch.actions.discrete)
        continuous = distribution.continuous_log_prob(batch.actions.continuous, relevant)
        change = (continuous - batch.continuous_log_prob).detach()
        return ours(batch._replace(discrete_log_prob=batch.discrete_log_prob - change), distribution)

    with pytest.raises(AssertionError):
        check_own_ratios(shared)


def test_clip_fractions_count_active_decisions_only() -> None:
    metrics = two_by_two().surrogates().metrics
    assert float(metrics["loss/clip_fraction_discrete"].value) == pytest.approx(2 / 3)  # 1.5 and 0.5
    assert float(metrics["loss/clip_fraction_continuous"].value) == pytest.approx(1 / 3)  # 1.3


def test_kl_by_hand() -> None:
    # Joint ratios 1.1·1.5·0.9 = 1.485 and 0.5·1.0·1.3 = 0.65; k3 = r − 1 − log r.
    expected = ((0.485 - math.log(1.485)) + (-0.35 - math.log(0.65))) / 2
    assert float(two_by_two().surrogates().kl) == pytest.approx(expected, rel=1e-5)
    same = Case([[1, 1]], [[1.0, 1.0]], [[1.0, 1.0]], [1.0])
    assert float(same.surrogates().kl) == pytest.approx(0.0, abs=1e-7)


def test_kl_of_each_side_by_hand() -> None:
    metrics = two_by_two().surrogates().metrics
    discrete = (0.65 - math.log(1.65) - 0.5 - math.log(0.5)) / 2
    continuous = (-0.1 - math.log(0.9) + 0.3 - math.log(1.3)) / 2
    assert float(metrics["loss/kl_discrete"].value) == pytest.approx(discrete, rel=1e-5)
    assert float(metrics["loss/kl_continuous"].value) == pytest.approx(continuous, rel=1e-5)


def test_a_side_that_the_space_lacks_has_no_kl() -> None:
    space = HybridSpace(spaces.Box(-1, 1, (1,)))
    nothing, one = torch.zeros(1, 0, 0), torch.zeros(1, 1)
    distribution = HybridDistribution(space, nothing, one, one[0], nothing.bool())
    actions = Actions(torch.zeros(1, 0, dtype=torch.int64), one)
    batch = Minibatch(one, actions, nothing.bool(), one[:, :0], one, one[0], one, one)
    assert {"loss/kl", "loss/kl_continuous"} <= (
        found := surrogates(batch, distribution, CLIP, "per_decision", "common").metrics.keys()
    )
    assert "loss/kl_discrete" not in found


def test_parameters_that_hang_on_no_head_are_a_decision_of_their_own() -> None:
    space = HybridSpace(spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,)))))
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    distribution = HybridDistribution(space, torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.zeros(1), mask)
    actions = Actions(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1))
    nothing = torch.zeros(1, 1)
    batch = Minibatch(
        nothing,
        actions,
        mask,
        discrete_log_prob=torch.tensor([[-math.log(2.0) - math.log(0.9)]]),
        # Decision 0, of the head, has no parameters; decision 1 has the one at its mean.
        continuous_log_prob=torch.tensor([[0.0, -0.5 * math.log(2 * math.pi) - math.log(1.1)]]),
        advantages=torch.tensor([3.0]),
        values=nothing,
        returns=nothing,
    )
    # Ratios 0.9 and 1.1 at A = 3; two decisions, each of one type.
    reductions: tuple[tuple[Divisor, float], ...] = (("active", 1.0), ("common", 0.5))
    for reduction, share in reductions:
        result = surrogates(batch, distribution, CLIP, "per_decision", reduction)
        assert float(reduce_term(result.discrete)) == pytest.approx(-2.7 * share, rel=1e-5)
        assert float(reduce_term(result.continuous)) == pytest.approx(-3.3 * share, rel=1e-5)


# --- the gradient ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["per_decision", "per_type"])
@pytest.mark.parametrize("reduction", ["common", "active"])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_good_action_is_made_likelier_and_a_bad_one_less(
    advantage: float, reduction: Divisor, ratio: RatioOf
) -> None:
    case = Case([[1, 0]], [[1.0, 1.0]], [[1.0, 1.0]], [advantage])
    result = case.surrogates(ratio, reduction)
    loss = reduce_term(result.discrete) + reduce_term(result.continuous)
    logits, mean, log_std = torch.autograd.grad(loss, (case.logits, case.mean, case.log_std))
    sign = math.copysign(1.0, advantage)
    step = -sign * logits[0]  # what gradient descent adds, for a good action
    assert float(step[0, 1]) > 0 > float(step[0, 0])  # head 0 took choice 1
    assert float(step[1, 0]) > 0 > float(step[1, 1])  # head 1 took choice 0
    assert -sign * float(mean[0, 0]) > 0  # towards the sample at +0.5
    assert -sign * float(log_std[0]) < 0  # which lies within one σ of the mean
    assert (float(mean[0, 1]), float(log_std[1])) == (0.0, 0.0)  # parameter 1 did not matter


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.5, 1.0, False), (0.5, -1.0, False), (1.5, -1.0, True), (0.5, 1.0, True), (1.1, 1.0, True)],
)
def test_beyond_the_clip_range_only_the_way_back_is_open(ratio: float, advantage: float, moves: bool) -> None:
    case = Case([[1, 1]], [[ratio, ratio]], [[ratio, ratio]], [advantage])
    result = case.surrogates()
    logits = torch.autograd.grad(reduce_term(result.discrete), case.logits)[0]
    mean = torch.autograd.grad(reduce_term(result.continuous), case.mean)[0]
    assert bool((logits != 0).all()) is moves
    assert bool((mean != 0).all()) is moves
    assert bool(logits.any()) is moves


@given(st.integers(0, 2**20), st.sampled_from(["per_decision", "per_type"]))
def test_with_a_common_divisor_the_gradient_is_that_of_the_joint_log_probability(
    seed: int, ratio: Literal["per_decision", "per_type"]
) -> None:
    draw, size = torch.Generator().manual_seed(seed), 6
    logits = torch.randn(size, 2, 2, generator=draw, dtype=torch.float64, requires_grad=True)
    mean = torch.randn(size, 2, generator=draw, dtype=torch.float64, requires_grad=True)
    log_std = torch.randn(2, generator=draw, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(size, 2, 2, dtype=torch.bool)
    distribution = HybridDistribution(SPACE, logits, mean, log_std, mask)
    choices = torch.randint(2, (size, 2), generator=draw)
    actions = Actions(choices, torch.randn(size, 2, generator=draw, dtype=torch.float64))
    relevant = distribution.relevant(choices)
    discrete = distribution.discrete_log_prob(choices)
    continuous = distribution.continuous_log_prob(actions.continuous, relevant)
    advantages = torch.randn(size, generator=draw, dtype=torch.float64)
    nothing = torch.zeros(size, 1)
    batch = Minibatch(
        nothing, actions, mask, discrete.detach(), continuous.detach(), advantages, nothing, nothing
    )
    result = surrogates(batch, distribution, CLIP, ratio, "common")
    inputs = (logits, mean, log_std)
    gradients = torch.autograd.grad(
        reduce_term(result.discrete) + reduce_term(result.continuous), inputs, retain_graph=True
    )
    decisions = size * (2 if ratio == "per_decision" else 1)
    joint = discrete.sum(-1) + continuous.sum(-1)
    expected = torch.autograd.grad(-(advantages * joint).sum() / decisions, inputs)
    for left, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)
