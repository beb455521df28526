"""The hybrid distribution against torch's own, and what irrelevant parts may not do."""

from __future__ import annotations

import math

import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn.functional import pad

from equipoise.trainer.data import Actions
from equipoise.trainer.policy.continuous import FAMILIES, FamilyName
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.spaces import HybridSpace

# Two heads of 2 and 4 choices. Parameters 0 and 1 belong to head 0, 2 on head 1, 3 on none.
SPACE = HybridSpace(
    spaces.Tuple((spaces.Discrete(2), spaces.Discrete(4), spaces.Box(-1, 1, (4,)))),
    [[[0], [0, 1]], [[], [2], [2], []]],
)
B = 64


class Case:
    """Random outputs of a network, random actions, and a mask with one to all choices of head 1."""

    def __init__(self, seed: int = 0, scale: float = 1.0, family: FamilyName = "gaussian") -> None:
        draw = torch.Generator().manual_seed(seed)
        self.logits = (scale * torch.randn(B, 2, 4, generator=draw)).requires_grad_()
        self.mean = torch.randn(B, 4, generator=draw).requires_grad_()
        self.log_std = (0.5 * torch.randn(B, 4, generator=draw) - 0.5).requires_grad_()
        self.mask = SPACE.valid_choices.repeat(B, 1, 1)
        self.mask[:, 1] = torch.arange(4) <= torch.arange(B).unsqueeze(-1) % 4
        outputs = self.logits, self.mean, self.log_std, self.mask
        self.distribution = HybridDistribution(SPACE, *outputs, FAMILIES[family]())
        gumbel = -torch.rand(B, 2, 4, generator=draw).log().neg().log()
        with torch.no_grad():
            shape = self.distribution.family.noise
            self.actions = self.distribution.sample(gumbel, torch.randn(B, 4, *shape, generator=draw))
        self.relevant = self.distribution.relevant(self.actions.discrete)

    def gradients(self, metric: Tensor) -> list[Tensor]:
        inputs = (self.logits, self.mean, self.log_std)
        return list(torch.autograd.grad(metric.sum(), inputs, retain_graph=True, materialize_grads=True))


def categorical(case: Case, head: int) -> Categorical:
    return Categorical(logits=case.logits[:, head].masked_fill(~case.mask[:, head], -math.inf))


def test_discrete_log_probs_and_entropies_are_those_of_the_masked_categorical() -> None:
    case = Case()
    log_prob, entropy = (
        case.distribution.discrete_log_prob(case.actions.discrete),
        case.distribution.discrete_entropy(),
    )
    for head in range(2):
        theirs = categorical(case, head)
        torch.testing.assert_close(log_prob[:, head], theirs.log_prob(case.actions.discrete[:, head]))
        torch.testing.assert_close(entropy[:, head], theirs.entropy())


def test_continuous_log_probs_are_sums_over_the_relevant_parameters_of_a_decision() -> None:
    case = Case()
    each = Normal(case.mean, case.log_std.exp()).log_prob(case.actions.continuous)
    first, second = case.actions.discrete.unbind(-1)
    expected = torch.stack(
        [
            each[:, 0] + torch.where(first == 1, each[:, 1], 0.0),
            torch.where((second == 1) | (second == 2), each[:, 2], 0.0),
            each[:, 3],
        ],
        dim=-1,
    )
    ours = case.distribution.continuous_log_prob(case.actions.continuous, case.relevant)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        case.distribution.continuous_entropy(), Normal(case.mean, case.log_std.exp()).entropy()
    )


def test_one_log_std_for_all_samples_is_the_same_as_one_for_each() -> None:
    case = Case()
    shared = case.log_std[0].detach()
    one = HybridDistribution(SPACE, case.logits, case.mean, shared, case.mask)
    each = HybridDistribution(SPACE, case.logits, case.mean, shared.expand(B, 4), case.mask)
    parameters = case.actions.continuous
    torch.testing.assert_close(
        one.continuous_log_prob(parameters, case.relevant),
        each.continuous_log_prob(parameters, case.relevant),
    )
    assert one.continuous_entropy().shape == (B, 4)


def test_divergences_are_those_of_torch() -> None:
    one, other = Case(), Case(seed=1)
    kl = one.distribution.discrete_kl(other.distribution)
    for head in range(2):
        torch.testing.assert_close(
            kl[:, head], kl_divergence(categorical(one, head), categorical(other, head))
        )
    torch.testing.assert_close(
        one.distribution.continuous_kl(other.distribution),
        kl_divergence(*(Normal(case.mean, case.log_std.exp()) for case in (one, other))),
    )


