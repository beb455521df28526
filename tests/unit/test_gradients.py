from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from equipoise.trainer.build import build
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.data import Actions, Minibatch, Term
from equipoise.trainer.gradients import FlatParameters, SideGradients
from equipoise.trainer.losses import surrogates
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.policy.protocol import Heads
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.gradient_scaling import GradientScaling
from equipoise.trainer.stages.protocol import SIDES, WeightResult, reduce_term
from equipoise.trainer.targets import prepare

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


class Scene(NamedTuple):
    """A policy with random parameters and samples that an earlier policy took."""

    policy: ActorCritic
    batch: Minibatch
    ratio: Literal["per_decision", "per_type"]
    reduction: Literal["common", "active"]

    def losses(self, heads: Heads | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The discrete, the continuous and the rest's loss, from a forward pass of their own or these heads."""
        logits, mean, log_std, values = heads or self.policy(self.batch.inputs)
        distribution = self.policy.as_distribution(logits, mean, log_std, self.batch.action_mask)
        sides = surrogates(self.batch, distribution, 0.2, self.ratio, self.reduction)
        entropy = Term(distribution.discrete_entropy(), distribution.discrete_active())
        relevant = distribution.relevant(self.batch.actions.discrete)
        spread = Term(distribution.continuous_entropy(), relevant)
        value = (values - self.batch.returns).square().mean()
        rest = 0.5 * value - 0.01 * reduce_term(entropy) - 0.005 * reduce_term(spread)
        return reduce_term(sides.discrete), reduce_term(sides.continuous), rest

    def shared(self, flat: FlatParameters) -> Tensor | None:
        policy = self.policy
        both = flat.mask(policy.side_parameters("discrete")) * flat.mask(policy.side_parameters("continuous"))
        return both if both.any() else None


def make_scene(
    seed: int,
    *,
    dtype: torch.dtype = torch.float64,
    choices: tuple[int, ...] = (3, 2),
    parameters: int = 3,
    components: int = 2,
    samples: int = 6,
    masked: bool = True,
    ratio: Literal["per_decision", "per_type"] = "per_decision",
    reduction: Literal["common", "active"] = "common",
    **policy: Any,
) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    box = spaces.Box(-1, 1, (parameters,), np.float32)
    relevance: list[list[list[int]]] = [[[] for _ in range(count)] for count in choices]
    for parameter in range(parameters - 1):  # the last one belongs to no head
        head = parameter % len(choices)
        relevance[head][(seed + parameter) % choices[head]].append(parameter)
    space = HybridSpace(spaces.Tuple((spaces.MultiDiscrete(list(choices)), box)), relevance)
    net = ActorCritic(
        space,
        (4,),
        components,
        encoder=partial(MLP, hidden_sizes=(5, 5)),
        normalize_observations=False,
        **policy,
    )
    net.to(dtype)
    with torch.no_grad():
        for weights in net.parameters():
            weights.add_(0.3 * torch.randn(weights.shape, generator=generator, dtype=dtype))

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    mask = space.valid_choices.expand(samples, *space.valid_choices.shape).clone()
    if masked:
        mask[::2, 0, 1:] = False  # every other sample has no decision to make at head 0
    inputs = noise(samples, 4)
    with torch.no_grad():
        distribution = net.distribution(inputs, mask)
        gumbel = -torch.empty(mask.shape, dtype=dtype).exponential_(generator=generator).log()
        actions = distribution.sample(gumbel, noise(samples, parameters))
        relevant = distribution.relevant(actions.discrete)
        old_discrete = distribution.discrete_log_prob(actions.discrete)
        old_continuous = distribution.continuous_log_prob(actions.continuous, relevant)
        # Some ratios inside, some outside the clip range; nothing where there was no decision.
        discrete_log_prob = old_discrete + 0.2 * noise(*old_discrete.shape) * (mask.sum(-1) > 1)
        drift = 0.2 * noise(*old_continuous.shape) * (old_continuous != 0)
    batch = Minibatch(
        inputs=inputs,
        actions=Actions(actions.discrete, actions.continuous),
        action_mask=mask,
        discrete_log_prob=discrete_log_prob,
        continuous_log_prob=old_continuous + drift,
        advantages=noise(samples),
        values=noise(samples, components),
        returns=noise(samples, components),
    )
    return Scene(net, batch, ratio, reduction)


SCENES: dict[str, Any] = {
    "seed": st.integers(0, 10_000),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
    "choices": st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    "parameters": st.integers(1, 4),
    "components": st.integers(1, 6),
    "samples": st.integers(1, 9),
    "masked": st.booleans(),
    "shared_trunk": st.booleans(),
    "shared_critic": st.booleans(),
    "state_dependent_std": st.booleans(),
}
"""What `make_scene` may be given, for hypothesis."""


def weighted_gradient(scene: Scene, weights: WeightResult) -> Tensor:
    """What autograd makes of the weighted loss, in one piece."""
    discrete, continuous, rest = scene.losses()
    loss = weights.discrete.item() * discrete + weights.continuous.item() * continuous + rest
    parts = torch.autograd.grad(loss, list(scene.policy.parameters()), materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parts])


