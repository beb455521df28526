"""Gradients through the simulator: what the collector writes, and what the loss makes of it."""

from __future__ import annotations

import gc
import re
import weakref
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.catch_point import CatchPoint
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import Timestep
from equipoise.envs.switched_lqr import SwitchedLQR
from equipoise.trainer import rollout as rollouts
from equipoise.trainer.build import make_collector
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import TrainerConfig
from equipoise.trainer.data import Actions, Minibatch, Pathwise, Rollout, Targets, Term
from equipoise.trainer.diagnosis import NonFiniteError
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.pathwise_loss import SHARE, mixed
from equipoise.trainer.pathwise_rollout import PathwiseCollector
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.continuous.family import Family
from equipoise.trainer.policy.continuous.gaussian import Gaussian
from equipoise.trainer.policy.continuous.squashed import Squashed
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.rollout import allocate
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.pipeline import Pipeline
from equipoise.trainer.targets import explained_share, prepare
from tests.conftest import TOY
from tests.forked import in_two_processes


def policy_for(env: Any, **keywords: Any) -> ActorCritic:
    torch.manual_seed(0)
    encoder = partial(MLP, hidden_sizes=(8,))
    space = HybridSpace(env.action_space, env.relevance)
    shape = env.observation_space.shape
    return ActorCritic(space, shape, len(env.reward_names), encoder=encoder, **keywords)


def collecting(
    env: Any, steps: int, horizon: int, seed: int = 0, alone: bool = True, **keywords: Any
) -> PathwiseCollector:
    policy = policy_for(env, **keywords)
    rollout = allocate(env, policy.space, steps, policy.observation_width)
    generator = torch.Generator().manual_seed(seed)
    return PathwiseCollector(env, policy, rollout, generator, seed, gamma=0.9, horizon=horizon, alone=alone)


def indifferent(collector: PathwiseCollector) -> None:
    """Makes the parameters' mean 0 whatever is observed, so that later numbers do not answer earlier ones."""
    assert collector.policy.continuous_head is not None  # type: ignore[attr-defined]
    with torch.no_grad():
        collector.policy.continuous_head.weight.zero_()  # type: ignore[attr-defined]
        collector.policy.continuous_head.bias.zero_()  # type: ignore[attr-defined]


def known(applied: Tensor | None = None, errors: float = 0.0) -> Targets:
    """Targets whose values are right but for errors as often as wide as the returns."""
    generator = torch.Generator().manual_seed(3)
    returns, noise = torch.randn(2, 50, 40, 2, generator=generator)
    values = returns + errors * noise
    ones = torch.ones(2)
    return Targets(None, returns, values, returns, returns, ones if applied is None else applied)  # type: ignore[arg-type]


def test_the_column_is_the_derivative_of_the_return_by_hand() -> None:
    """One dimension and one mode: r = −x² − 0.1·u², x' = ax + u, u = bound · sample, so that with G the
    derivative by x' of what follows, d/du = −0.2·u + γ·G and G = −2x' + γ·a·G'."""
    env = SwitchedLQR(5, dimension=1, modes=1)
    collector = collecting(env, steps=3, horizon=3)
    indifferent(collector)
    rollout, _ = collector.collect()
    assert rollout.pathwise is not None
    a, bound = float(env._matrix[0, 0]), 20.0
    control = bound * rollout.actions.continuous[..., 0].clamp(-1, 1)
    inside = rollout.actions.continuous[..., 0].abs() < 1
    x = torch.cat([rollout.observations[..., 0], rollout.last_observation[None, :, 0]])
    after, expected = torch.zeros(5), torch.zeros(3, 5)
    for t in (2, 1, 0):
        expected[t] = (-0.2 * control[t] + 0.9 * after) * bound * inside[t]
        after = -2 * x[t] + 0.9 * a * after
    torch.testing.assert_close(rollout.pathwise.gradient[..., 0], expected, rtol=1e-4, atol=1e-3)
    _, mean, log_std = collector._heads
    torch.testing.assert_close(
        mean + rollout.pathwise.std * rollout.pathwise.noise, rollout.actions.continuous
    )
    torch.testing.assert_close(rollout.pathwise.std, log_std.exp()[:, None].expand_as(mean))