# --- what does not matter takes no part -----------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_irrelevant_parameters_have_exactly_no_log_prob_and_no_gradient(family: FamilyName) -> None:
    case = Case(family=family)
    log_prob = case.distribution.continuous_log_prob(case.actions.continuous, case.relevant)
    logits, mean, log_std = case.gradients(log_prob)
    assert not case.relevant.all()
    assert bool((log_prob[:, 1][~case.relevant[:, 2]] == 0).all())
    for gradient in (mean, log_std):
        assert bool((gradient[~case.relevant] == 0).all())
        assert bool((gradient[case.relevant] != 0).all())
    assert bool((logits == 0).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_irrelevant_parameter_may_be_anything(family: FamilyName) -> None:
    case = Case(family=family)
    other = torch.where(case.relevant, case.actions.continuous, -5.0)
    before = case.distribution.continuous_log_prob(case.actions.continuous, case.relevant)
    assert torch.equal(case.distribution.continuous_log_prob(other, case.relevant), before)


def test_a_head_with_one_valid_choice_decides_nothing() -> None:
    case = Case()
    idle = case.mask.sum(-1) == 1
    assert torch.equal(case.distribution.discrete_active(), ~idle)
    assert idle.sum() == B // 4
    log_prob, entropy = (
        case.distribution.discrete_log_prob(case.actions.discrete),
        case.distribution.discrete_entropy(),
    )
    for metric in (log_prob, entropy):
        assert bool((metric[idle] == 0).all())
        logits, mean, log_std = case.gradients(metric)
        assert bool((logits[idle] == 0).all())
        assert bool(logits[~idle].any())
        assert not mean.any()
        assert not log_std.any()


def test_choices_that_are_padding_or_masked_have_probability_zero_and_no_gradient() -> None:
    case = Case()
    probabilities = case.distribution.log_probs.exp()
    assert bool((probabilities[~case.mask] == 0).all())
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(B, 2))
    logits, _, _ = case.gradients(case.distribution.discrete_log_prob(case.actions.discrete))
    assert bool((logits[~case.mask] == 0).all())


# --- sampling -------------------------------------------------------------------------------------------


def test_sampled_choices_have_the_right_frequencies() -> None:
    size, draw = 40_000, torch.Generator().manual_seed(1)
    logits = torch.tensor([[0.3, -0.5, 9.0, 9.0], [1.0, 0.0, -1.0, 5.0]]).expand(size, 2, 4)
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]]).expand(size, 2, 4)
    distribution = HybridDistribution(SPACE, logits, torch.zeros(size, 4), torch.zeros(4), mask)
    gumbel = -torch.empty(size, 2, 4).exponential_(generator=draw).log()
    choices = distribution.sample(gumbel, torch.zeros(size, 4)).discrete
    for head, chances in enumerate(([0.3, -0.5], [1.0, 0.0, -1.0])):
        expected = size * torch.tensor(chances).softmax(-1)
        counts = torch.bincount(choices[:, head], minlength=4).float()
        assert not counts[len(chances) :].any()
        chi_square = ((counts[: len(chances)] - expected).square() / expected).sum()
        assert float(chi_square) < 13.8  # p = 0.001 with two degrees of freedom


def test_sampled_parameters_are_the_noise_scaled_and_shifted() -> None:
    distribution = HybridDistribution(
        SPACE,
        torch.zeros(1, 2, 4),
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        torch.tensor([0.0, 2.0, 0.5, 1.0]).log(),
        SPACE.valid_choices.unsqueeze(0),
    )
    noise = torch.tensor([[5.0, 1.0, -2.0, 0.0]])
    assert distribution.sample(torch.zeros(1, 2, 4), noise).continuous.tolist() == [[1.0, 4.0, 2.0, 4.0]]


def test_the_mode_is_the_likeliest_valid_choice_and_the_mean() -> None:
    logits = torch.tensor([[[0.0, 1.0, 7.0, 7.0], [3.0, 1.0, 2.0, 9.0]]])
    mask = torch.tensor([[[True, True, False, False], [True, True, True, False]]])
    mean = torch.tensor([[0.1, 0.2, 0.3, 5.0]])
    mode = HybridDistribution(SPACE, logits, mean, torch.zeros(4), mask).mode()
    assert mode.discrete.tolist() == [[1, 0]]
    assert torch.equal(mode.continuous, mean)


# --- extremes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e6])
def test_extreme_logits_stay_finite_with_finite_gradients(scale: float) -> None:
    case = Case(scale=scale)
    for metric in (
        case.distribution.discrete_log_prob(case.actions.discrete),
        case.distribution.discrete_entropy(),
    ):
        assert bool(metric.isfinite().all())
        assert all(bool(gradient.isfinite().all()) for gradient in case.gradients(metric))


def test_extreme_parameters_stay_finite_with_finite_gradients() -> None:
    mask = SPACE.valid_choices.expand(1, 2, 4)
    mean = torch.zeros(1, 4, requires_grad=True)
    log_std = torch.tensor([-5.0, 2.0, -5.0, 2.0], requires_grad=True)
    distribution = HybridDistribution(SPACE, torch.zeros(1, 2, 4), mean, log_std, mask)
    parameters, everything = torch.tensor([[1e6, -1e6, -1e3, 1e3]]), torch.ones(1, 4, dtype=torch.bool)
    log_prob = distribution.continuous_log_prob(parameters, everything)
    gradients = torch.autograd.grad(log_prob.sum(), (mean, log_std))
    assert all(bool(metric.isfinite().all()) for metric in (log_prob, *gradients))