def combined(scene: Scene, stage: GradientScaling, update: int) -> tuple[WeightResult, Tensor]:
    flat = FlatParameters(scene.policy)
    sides = SideGradients(flat, scene.shared(flat), *scene.losses(), update)
    weights = stage.gradients(sides)
    return weights, sides.combine(weights)


@settings(max_examples=40, deadline=None)
@given(
    ratio=st.sampled_from(["per_decision", "per_type"]),
    reduction=st.sampled_from(["common", "active"]),
    **SCENES,
    measured=st.booleans(),
)
def test_combined_gradient_is_that_of_the_weighted_loss(
    seed: int, dtype: torch.dtype, measured: bool, **shape: Any
) -> None:
    scene = make_scene(seed, dtype=dtype, **shape)
    stage = GradientScaling(warmup_steps=0, measure_every=2)
    combined(scene, stage, update=0)
    weights, gradient = combined(scene, stage, update=2 if measured else 1)
    tolerance = TOLERANCE[dtype]
    expected = weighted_gradient(scene, weights)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance * max(1, expected.norm()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda w: WeightResult(w.continuous, w.discrete),
        lambda w: WeightResult(w.discrete * 1.001, w.continuous),
    ],
    ids=["sides swapped", "one weight a little off"],
)
def test_the_comparison_sees_a_wrong_weight(spoil: Callable[[WeightResult], WeightResult]) -> None:
    scene = make_scene(1, dtype=torch.float32)
    weights, gradient = combined(scene, GradientScaling(warmup_steps=0), update=0)
    expected = weighted_gradient(scene, spoil(weights))
    assert not torch.allclose(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("update", "backwards"), [(0, 3), (1, 1), (2, 1), (3, 3)])
