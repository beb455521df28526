from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from equipoise.trainer.data import Actions, Rollout, Targets
from equipoise.trainer.stages.advantage_weighting import SMALLEST_START, AdvantageWeighting, surrogate_loss
from equipoise.trainer.stages.protocol import AdvantageResult, AdvantageStage, Probe

NAMES = ("useful", "noise", "misleading")
ADVANTAGES = [
    [1.398034077968255, -0.1466338170300633, 0.7062578099331451],
    [0.4448539928534564, 0.037180571381274785, -0.06575540990887704],
    [-0.7099891449614062, -0.025226334749607147, -0.4244217192989861],
    [-1.4450425012461532, 0.20682967469140412, 0.10624506609251358],
    [-2.0808170051965145, -0.12814538303215078, -0.5254066924778906],
    [-1.864412625429144, 0.15550230798678372, 0.2243837885745778],
    [-0.10104483486308441, -0.0443652823996598, 0.666080953192665],
    [0.24333708301542986, -0.23358941172957096, 0.676445023080287],
]
MATRIX = [
    [0.0060018477642258695, 1.0964472221069188, -0.2477254308488998],
    [-0.4341081784078661, 0.6447944287809969, -0.8540311944412862],
    [1.2004996507914136, -0.029757687693414143, -0.38304987013086406],
]
WITHOUT_ATTENTION = (
    [0.506480391055654, 0.3071958857184984, 0.1863237232258476],
    [
        1.6707083158941956,
        0.7461212096729016,
        -0.34186590477756024,
        -0.6696506304202039,
        -1.5495730178320004,
        -1.0039716748887686,
        0.47825486373870296,
        0.6699768386127333,
    ],
)
WITH_ATTENTION = (
    [0.40279123878291156, 0.08393180971988921, 0.5132769514971992],
    [
        1.6458543728038793,
        0.42958453005467,
        -0.6113167715829582,
        -0.6180236769880242,
        -1.5856365268580634,
        -0.7970838265064057,
        0.66640523842502,
        0.8702166606518821,
    ],
)


class FixedCosines:
    """A probe that has found these cosines, one set a call, the last one for ever."""

    def __init__(self, *cosines: list[float]) -> None:
        self._cosines = list(cosines)

    def cosines(self, reference: Tensor, candidates: Tensor) -> Tensor:
        found = self._cosines[0] if len(self._cosines) == 1 else self._cosines.pop(0)
        return torch.tensor(found)


class Forbidden:
    def cosines(self, reference: Tensor, candidates: Tensor) -> Tensor:
        raise AssertionError("nobody should have asked for gradients")


def targets_of(advantages: Tensor, task: Tensor | None = None) -> Targets:
    """`[T, N, K]` and `[T, N]`."""
    steps, envs, components = advantages.shape
    empty = torch.zeros(steps, envs, 0)
    done = torch.zeros(steps, envs, dtype=torch.bool)
    rollout = Rollout(
        observations=empty,
        actions=Actions(empty.long(), empty),
        action_mask=empty.unsqueeze(-1).bool(),
        discrete_log_prob=empty,
        continuous_log_prob=empty,
        rewards=torch.zeros_like(advantages),
        terminated=done,
        truncated=done,
        final_observations=empty,
        last_observation=empty[0],
        reward_weights=torch.ones(components),
    )
    task = advantages.sum(-1) if task is None else task
    return Targets(rollout, rollout.rewards, empty, empty, advantages, task_advantages=task)