def test_the_column_is_that_of_later_answers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against central differences, in several dimensions and under two modes: a number moves the state, and with
    it the numbers that the policy answers with. Where another choice comes of it there is a jump, no derivative."""
    torch.manual_seed(1)
    gumbel, normal = torch.randn(4, 6, 2), torch.randn(4, 6, 6)

    def worth(nudge: Tensor) -> tuple[Tensor, Rollout]:
        collector = collecting(SwitchedLQR(6, dimension=3, modes=2), steps=4, horizon=4, log_std_init=-2.0)
        monkeypatch.setattr(rollouts, "_noise", lambda *arguments: (gumbel[:, :, None], normal + nudge))
        rollout, _ = collector.collect()
        discounts = 0.9 ** torch.arange(4.0)
        return (rollout.rewards @ rollout.reward_weights * discounts[:, None]).sum(0).double(), rollout

    _, rollout = worth(torch.zeros(4, 6, 6))
    assert rollout.pathwise is not None
    checked = 0
    for t, p in product(range(4), range(6)):
        step = torch.zeros(4, 6, 6)
        step[t, :, p] = 0.02
        (more, there), (less, here) = worth(step), worth(-step)
        same = (there.actions.discrete == here.actions.discrete).all(2).all(0)
        found = (more - less) / (0.04 * rollout.pathwise.std[t, :, p]) / 0.9**t
        torch.testing.assert_close(
            rollout.pathwise.gradient[t, same, p].double(), found[same], rtol=2e-2, atol=0.5
        )
        checked += int((found[same] != 0).sum())
    assert checked > 40


def test_beyond_the_horizon_stands_the_critic_in_units_of_the_task() -> None:
    """At horizon 1: d/du = −0.2·u + γ·dV/dx' with V = Σ value · weight / what multiplied the rewards."""
    env = SwitchedLQR(5, dimension=1, modes=1)
    collector = collecting(env, steps=2, horizon=1)
    rollout, _ = collector.collect()
    assert rollout.pathwise is not None
    control = 20.0 * rollout.actions.continuous[..., 0]
    inside = control.abs() < 20
    first = torch.where(inside, -0.2 * 20.0 * control, 0.0)
    torch.testing.assert_close(rollout.pathwise.gradient[..., 0], first)  # nothing is known of values yet
    collector.judged(known(torch.tensor([0.5, 4.0])))
    rollout, _ = collector.collect()
    final = rollout.final_observations.flatten(0, 1).clone().requires_grad_()
    policy = collector.policy
    worth = policy.value_normalizer.denormalize(policy.critic(policy.normalize(final))) @ torch.tensor(
        [2.0, 0.25]
    )
    (slope,) = torch.autograd.grad(worth.sum(), final)
    control = 20.0 * rollout.actions.continuous[..., 0]
    expected = torch.where(control.abs() < 20, 20.0 * (-0.2 * control + 0.9 * slope.view(2, 5)), 0.0)
    torch.testing.assert_close(rollout.pathwise.gradient[..., 0], expected, rtol=1e-4, atol=1e-4)