def test_backwards_of_an_update(update: int, backwards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ordinary backward where nobody asks for a norm; one for each gradient and no more where one is."""
    scene, calls, grad = make_scene(2), [], torch.autograd.grad
    for side in SIDES:  # found once, with a backward of its own
        scene.policy.side_parameters(side)

    def counted(*args: Any, **keywords: Any) -> Any:
        calls.append(args[0])
        return grad(*args, **keywords)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    combined(scene, GradientScaling(warmup_steps=0, measure_every=3), update)
    assert len(calls) == backwards


class Line(nn.Module):
    """Three weights: the first for the discrete loss, the second for both, the third for the continuous."""

    def __init__(self) -> None:
        super().__init__()
        self.discrete, self.both, self.continuous = (nn.Parameter(torch.ones(1)) for _ in range(3))


def line_sides() -> SideGradients:
    """Gradients (3, 4, 0) and (0, 5, 12), and (1, 1, 1) of the rest."""
    line = Line()
    flat = FlatParameters(line)
    discrete = (3 * line.discrete + 4 * line.both).sum()
    continuous = (5 * line.both + 12 * line.continuous).sum()
    rest = (line.discrete + line.both + line.continuous).sum()
    return SideGradients(flat, flat.mask([line.both]), discrete, continuous, rest, 0)


def test_norms_and_angle_by_hand() -> None:
    sides = line_sides()
    assert [sides.norm("discrete").item(), sides.norm("continuous").item()] == [5.0, 13.0]
    assert sides.norm("discrete", shared=True).item() == 4.0
    assert sides.norm("continuous", shared=True).item() == 5.0
    assert sides.dot().item() == 20.0
    weights = WeightResult(torch.tensor(0.5), torch.tensor(2.0))
    assert sides.combine(weights).tolist() == [2.5, 13.0, 25.0]


def test_a_norm_may_be_beyond_the_gradients_own_dtype() -> None:
    """float16 ends at 65504."""
    flat = FlatParameters(Line().half())
    discrete = (50_000 * flat.parameters[0] + 50_000 * flat.parameters[1]).sum()
    sides = SideGradients(flat, None, discrete, discrete, discrete, 0)
    assert sides.norm("discrete").item() == pytest.approx(50_000 * 2**0.5, rel=1e-3)


def test_a_side_without_any_gradient_is_zero() -> None:
    line = Line()
    flat = FlatParameters(line)
    sides = SideGradients(flat, None, torch.zeros(()), line.both.sum(), torch.zeros(()), 0)
    assert sides.norm("discrete").item() == 0.0
    assert sides.combine(WeightResult(torch.tensor(0.7), torch.tensor(0.3))).tolist() == pytest.approx(
        [0.0, 0.3, 0.0]
    )


def test_frozen_parameters_are_not_in_the_vector() -> None:
    line = Line()
    line.both.requires_grad_(False)
    flat = FlatParameters(line)
    loss = (2 * line.discrete + 3 * line.both + 4 * line.continuous).sum()
    assert flat.gradient(loss, retain_graph=False).tolist() == [2.0, 4.0]
    assert flat.mask([line.both, line.continuous]).tolist() == [0.0, 1.0]


def test_parameters_of_two_dtypes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"parameter 1\.weight is torch\.float64, others are torch\.float32"):
        FlatParameters(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).double()))


def test_a_module_without_anything_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no parameters to train"):
        FlatParameters(nn.Linear(1, 1).requires_grad_(False))


def test_the_vector_is_the_module() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    inputs = torch.randn(4, 2)
    output = module(inputs)
    flat = FlatParameters(module)
    assert torch.equal(module(inputs), output)
    assert flat.vector.tolist() == torch.cat([p.reshape(-1) for p in before]).tolist()

    flat.vector.grad = torch.arange(13.0)
    torch.optim.SGD([flat.vector], lr=0.5).step()
    moved = torch.cat([p.reshape(-1) for p in before]) - 0.5 * torch.arange(13.0)
    assert torch.equal(torch.cat([p.reshape(-1) for p in module.parameters()]), moved)

    module.load_state_dict(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict())
    assert torch.equal(flat.vector, torch.cat([p.reshape(-1) for p in module.parameters()]))
    assert not torch.equal(flat.vector.detach(), moved)


def test_mask_marks_the_chosen_parameters_in_their_place() -> None:
    first, second = nn.Linear(2, 1), nn.Linear(1, 1)
    flat = FlatParameters(nn.Sequential(first, second))
    assert flat.mask([first.bias, second.weight]).tolist() == [0, 0, 1, 1, 0]
    assert flat.mask([]).tolist() == [0] * 5


def test_which_parameters_the_sides_share() -> None:
    """The mask says of the trunk alone that both losses reach it, and the gradients agree."""
    for shared_trunk in (True, False):
        scene = make_scene(3, shared_trunk=shared_trunk)
        flat = FlatParameters(scene.policy)
        discrete, continuous, _ = scene.losses()
        reached = (flat.gradient(discrete, True) != 0) & (flat.gradient(continuous, True) != 0)
        shared = scene.shared(flat)
        assert (shared is not None) == shared_trunk
        assert int(reached.sum()) == (0 if shared is None else int(shared.sum()))


def test_the_update_steps_along_the_weighted_gradient(toy: Callable[..., Config], tmp_path: Path) -> None:
    """Through a whole iteration of one minibatch: what the optimizer sees is autograd's gradient."""
    config = toy(
        "trainer.batch.update_epochs=1",
        "trainer.batch.num_minibatches=1",
        "trainer.max_grad_norm=1e9",
        "trainer.normalize_values=false",
        "policy.normalize_observations=false",
        "trainer.stages=[gradient_scaling]",
        "trainer.gradient_scaling.warmup_steps=0",
        "trainer.gradient_scaling.norm_parameters=all",
    )
    trainer = build(config, tmp_path)
    update, log = trainer.learner, MetricLog()
    rollout, _ = trainer.collector.collect()
    _, samples = prepare(rollout, trainer.policy, update.pipeline, config.trainer, MetricLog())
    logits, mean, log_std, values = trainer.policy(samples.inputs)
    distribution = trainer.policy.as_distribution(logits, mean, log_std, samples.action_mask)
    sides = surrogates(samples, distribution, 0.2, "per_decision", "common")
    losses = [reduce_term(sides.discrete), reduce_term(sides.continuous)]
    parameters = list(trainer.policy.parameters())

    def gradient(loss: Tensor) -> Tensor:
        parts = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts])

    discrete, continuous = (gradient(loss) for loss in losses)
    rest = gradient(0.5 * (values - samples.returns).square().mean())
    # 0.7 / n_d : 0.3 / n_c, the typical case at whatever size.
    push = torch.stack([0.7 / discrete.norm(), 0.3 / continuous.norm()])
    weights = push / push.sum()
    update.learn(samples, 0.0, log)
    metrics = log.read()
    assert metrics["gradient_scaling/discrete_weight_used"] == pytest.approx(weights[0].item(), rel=1e-5)
    assert abs(weights[0].item() - 0.7) > 0.01  # scaling had something to do
    expected = weights[0] * discrete + weights[1] * continuous + rest
    torch.testing.assert_close(update.flat.vector.grad, expected, rtol=1e-5, atol=1e-6)
    assert metrics["optimizer/gradient_norm"] == pytest.approx(expected.norm().item(), rel=1e-5)