# --- heads of very different widths ---------------------------------------------------------------------

UNEVEN = HybridSpace(
    spaces.Tuple((spaces.MultiDiscrete([3, 3]), spaces.Discrete(50), spaces.MultiDiscrete([2, 3, 3, 1])))
)


def padded(row: Tensor, beyond: float) -> Tensor:
    """`[B, H, C]` of `[B, S]`."""
    parts = torch.split(row, list(UNEVEN.choice_counts), 1)
    return torch.stack([pad(part, (0, 50 - part.shape[1]), value=beyond) for part in parts], 1)


@pytest.mark.parametrize("masked", [False, True])
def test_choices_in_a_row_give_what_padded_ones_give(masked: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    shape = B, sum(UNEVEN.choice_counts)
    logits, gumbel = torch.randn(shape, generator=draw), -torch.rand(shape, generator=draw).log().neg().log()
    mask = UNEVEN.valid_choices.expand(shape)
    if masked:
        mask = torch.rand(shape, generator=draw) > 0.6
        mask[:, UNEVEN.first_choice] = True
    results = []
    for lay in (lambda numbers, beyond: numbers, padded):
        free = logits.clone().requires_grad_()
        outputs = lay(free, 7.0), torch.zeros(B, 0), torch.zeros(0)
        distribution = HybridDistribution(UNEVEN, *outputs, lay(mask, False))
        taken = distribution.sample(lay(gumbel, 9.0), torch.zeros(B, 0)).discrete
        log_prob, entropy = distribution.discrete_log_prob(taken), distribution.discrete_entropy()
        weights = torch.randn(log_prob.shape, generator=torch.Generator().manual_seed(2))
        gradients = torch.autograd.grad(((log_prob.exp() + entropy) * weights).sum(), free)
        assert log_prob.shape == (B, 7)
        assert not log_prob[:, 6].any(), "one choice is no decision"
        results.append(
            [
                taken,
                distribution.mode().discrete,
                distribution.discrete_active(),
                log_prob,
                entropy,
                *gradients,
            ]
        )
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_numbers_of_choices_are_laid_out_from_every_shape() -> None:
    even = HybridSpace(spaces.MultiDiscrete([3, 2]))
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    grid = [[[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]]]
    assert even.laid_out(row).tolist() == even.laid_out(torch.tensor(grid)).tolist() == grid
    assert even.laid_out(torch.tensor(grid).flatten(1)).tolist() == grid
    row = torch.arange(1.0, 1.0 + sum(UNEVEN.choice_counts))[None]
    for given in (row, padded(row, 7.0), padded(row, 7.0).flatten(1)):
        assert UNEVEN.laid_out(given).tolist() == row.tolist()


# --- spaces with one side -------------------------------------------------------------------------------


def test_without_parameters() -> None:
    space = HybridSpace(spaces.MultiDiscrete([2, 3]))
    mask = space.valid_choices.expand(5, 2, 3)
    distribution = HybridDistribution(space, torch.zeros(5, 2, 3), torch.zeros(5, 0), torch.zeros(0), mask)
    choices = torch.tensor([[1, 2]]).expand(5, 2)
    log_prob = distribution.discrete_log_prob(choices)
    torch.testing.assert_close(log_prob, -torch.tensor([2.0, 3.0]).log().expand(5, 2))
    assert distribution.continuous_log_prob(torch.zeros(5, 0), distribution.relevant(choices)).sum() == 0
    assert distribution.continuous_entropy().shape == (5, 0)


def test_without_heads() -> None:
    space = HybridSpace(spaces.Box(-1, 1, (3,)))
    empty = torch.zeros(5, 0, 0)
    distribution = HybridDistribution(space, empty, torch.zeros(5, 3), torch.zeros(3), empty.to(torch.bool))
    actions = distribution.sample(empty, torch.ones(5, 3))
    assert isinstance(actions, Actions)
    assert actions.discrete.shape == (5, 0)
    assert distribution.mode().discrete.shape == (5, 0)
    log_prob = distribution.continuous_log_prob(actions.continuous, distribution.relevant(actions.discrete))
    # Three standard normals at 1: 3·(−½ − ½ log 2π).
    assert log_prob[:, 0].tolist() == pytest.approx([-1.5 - 1.5 * math.log(2 * math.pi)] * 5)
    assert distribution.discrete_log_prob(actions.discrete).shape == (5, 0)
    assert distribution.discrete_entropy().shape == (5, 0)
    assert distribution.discrete_active().shape == (5, 0)