def test_the_critic_counts_as_far_as_it_explains_returns() -> None:
    """Errors half as wide as the returns leave three quarters of their variance explained, wider ones nothing."""
    assert explained_share(known()).tolist() == [1.0, 1.0]
    torch.testing.assert_close(
        explained_share(known(errors=0.5)), torch.full((2,), 0.75), rtol=0.05, atol=0.0
    )
    assert explained_share(known(errors=2.0)).tolist() == [0.0, 0.0]
    flat = known()._replace(returns=torch.ones(50, 40, 2))
    assert explained_share(flat).tolist() == [0.0, 0.0]
    gradients = []
    for errors in (0.0, 0.5, 2.0):
        collector = collecting(SwitchedLQR(5, dimension=1, modes=1), steps=1, horizon=1)
        collector.judged(known(errors=errors))
        rollout, _ = collector.collect()
        assert rollout.pathwise is not None
        gradients.append(rollout.pathwise.gradient[..., 0].clone())
    all_of_it, most_of_it, nothing = gradients
    assert bool((all_of_it != nothing).any())
    torch.testing.assert_close(most_of_it, nothing + 0.75 * (all_of_it - nothing), rtol=0.05, atol=0.0)


def test_an_end_of_an_episode_cuts_and_a_truncation_is_worth_something() -> None:
    env = SwitchedLQR(4, dimension=1, modes=1, max_steps=2)
    collector = collecting(env, steps=4, horizon=4)
    indifferent(collector)
    rollout, _ = collector.collect()
    assert rollout.truncated[1].all()
    assert rollout.pathwise is not None
    control = 20.0 * rollout.actions.continuous[1, :, 0]
    alone = torch.where(control.abs() < 20, -0.2 * 20.0 * control, 0.0)
    torch.testing.assert_close(rollout.pathwise.gradient[1, :, 0], alone)
    collector.judged(known())
    rollout, _ = collector.collect()
    control = 20.0 * rollout.actions.continuous[1, :, 0]
    moved = rollout.pathwise.gradient[1, :, 0] != torch.where(control.abs() < 20, -0.2 * 20.0 * control, 0.0)
    assert moved[control.abs() < 20].all()


@pytest.mark.parametrize(("gamma", "steps"), [(0.0, 8), (0.5, 200), (0.9, 700)])
def test_a_small_discount_loses_no_derivative(gamma: float, steps: int) -> None:
    """γᵗ is 0 in float32 long before the horizon ends. Without a policy that answers, x' = ax + u: by hand as
    above, in float64."""
    env = SwitchedLQR(3, dimension=1, modes=1, growth=0.5, max_steps=steps)
    collector = collecting(env, steps=steps, horizon=steps)
    collector._gamma = gamma
    indifferent(collector)
    rollout, _ = collector.collect()
    assert rollout.pathwise is not None
    a = float(env._matrix[0, 0])
    control = 20.0 * rollout.actions.continuous[..., 0].clamp(-1, 1)
    inside = rollout.actions.continuous[..., 0].abs() < 1
    x = torch.cat([rollout.observations[..., 0], rollout.final_observations[-1:, :, 0]]).double()
    after, expected = torch.zeros(3, dtype=torch.float64), torch.zeros(steps, 3, dtype=torch.float64)
    for t in reversed(range(steps)):
        expected[t] = (-0.2 * control[t] + gamma * after) * 20.0 * inside[t]
        after = -2 * x[t] + gamma * a * after
    torch.testing.assert_close(rollout.pathwise.gradient[..., 0], expected.float(), rtol=1e-3, atol=1e-2)


class Flawed(SwitchedLQR):
    """As its `flaw` says."""

    flaw = ""
    kept: Tensor

    def step(self, action: Any) -> Timestep:
        if self.flaw == "no derivative":
            action = tuple(part.detach() for part in action)
        timestep = super().step(action)
        if self.flaw == "not finite":  # 0 · (√0)′, in the first environment
            bad = 0.0 * (action[1][:1] - action[1][:1].detach()).sum().abs().sqrt()
            first = torch.arange(self.num_envs) == 0
            return timestep._replace(rewards=timestep.rewards + (bad * first).unsqueeze(-1))
        if self.flaw == "keeps":
            self.kept = timestep.rewards
        if self.flaw == "keeps deep":
            self.deep = {"past": [timestep.rewards]}
        if self.flaw == "in place":
            double = 2.0 * action[1]
            timestep = timestep._replace(rewards=timestep.rewards + double.square().sum(1, keepdim=True))
            double += 1.0
        return timestep

    def detach(self) -> None:
        if self.flaw == "raises":
            raise RuntimeError("boom")
        if self.flaw != "forgets":
            super().detach()