def random_targets(seed: int, components: int = 3, size: float = 1.0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    return targets_of(torch.randn(8, 4, components, generator=generator) * size)


def stage_of(weights: list[float], **keywords: Any) -> AdvantageWeighting:
    names = tuple("abcdef"[: len(weights)])
    return AdvantageWeighting(reward_names=names, reward_weights=torch.tensor(weights), **keywords)


def weights_of(result: AdvantageResult) -> list[float]:
    prefix = "advantage_weighting/weight/"
    return [metric.value.item() for tag, metric in result.metrics.items() if tag.startswith(prefix)]


def metric(result: AdvantageResult, name: str) -> float:
    return result.metrics[f"advantage_weighting/{name}"].value.item()


# -- the three tiers ------------------------------------------------------------------------------


@pytest.mark.parametrize(("attention", "expected"), [(False, WITHOUT_ATTENTION), (True, WITH_ATTENTION)])
def test_golden_weights_and_advantages(attention: bool, expected: tuple[list[float], list[float]]) -> None:
    stage = stage_of([1.0] * 3, enable_attention_weighting=attention, attention_input="absolute")
    with torch.no_grad():
        stage.base_logits.copy_(torch.tensor([0.5, 0.0, -0.5]))
        stage.attention_matrix.copy_(torch.tensor(MATRIX))
        stage.attention_bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    advantages = torch.tensor(ADVANTAGES).view(4, 2, 3)
    result = stage.advantages(targets_of(advantages), FixedCosines([0.0] * 3))
    weights, standardised = expected
    assert weights_of(result) == pytest.approx(weights, abs=1e-6)
    mixed = result.advantages
    torch.testing.assert_close(
        ((mixed - mixed.mean()) / mixed.std(correction=0)).flatten(),
        torch.tensor(standardised),
        rtol=0,
        atol=1e-5,
    )


def test_48_parameters_at_six_components() -> None:
    stage = stage_of([1.0] * 6)
    assert isinstance(stage, AdvantageStage)
    assert sum(parameter.numel() for parameter in stage.parameters) == 48
    assert sum(p.numel() for p in stage_of([1.0] * 6, enable_attention_weighting=False).parameters) == 6


def test_training_starts_from_the_environments_weights() -> None:
    targets = random_targets(0)
    result = stage_of([2.0, 0.5, 1.5]).advantages(targets, FixedCosines([1.0, 1.0, 1.0]))
    assert weights_of(result) == pytest.approx([0.5, 0.125, 0.375])
    torch.testing.assert_close(result.advantages, targets.advantages @ torch.tensor([0.5, 0.125, 0.375]))
    assert metric(result, "entropy") == pytest.approx(-sum(w * math.log(w) for w in (0.5, 0.125, 0.375)))


def test_a_component_without_weight_can_still_be_learned() -> None:
    stage = stage_of([2.0, 0.0])
    result = stage.advantages(random_targets(0, 2), FixedCosines([0.0, 1.0]))
    assert weights_of(result)[1] == pytest.approx(SMALLEST_START / (1 + SMALLEST_START))
    later = stage.advantages(random_targets(1, 2), FixedCosines([0.0, 1.0]))
    assert weights_of(later)[1] > weights_of(result)[1]


def test_disabled_is_exactly_the_environments_weighted_sum() -> None:
    stage = stage_of([2.0, 0.0, 0.5], enable_learnable_weights=False)
    assert not stage.needs_task_advantage
    targets = random_targets(0)
    for _ in range(3):
        result = stage.advantages(targets, Forbidden())
        assert torch.equal(result.advantages, targets.advantages @ torch.tensor([2.0, 0.0, 0.5]))
    assert stage.state_dict() == {}


def test_the_first_step_worked_out_by_hand() -> None:
    """c = (½, ½), cos = (1, 0): loss −½ log w₁, gradient (−¼, ¼) in the logits, so Adam moves each by its
    learning rate; the weights become σ(±0.02)."""
    stage = stage_of([1.0, 1.0], enable_attention_weighting=False)
    first = stage.advantages(random_targets(0, 2), FixedCosines([1.0, 0.0]))
    second = stage.advantages(random_targets(0, 2), FixedCosines([1.0, 0.0]))
    assert metric(first, "loss") == pytest.approx(-0.5 * math.log(0.5))
    assert metric(first, "gradient_norm") == pytest.approx(math.hypot(0.25, 0.25))
    assert weights_of(second) == pytest.approx(
        [1 / (1 + math.exp(-0.02)), 1 / (1 + math.exp(0.02))], abs=1e-6
    )


def test_the_gradient_is_clipped() -> None:
    stage = stage_of([1.0, 1.0], enable_attention_weighting=False)
    result = stage.advantages(random_targets(0, 2), FixedCosines([100.0, 0.0]))
    assert metric(result, "gradient_norm") > 30
    clipped = stage.base_logits.grad
    assert clipped is not None
    assert clipped.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_regularization_pulls_back_to_the_environments_weights() -> None:
    keywords: dict[str, Any] = {"enable_attention_weighting": False, "weight_learning_rate": 0.05}
    pulled = stage_of([3.0, 1.0], weight_regularization=0.01, **keywords)
    free = stage_of([3.0, 1.0], weight_regularization=0.0, **keywords)
    for stage in (pulled, free):
        with torch.no_grad():
            stage.base_logits.add_(torch.tensor([-2.0, 2.0]))
        for seed in range(200):
            result = stage.advantages(random_targets(seed, 2), FixedCosines([0.0, 0.0]))
        if stage is pulled:
            assert weights_of(result) == pytest.approx([0.75, 0.25], abs=0.02)
        else:
            assert weights_of(result)[0] < 0.1


def test_equal_cosines_keep_the_shares_of_unequal_weights() -> None:
    """w_k ∝ c_k·cos_k: with the same cosine everywhere nothing is left to learn, wherever one starts."""
    stage = stage_of(
        [3.0, 1.0], enable_attention_weighting=False, weight_regularization=0.0, weight_learning_rate=0.05
    )
    with torch.no_grad():
        stage.base_logits.add_(torch.tensor([-1.0, 1.0]))
    for seed in range(300):
        result = stage.advantages(random_targets(seed, 2), FixedCosines([0.5, 0.5]))
    assert weights_of(result) == pytest.approx([0.75, 0.25], abs=0.01)


def test_regularization_pulls_the_attention_back_to_none() -> None:
    stage = stage_of([1.0, 1.0], weight_regularization=0.01, weight_learning_rate=0.05)
    with torch.no_grad():
        stage.attention_bias.add_(torch.tensor([2.0, -2.0]))
        stage.attention_matrix.add_(1.0)
    for seed in range(300):
        stage.advantages(random_targets(seed, 2), FixedCosines([0.0, 0.0]))
    assert stage.attention_bias.abs().max() < 0.05
    assert stage.attention_matrix.abs().max() < 0.05


def test_attention_sees_proportions_unless_told_otherwise() -> None:
    """A reward in other units must not turn the attention's learning rate into another."""

    def after_training(size: float, attention_input: str) -> list[float]:
        stage = stage_of([1.0, 1.0, 1.0], attention_input=attention_input)
        for seed in range(20):
            result = stage.advantages(random_targets(seed, size=size), FixedCosines([0.5, 0.1, -0.2]))
        return weights_of(result)

    assert after_training(1e3, "relative") == pytest.approx(after_training(1.0, "relative"), abs=1e-4)
    assert after_training(1e3, "absolute")[0] > 0.99 > after_training(1.0, "absolute")[0]


def test_attention_answers_to_the_sizes_of_this_rollout() -> None:
    stage = stage_of([1.0, 1.0])
    with torch.no_grad():
        stage.attention_matrix.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    generous, scarce = torch.ones(4, 2, 2), torch.ones(4, 2, 2)
    generous[..., 0], scarce[..., 0] = 3.0, 1 / 3
    # the first component's share of mean |A|: 3/4 and 1/4
    results = [stage.advantages(targets_of(a), FixedCosines([0.0, 0.0])) for a in (generous, scarce)]
    assert metric(results[0], "attention/a") == pytest.approx(1 / (1 + math.exp(-0.75)))
    assert metric(results[1], "attention/a") == pytest.approx(1 / (1 + math.exp(-0.25)), abs=0.01)


def test_advantages_of_nothing_but_zeros_do_no_harm() -> None:
    stage = stage_of([1.0, 2.0])
    for cosines in ([math.nan, math.nan], [math.nan, 0.5]):
        result = stage.advantages(targets_of(torch.zeros(4, 2, 2)), FixedCosines(cosines))
        assert not result.advantages.any()
    assert all(parameter.isfinite().all() for parameter in stage.parameters)


# -- the objectives, on a small problem -----------------------------------------------------------


class Bandit:
    """Four contexts, three actions, a tabular softmax policy, episodes of one step.

    *useful* rewards the right action, *noise* is a coin with nothing behind it, *misleading* takes six tenths
    of the useful reward back. The task is the plain sum: the right action is still right.
    """

    def __init__(self, seed: int = 0, steps: int = 8, envs: int = 64) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.shape = (steps, envs)
        self.logits = torch.zeros(4, 3, requires_grad=True)

    def targets(self) -> Targets:
        self.contexts = torch.randint(4, self.shape, generator=self.generator)
        policy = self.logits.detach().softmax(-1)
        chances = policy[self.contexts].flatten(0, 1)
        self.actions = torch.multinomial(chances, 1, generator=self.generator).view(self.shape)
        right = (self.actions == self.contexts % 3).float()
        baseline = policy.gather(1, (torch.arange(4) % 3).unsqueeze(1)).squeeze(1)[self.contexts]
        noise = torch.randn(3, *self.shape, generator=self.generator)
        useful = right - baseline + 0.1 * noise[0]
        misleading = -0.6 * (right - baseline) + 0.1 * noise[2]
        advantages = torch.stack([useful, noise[1], misleading], -1)
        return targets_of(advantages, advantages.sum(-1))

    def policy_gradient(self, advantages: Tensor, envs: slice) -> Tensor:
        """`[12]` of `advantages` `[T, N]`, on some of the environments."""
        log_probs = self.logits.log_softmax(-1)[self.contexts, self.actions]
        (gradient,) = torch.autograd.grad((advantages * log_probs)[:, envs].mean(), self.logits)
        return gradient.flatten()

    def cosines(self, reference: Tensor, candidates: Tensor) -> Tensor:
        task = self.policy_gradient(reference, slice(0, None, 2))
        each = [self.policy_gradient(a, slice(1, None, 2)) for a in candidates.unbind(-1)]
        return torch.stack([torch.cosine_similarity(task, gradient, dim=0) for gradient in each])

    def learn(self, advantages: Tensor) -> None:
        gradient = self.policy_gradient(advantages / advantages.std(), slice(None)).view(4, 3)
        with torch.no_grad():
            self.logits += 0.1 * gradient


def trajectory(iterations: int = 200, **keywords: Any) -> list[list[float]]:
    """The weights of *useful*, *noise* and *misleading* before every update."""
    bandit = Bandit()
    stage = AdvantageWeighting(reward_names=NAMES, reward_weights=torch.ones(3), **keywords)
    probe: Probe = bandit
    weights = []
    for _ in range(iterations):
        result = stage.advantages(bandit.targets(), probe)
        weights.append(weights_of(result))
        bandit.learn(result.advantages)
    return weights


def test_alignment_moves_the_weight_to_the_useful_component() -> None:
    weights = trajectory()
    for iteration in range(0, 200, 25):
        print(iteration, *(f"{name} {w:.3f}" for name, w in zip(NAMES, weights[iteration], strict=True)))
    assert weights[0] == pytest.approx([1 / 3] * 3)
    useful = [weights[iteration][0] for iteration in (0, 50, 100, 150, 199)]
    assert useful == sorted(useful)
    assert useful[-1] > 0.9
    assert weights[-1][2] < 0.02
    assert weights[100][1] > weights[100][2]  # noise fades more slowly than what misleads


def test_alignment_keeps_every_component_that_is_part_of_the_task() -> None:
    """Cosines of 0.6 and 0.4 with equal weights: w = 0.6, 0.4. The linear objective Σ w·cos, maximised the
    same way, gives everything to the first."""
    stage = stage_of([1.0, 1.0], weight_regularization=0.0, enable_attention_weighting=False)
    for seed in range(300):
        result = stage.advantages(random_targets(seed, 2), FixedCosines([0.6, 0.4]))
    assert weights_of(result) == pytest.approx([0.6, 0.4], abs=0.01)

    logits = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (-(logits.softmax(-1) * torch.tensor([0.6, 0.4])).sum()).backward()
        optimizer.step()
    assert logits.softmax(-1)[0] > 0.95


def test_the_surrogate_has_no_signal_at_all() -> None:
    weights = trajectory(50, objective="surrogate")
    for iteration in weights:
        assert iteration == pytest.approx([1 / 3] * 3, abs=1e-9)
    advantages = random_targets(0).advantages.double()
    for candidate in ([1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]):
        loss_weights = torch.tensor(candidate, dtype=torch.float64, requires_grad=True)
        loss = surrogate_loss(advantages, loss_weights)
        (gradient,) = torch.autograd.grad(loss, loss_weights)
        assert abs(loss.item()) < 1e-12
        assert gradient.abs().max() < 1e-12


def test_the_surrogate_asks_for_no_gradients_and_no_task_advantage() -> None:
    stage = stage_of([1.0, 2.0], objective="surrogate")
    assert not stage.needs_task_advantage
    result = stage.advantages(random_targets(0, 2), Forbidden())
    assert math.isnan(metric(result, "cosine/a"))
    assert metric(result, "gradient_norm") < 1e-9


def test_alignment_without_the_task_advantage_is_refused() -> None:
    stage = stage_of([1.0, 2.0])
    assert stage.needs_task_advantage
    targets = random_targets(0, 2)._replace(task_advantages=None)
    with pytest.raises(ValueError, match="task_advantages"):
        stage.advantages(targets, Forbidden())


# -- state, configuration ------------------------------------------------------------------------


def test_resume_is_exact() -> None:
    straight, resumed = stage_of([1.0, 2.0, 0.0]), stage_of([1.0, 2.0, 0.0])
    probe = FixedCosines([0.5, 0.1, -0.3])
    for seed in range(5):
        straight.advantages(random_targets(seed), probe)
    resumed.load_state_dict(straight.state_dict())
    for seed in range(5, 10):
        expected = straight.advantages(random_targets(seed), probe)
        assert torch.equal(resumed.advantages(random_targets(seed), probe).advantages, expected.advantages)


def test_the_state_of_another_number_of_components_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot take the state"):
        stage_of([1.0, 2.0]).load_state_dict(stage_of([1.0, 2.0, 3.0]).state_dict())


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"reward_weights: expected 2 weights >= 0"):
        stage_of(weights)


@pytest.mark.parametrize(
    ("key", "value"),
    [("weight_learning_rate", 0.0), ("weight_regularization", -0.1), ("objective", "align"), ("lr", 0.1)],
)
def test_a_wrong_keyword_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        stage_of([1.0, 1.0], **{key: value})