@pytest.mark.parametrize(
    ("flaw", "kind", "said"),
    [
        ("no derivative", ConfigError, "nothing that Flawed returns depends on the parameters"),
        ("not finite", NonFiniteError, "the derivative through Flawed is nan in environment 0, step 0 "),
        ("keeps", ConfigError, "Flawed.detach() leaves out kept"),
        ("keeps deep", ConfigError, "Flawed.detach() leaves out deep.past.0: the graph grows"),
        ("forgets", ConfigError, "Flawed.detach() leaves out _state."),
        ("raises", EnvError, "detach raised RuntimeError: boom"),
        ("in place", ConfigError, "Flawed changes in place what its derivatives are made of"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_what_is_wrong_with_an_environment_is_told(flaw: str, kind: type, said: str, alone: bool) -> None:
    """With `auto` PPO's estimate is left where derivatives are of no use; a graph that grows is none of that."""
    env = Flawed(4, dimension=2, modes=1)
    env.flaw = flaw
    collector = collecting(env, steps=4, horizon=2, alone=alone)

    def few_rollouts() -> None:
        for _ in range(5):
            collector.collect()
            collector.judged(known())

    if alone or flaw in ("keeps", "keeps deep", "forgets", "raises", "in place"):
        with pytest.raises(kind, match=re.escape(said)):
            few_rollouts()
        return
    few_rollouts()
    (remark,) = collector.take_remarks()
    assert said in remark
    assert remark.endswith("left to PPO's estimate")
    assert collector.take_remarks() == []


def watching(rank: int, rendezvous: str) -> None:
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    env = Flawed(4, dimension=2, modes=1)
    env.flaw = "" if rank == 0 else "no derivative"
    collector = collecting(env, steps=2, horizon=2)
    for _ in range(5):
        collector.collect()
        collector.judged(known())
    for _ in range(5):
        collector.learned({SHARE: 0.0})
    assert collector.collect()[0].pathwise is None, "at rest in both processes, or they wait for each other"
    dist.destroy_process_group()


def test_whether_there_are_derivatives_is_decided_over_all_processes(tmp_path: Path) -> None:
    """Where one has none, by chance, it is no error, and it rests when the other does."""
    in_two_processes(watching, (tmp_path / "rendezvous").as_uri())


def test_irrelevant_and_clamped_parameters_have_no_derivative() -> None:
    env = SwitchedLQR(64, dimension=2, modes=3)
    collector = collecting(env, steps=5, horizon=5, log_std_init=0.5)
    rollout, _ = collector.collect()
    assert rollout.pathwise is not None
    relevant = collector.policy.space.relevant(rollout.actions.discrete.flatten(0, 1)).view(5, 64, -1)
    clamped = rollout.actions.continuous.abs() > 1
    assert bool((relevant & clamped).any())
    gradient = rollout.pathwise.gradient
    assert bool((gradient[~relevant | clamped] == 0).all())
    assert bool((gradient[relevant & ~clamped] != 0).all())


def test_both_estimates_are_of_one_gradient() -> None:
    """That by a gain of the control from the state: ∇ log π = noise/σ · x. The means over many rollouts agree
    within their errors, and the one through the simulator has less noise."""
    found: dict[str, list[Tensor]] = {"score": [], "pathwise": []}
    settings = compose([*TOY, "trainer.gamma=0.9", "trainer.gae_lambda=1.0"]).trainer
    for seed in range(40):
        env = SwitchedLQR(256, dimension=1, modes=1, max_steps=3)
        collector = collecting(env, steps=3, horizon=3, seed=seed, log_std_init=-2.0)
        collector.judged(known())
        rollout, _ = collector.collect()
        _, samples = prepare(rollout, collector.policy, Pipeline({}), settings, MetricLog())
        assert samples.pathwise is not None
        noise, std = samples.pathwise.noise, samples.pathwise.std
        found["score"].append((samples.advantages[:, None] * noise / std * samples.inputs).mean())
        found["pathwise"].append((samples.pathwise.gradient * samples.inputs).mean())
    (score, score_error), (path, path_error) = (
        (float((x := torch.stack(each)).mean()), float(x.std() / 40**0.5)) for each in found.values()
    )
    assert path_error < score_error / 2
    assert abs(path) > 10 * path_error
    assert abs(score - path) < 4 * score_error


def one_sample(
    mean: float, old: float, gradient: float, share: float = 1.0, family: Family | None = None
) -> tuple[Tensor, Tensor]:
    """The loss of one parameter whose mean has moved from `old`, and its derivative by the mean."""
    space = HybridSpace(spaces.Box(-1, 1, (1,)))
    std, noise = 0.1, 0.7
    means = torch.tensor([[mean]], requires_grad=True)
    distribution = HybridDistribution(
        space,
        torch.zeros(1, 0, 0),
        means,
        torch.tensor([std]).log(),
        torch.ones(1, 0, 0, dtype=torch.bool),
        family=family or Gaussian(),
    )
    actions = Actions(torch.zeros(1, 0, dtype=torch.int64), torch.tensor([[old + std * noise]]))
    column = torch.ones(1, 1)
    pathwise = Pathwise(gradient * column, noise * column, std * column, share * column)
    none = torch.zeros(1)
    batch = Minibatch(none, actions, none, none, none, none, none, none, pathwise)  # only these are read
    term, _ = mixed(batch, pathwise, distribution, Term(5.0 * means, None), 0.5, together=False)
    loss = term.values.sum()
    return loss.detach(), torch.autograd.grad(loss, means)[0]


def test_the_loss_has_the_derivative_itself_and_none_beyond_the_trust_region() -> None:
    assert one_sample(0.2, 0.2, gradient=3.0)[1].item() == pytest.approx(-3.0)
    assert one_sample(0.24, 0.2, gradient=3.0)[0].item() == pytest.approx(-3.0 * 0.04, rel=1e-4)
    assert one_sample(0.26, 0.2, gradient=3.0)[1].item() == 0.0
    assert one_sample(0.14, 0.2, gradient=3.0)[1].item() == pytest.approx(-3.0)  # back where it pays
    assert one_sample(0.14, 0.2, gradient=-3.0)[1].item() == 0.0
    assert one_sample(0.2, 0.2, gradient=3.0, share=0.25)[1].item() == pytest.approx(0.75 * 5 - 0.25 * 3)


def test_a_mean_beyond_a_bound_is_not_pushed_further_out() -> None:
    """Where all samples are clamped alike neither estimate could bring it back."""
    assert one_sample(1.01, 1.01, gradient=3.0)[1].item() == 0.0
    assert one_sample(1.01, 1.01, gradient=-3.0)[1].item() == pytest.approx(3.0)
    assert one_sample(-1.01, -1.01, gradient=-3.0)[1].item() == 0.0
    assert one_sample(-1.01, -1.01, gradient=3.0)[1].item() == pytest.approx(-3.0)
    assert one_sample(0.99, 0.99, gradient=3.0)[1].item() == pytest.approx(-3.0)
    squashed = one_sample(1.01, 1.01, gradient=3.0, family=Squashed())
    assert squashed[1].item() == pytest.approx(-3.0), "a squashed mean of 1 lies within the bounds"


@pytest.mark.parametrize(("together", "held"), [(True, 0.5 / 2**0.5), (False, 0.5)])
def test_all_parameters_of_an_action_may_share_the_trust_region(together: bool, held: float) -> None:
    """Two of three parameters are relevant; each is held at its part of what the action may move."""
    space = HybridSpace(spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))))
    relevant = torch.tensor([[True, True, False]])
    means = torch.full((1, 3), 0.9, requires_grad=True)
    distribution = HybridDistribution(
        space, torch.zeros(1, 1, 2), means, torch.zeros(3), torch.ones(1, 1, 2, dtype=torch.bool)
    )
    distribution.relevant = lambda choices: relevant  # type: ignore[method-assign]
    column = torch.ones(1, 3)
    pathwise = Pathwise(column, 0 * column, column, torch.ones(1, 1))
    actions = Actions(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 3))
    none = torch.zeros(1)
    batch = Minibatch(none, actions, none, none, none, none, none, none, pathwise)
    term, _ = mixed(batch, pathwise, distribution, Term(torch.zeros(1, 1)), 0.5, together)
    assert term.values.sum().item() == pytest.approx(-2 * held)


def settings_of(*overrides: str) -> tuple[Any, TrainerConfig]:
    return CatchPoint(2), compose([*TOY, *overrides]).trainer


@pytest.mark.parametrize(
    ("policy", "overrides", "message"),
    [
        ({"distribution": "beta"}, (), "policy.distribution = beta"),
        ({}, ("trainer.compile=cudagraphs",), "trainer.compile = cudagraphs"),
        (
            {},
            ("trainer.reward_normalization.normalization_method=zscore",),
            "normalization_method = zscore hides",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(
    policy: dict[str, Any], overrides: tuple[str, ...], message: str
) -> None:
    env, settings = settings_of("trainer.continuous_gradient=pathwise", *overrides)
    with pytest.raises(ConfigError, match=message):
        make_collector(env, policy_for(env, **policy), settings, 1, 0)


def test_what_hides_no_units_is_not_refused() -> None:
    off = "trainer.reward_normalization.enable_per_episode_norm=false"
    unused = "trainer.stages=[entropy_regularization,gradient_scaling]"
    for overrides in ((off,), (unused,)):
        method = "trainer.reward_normalization.normalization_method=zscore"
        env, settings = settings_of("trainer.continuous_gradient=pathwise", method, *overrides)
        assert isinstance(make_collector(env, policy_for(env), settings, 1, 0), PathwiseCollector)


def test_an_environment_without_derivatives_is_refused(toy: Any) -> None:
    from equipoise.trainer.build import build

    with pytest.raises(ConfigError, match=r"continuous_gradient = auto: ToyEnv cannot be differentiated"):
        build(toy("trainer.continuous_gradient=auto"), None)


def test_the_graph_grows_with_the_horizon_alone() -> None:
    def mebibytes(steps: int, horizon: int) -> float:
        collector = collecting(SwitchedLQR(16, dimension=4, modes=2), steps=steps, horizon=horizon)
        collector.collect()
        return float(collector.judged(known())["pathwise/graph_mib"].value)

    once = mebibytes(steps=8, horizon=2)
    assert once > 16 * 2 * 8 * 4 / 2**20, "at least what the layer of 8 has put out"
    assert mebibytes(steps=16, horizon=2) == once
    per_step = mebibytes(steps=8, horizon=4) - once
    assert mebibytes(steps=8, horizon=8) - once == pytest.approx(3 * per_step, rel=0.01)


def test_the_first_graph_is_freed() -> None:
    """What counts the bytes must not be held by what it counts."""
    made: list[weakref.ref[Tensor]] = []

    class Remembered(SwitchedLQR):
        def step(self, action: Any) -> Timestep:
            made.append(weakref.ref(action[1].exp()))  # saved for its own backward pass
            timestep = super().step(action)
            extra = action[1].exp()
            made.append(weakref.ref(extra))
            return timestep._replace(rewards=timestep.rewards + extra.sum(1, keepdim=True))

    collector = collecting(Remembered(4, dimension=2, modes=1), steps=4, horizon=2)
    collector.collect()
    gc.collect()
    assert len(made) == 8
    assert not any(each() is not None for each in made)
