"""Learning from real rollouts of a small environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.protocol import Timestep
from equipoise.trainer.advantage import compute_gae
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.configuration.schema import TrainerConfig as Settings
from equipoise.trainer.data import Minibatch, Rollout, Targets, Term
from equipoise.trainer.gradients import FlatParameters
from equipoise.trainer.learner import Learner
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.optimizer import PolicyOptimizer
from equipoise.trainer.policy.actor_critic import ActorCritic
from equipoise.trainer.policy.encoders import MLP
from equipoise.trainer.rollout import Collector, allocate
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.stages.pipeline import Pipeline
from equipoise.trainer.stages.protocol import (
    AdvantageResult,
    LossState,
    Probe,
    RewardResult,
    Sides,
    Stage,
    WeightResult,
)
from equipoise.trainer.targets import prepare
from tests.toy_env import ToyEnv

CPU = torch.device("cpu")
N, T = 6, 8
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def settings() -> MakeSettings:
    """`settings(update_epochs=2, target_kl=0.1, …)`: keys of `trainer` and of `trainer.batch`."""
    from equipoise.trainer.configuration.compose import compose
    from tests.conftest import TOY

    config: Config = compose([*TOY, f"env.num_envs={N}", f"trainer.batch.rollout_steps={T}"])

    def make(update_epochs: int = 1, num_minibatches: int = 1, **keys: Any) -> Settings:
        counts = {"update_epochs": update_epochs, "num_minibatches": num_minibatches}
        batch = config.trainer.batch.model_copy(update=counts)
        # No clipping, and no PopArt moving the value head: a step is what the gradient says.
        plain = {"batch": batch, "max_grad_norm": 1e9, "normalize_values": False}
        return config.trainer.model_copy(update={**plain, **keys})

    return make


class Recorder:
    """A loss stage that changes nothing and keeps every state that it is shown."""

    def __init__(self) -> None:
        self.states: list[LossState] = []

    def losses(self, state: LossState) -> LossState:
        self.states.append(state)
        return state


class Learning:
    """An environment, a policy and its update; by SGD with rate 1, so that a step is the gradient."""

    def __init__(
        self,
        settings: Settings,
        stages: Mapping[str, Stage] | None = None,
        base_weights: tuple[float, float] = (0.7, 0.3),
        env: ToyEnv | None = None,
        adam: bool = False,
        task_head: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.env = env or ToyEnv(N, CPU, reward_weights=(0.5, 2.0))
        self.policy = ActorCritic(
            HybridSpace(self.env.action_space), (2,), 2 + task_head, encoder=partial(MLP, hidden_sizes=(16,))
        )
        self.recorder = Recorder()
        self.flat = FlatParameters(self.policy)
        cls = torch.optim.Adam if adam else torch.optim.SGD
        self.optimizer = PolicyOptimizer(cls, self.flat, 0.01 if adam else 1.0, {})
        self.learner = Learner(
            self.policy,
            Pipeline(stages or {"recorder": self.recorder}),
            self.optimizer,
            self.flat,
            settings,
            base_weights,
            torch.Generator().manual_seed(1),
        )
        rollout = allocate(self.env, self.policy.space, T, 2)
        self.collector = Collector(self.env, self.policy, rollout, torch.Generator().manual_seed(2), 0)
        self.log = MetricLog()

    def iterate(self) -> Rollout:
        rollout, _ = self.collector.collect()
        self.learn(rollout)
        return rollout

    def learn(self, rollout: Rollout) -> None:
        _, samples = self.prepare(rollout, self.log)
        self.learner.learn(samples, 0.25, self.log)
        self.policy.update_normalizer(rollout.observations)

    def step(self) -> Tensor:
        """`[n]`: what one iteration does to the parameters."""
        rollout, _ = self.collector.collect()
        before = self.flat.vector.detach().clone()
        self.learn(rollout)
        return self.flat.vector.detach() - before

    def prepare(self, rollout: Rollout, log: MetricLog | None = None) -> tuple[Targets, Minibatch]:
        learner = self.learner
        return prepare(rollout, self.policy, learner.pipeline, learner.settings, log or MetricLog())


def changes(state: LossState) -> tuple[Tensor, Tensor]:
    """Log-ratios of both sides."""
    batch, distribution = state.batch, state.distribution
    relevant = distribution.relevant(batch.actions.discrete)
    discrete = distribution.discrete_log_prob(batch.actions.discrete) - batch.discrete_log_prob
    continuous = distribution.continuous_log_prob(batch.actions.continuous, relevant)
    return discrete.detach(), (continuous - batch.continuous_log_prob).detach()


# --- nothing moves between collection and update ---------------------------------------------------------


def test_the_first_minibatch_of_every_iteration_has_ratio_1_and_the_old_values(
    settings: MakeSettings,
) -> None:
    learning = Learning(settings(update_epochs=2, num_minibatches=2, normalize_values=True), adam=True)
    normalizer, values = learning.policy.normalizer, learning.policy.value_normalizer
    assert normalizer is not None
    for _ in range(3):
        learning.recorder.states.clear()
        before = normalizer.mean.clone(), values.mean.clone(), values.std.clone()
        learning.iterate()
        first, *_, last = learning.recorder.states
        for change in changes(first):
            assert float(change.abs().max()) < 1e-6
        torch.testing.assert_close(first.values.detach(), first.batch.values, rtol=0.0, atol=1e-5)
        assert max(float(change.abs().max()) for change in changes(last)) > 1e-4  # the check can fail
        assert float((last.values - last.batch.values).detach().abs().max()) > 1e-3
        after = normalizer.mean, values.mean, values.std
        assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_old_values_are_those_of_the_critic_that_acted_in_reward_units(settings: MakeSettings) -> None:
    learning = Learning(settings(normalize_values=True), adam=True)
    learning.iterate()  # statistics that are not 0 and 1
    rollout, _ = learning.collector.collect()
    policy = learning.policy
    critic = policy.critic(policy.normalize(rollout.observations.flatten(0, 1)))
    expected = policy.value_normalizer.denormalize(critic).detach().view(T, N, 2)
    targets, batch = learning.prepare(rollout)
    torch.testing.assert_close(targets.values, expected, rtol=1e-5, atol=1e-5)
    restored = policy.value_normalizer.denormalize(batch.values).view(T, N, 2)
    torch.testing.assert_close(restored, expected, rtol=1e-5, atol=1e-5)


# --- epochs and minibatches -----------------------------------------------------------------------------


def test_each_sample_is_used_exactly_once_an_epoch_in_a_new_order(settings: MakeSettings) -> None:
    learning = Learning(settings(update_epochs=3, num_minibatches=4))
    rollout = learning.iterate()
    keys = [
        state.batch.actions.continuous[:, 0] for state in learning.recorder.states
    ]  # noise: all different
    assert [len(key) for key in keys] == [T * N // 4] * 12
    epochs = [torch.cat(keys[start : start + 4]) for start in (0, 4, 8)]
    everything = rollout.actions.continuous[..., 0].flatten().sort().values
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, everything)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_a_sample_stays_in_one_piece_when_shuffled(settings: MakeSettings) -> None:
    learning = Learning(settings(num_minibatches=4))
    rollout, _ = learning.collector.collect()
    _, whole = learning.prepare(rollout)
    learning.learn(rollout)
    row = {float(key): index for index, key in enumerate(whole.actions.continuous[:, 0])}
    for state in learning.recorder.states:
        where = torch.tensor([row[float(key)] for key in state.batch.actions.continuous[:, 0]])
        assert torch.equal(state.batch.actions.discrete, whole.actions.discrete[where])
        assert torch.equal(state.batch.inputs, whole.inputs[where])
        assert torch.equal(state.batch.discrete_log_prob, whole.discrete_log_prob[where])
        torch.testing.assert_close(state.batch.advantages, whole.advantages[where], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("target_kl", "num_minibatches", "updates"),
    [
        (None, 2, 6),
        (1e9, 2, 6),
        (1e-12, 2, 2),  # the second minibatch has moved: stop after the first epoch
        (1e-12, 1, 2),  # the only minibatch of the first epoch has ratio 1: stop after the second
    ],
)
def test_target_kl_ends_the_epochs(
    settings: MakeSettings, target_kl: float | None, num_minibatches: int, updates: int
) -> None:
    chosen = settings(update_epochs=3, num_minibatches=num_minibatches, target_kl=target_kl)
    learning = Learning(chosen, adam=True)
    learning.iterate()
    assert learning.learner.updates == len(learning.recorder.states) == updates


# --- the step -------------------------------------------------------------------------------------------


def test_the_step_is_linear_in_the_base_weights(settings: MakeSettings) -> None:
    mixed, discrete, continuous = (
        Learning(settings(), base_weights=weights).step() for weights in ((0.7, 0.3), (1.0, 0.0), (0.0, 1.0))
    )
    torch.testing.assert_close(mixed, 0.7 * discrete + 0.3 * continuous, rtol=1e-5, atol=1e-7)
    assert float((discrete - continuous).norm()) > 1e-3


def test_a_gradient_stage_replaces_the_base_weights_and_tells_the_next_update(settings: MakeSettings) -> None:
    recorder = Recorder()

    class Fixed:
        def gradients(self, sides: Sides) -> WeightResult:
            return WeightResult(torch.tensor(1.4), torch.tensor(0.15))

    stages: dict[str, Stage] = {"recorder": recorder, "fixed": Fixed()}
    learning = Learning(settings(num_minibatches=3), stages)
    learning.iterate()
    scales = [tuple(float(scale) for scale in state.side_scale) for state in recorder.states]
    assert scales == [(1.0, 1.0), pytest.approx((2.0, 0.5)), pytest.approx((2.0, 0.5))]
    one = Learning(settings(), stages).step()
    plain = Learning(settings(), base_weights=(1.4, 0.15)).step()
    torch.testing.assert_close(one, plain, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_clipped_to_its_norm_and_keeps_its_direction(settings: MakeSettings) -> None:
    free = Learning(settings())
    step = free.step()
    norm = free.log.read()["optimizer/gradient_norm"]
    assert float(step.norm()) == pytest.approx(norm, rel=1e-4)
    clipped = Learning(settings(max_grad_norm=norm / 4))
    torch.testing.assert_close(clipped.step(), step / 4, rtol=1e-3, atol=1e-6)
    assert clipped.log.read()["optimizer/gradient_norm"] == pytest.approx(norm, rel=1e-5)  # before clipping
    loose = Learning(settings(max_grad_norm=norm * 1.01))
    torch.testing.assert_close(loose.step(), step)


def test_the_value_coefficient_scales_the_critics_gradient_alone(settings: MakeSettings) -> None:
    one, four = (Learning(settings(value_coefficient=c)) for c in (0.25, 1.0))
    steps = one.step(), four.step()
    critic = one.flat.mask([*one.policy.value_head.parameters(), *one.policy.value_trunk.parameters()]) > 0  # type: ignore[union-attr]
    torch.testing.assert_close(steps[1][critic], 4.0 * steps[0][critic], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(steps[1][~critic], steps[0][~critic])
    losses = one.log.read()["loss/value"], four.log.read()["loss/value"]
    assert losses[0] == pytest.approx(losses[1])


def test_the_learning_rate_scales_the_step(settings: MakeSettings) -> None:
    full, tenth, none = (Learning(settings()) for _ in range(3))
    tenth.learner.set_learning_rate(0.1)
    none.learner.set_learning_rate(0.0)
    assert float(tenth.learner.learning_rate) == pytest.approx(0.1)
    step = full.step()
    torch.testing.assert_close(tenth.step(), 0.1 * step, rtol=1e-4, atol=1e-6)
    assert not none.step().any()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("adam", [True, False])
def test_a_gradient_that_is_not_finite_is_counted_and_changes_nothing(
    settings: MakeSettings, poison: float, adam: bool
) -> None:
    class Poison:
        active = False

        def losses(self, state: LossState) -> LossState:
            return state.with_term("bad", Term(state.values * poison)) if self.active else state

    stage = Poison()
    learning = Learning(settings(num_minibatches=2), {"poison": stage}, adam=adam)
    learning.step()
    assert learning.log.read()["optimizer/skipped"] == 0.0
    before = [tensor.clone() for tensor in learning.optimizer.inner.state[learning.flat.vector].values()]
    stage.active = True
    assert not learning.step().any()
    assert learning.log.read()["optimizer/skipped"] == 2.0
    after = list(learning.optimizer.inner.state[learning.flat.vector].values())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert len(before) == (3 if adam else 0)
    stage.active = False
    assert float(learning.step().norm()) > 0.0
    assert bool(learning.flat.vector.isfinite().all())
    assert learning.learner.updates == 6


# --- advantages and targets -----------------------------------------------------------------------------


def plain_gae(learning: Learning, rollout: Rollout, rewards: Tensor) -> Tensor:
    """Advantages with a critic that says 0 everywhere."""
    nothing = torch.zeros_like(rewards)
    chosen = learning.learner.settings
    return compute_gae(
        rewards,
        nothing,
        nothing[0],
        rollout.terminated,
        rollout.truncated,
        nothing,
        chosen.gamma,
        chosen.gae_lambda,
    )[0]


def mute_critic(learning: Learning) -> None:
    with torch.no_grad():
        learning.policy.value_head.weight.zero_()
        learning.policy.value_head.bias.zero_()


def test_absent_stages_mean_raw_rewards_and_the_environments_weights(settings: MakeSettings) -> None:
    learning = Learning(settings(normalize_values=True))
    mute_critic(learning)
    rollout, _ = learning.collector.collect()
    targets, batch = learning.prepare(rollout)
    by_component = plain_gae(learning, rollout, rollout.rewards)
    torch.testing.assert_close(targets.advantages, by_component)
    combined = (0.5 * by_component[..., 0] + 2.0 * by_component[..., 1]).flatten()
    expected = (combined - combined.mean()) / combined.std(unbiased=False)
    torch.testing.assert_close(batch.advantages, expected, rtol=1e-4, atol=1e-4)
    assert float(batch.advantages.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(batch.advantages.std(unbiased=False)) == pytest.approx(1.0, rel=1e-5)
    learned = learning.policy.value_normalizer.denormalize(batch.returns).view(T, N, 2)
    torch.testing.assert_close(learned, by_component, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preserve_task", [True, False])
def test_a_constant_factor_on_rewards_is_divided_out_of_the_advantages(
    settings: MakeSettings, preserve_task: bool
) -> None:
    factor = torch.tensor([4.0, 0.25])

    class Scaled:
        def rewards(self, rollout: Rollout) -> RewardResult:
            return RewardResult(rollout.rewards * factor, factor if preserve_task else torch.ones(2))

    learning = Learning(settings(normalize_values=True), {"scaled": Scaled()})
    mute_critic(learning)
    rollout, _ = learning.collector.collect()
    targets, batch = learning.prepare(rollout)
    raw = plain_gae(learning, rollout, rollout.rewards)
    torch.testing.assert_close(targets.advantages, raw if preserve_task else raw * factor)
    learned = learning.policy.value_normalizer.denormalize(batch.returns).view(T, N, 2)
    torch.testing.assert_close(learned, raw * factor, rtol=1e-4, atol=1e-4)  # the critic sees them scaled


@pytest.mark.parametrize("applied", [[4.0, 0.25], None])
def test_values_are_logged_in_the_critics_units_and_raw_where_a_factor_undoes_it(
    settings: MakeSettings, applied: list[float] | None
) -> None:
    class Scaled:
        def rewards(self, rollout: Rollout) -> RewardResult:
            known = None if applied is None else torch.tensor(applied)
            return RewardResult(rollout.rewards, torch.ones(2), {}, known)

    class Weighting:
        needs_task_advantage = True

        def advantages(self, targets: Targets, probe: Probe) -> AdvantageResult:
            return AdvantageResult(targets.advantages[..., 1])

    learning = Learning(settings(), {"scaled": Scaled(), "weighting": Weighting()}, task_head=True)
    learning.collector.rollout.reward_names = ("near", "far")
    mute_critic(learning)
    with torch.no_grad():
        learning.policy.value_head.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
        learning.policy.value_normalizer.mean.fill_(
            10.0
        )  # values are logged as rewards count, not normalised
    learning.iterate()
    metrics = {tag: v for tag, v in learning.log.read().items() if tag.startswith("value/")}
    expected = {"value/mean/near": 11.0, "value/mean/far": 12.0, "value/mean/task": 13.0}
    if applied is not None:
        expected |= {"value/raw_mean/near": 2.75, "value/raw_mean/far": 48.0, "value/raw_mean/task": 13.0}
    assert metrics == pytest.approx(expected)


def test_an_advantage_stage_decides_and_gets_the_advantage_of_the_task(settings: MakeSettings) -> None:
    seen: list[Tensor] = []

    class Scaled:
        """What is done to the components must not reach the task."""

        def rewards(self, rollout: Rollout) -> RewardResult:
            factor = torch.tensor([4.0, 0.25])
            return RewardResult(rollout.rewards * factor, factor)

    class SecondOnly:
        needs_task_advantage = True

        def advantages(self, targets: Targets, probe: Probe) -> AdvantageResult:
            assert targets.task_advantages is not None
            seen.append(targets.task_advantages.clone())
            assert probe.cosines(targets.task_advantages, targets.advantages).shape == (2,)
            return AdvantageResult(targets.advantages[..., 1])

    learning = Learning(settings(), {"scaled": Scaled(), "second": SecondOnly()}, task_head=True)
    mute_critic(learning)
    rollout, _ = learning.collector.collect()
    _, batch = learning.prepare(rollout)
    raw = plain_gae(learning, rollout, rollout.rewards)
    torch.testing.assert_close(seen[0], raw @ torch.tensor([0.5, 2.0]), rtol=1e-4, atol=1e-5)
    second = raw[..., 1].flatten()
    expected = (second - second.mean()) / second.std(unbiased=False)
    torch.testing.assert_close(batch.advantages, expected, rtol=1e-4, atol=1e-4)
    assert batch.values.shape == batch.returns.shape == (T * N, 3)


def test_a_truncated_episode_bootstraps_from_its_final_observation_and_no_other(
    settings: MakeSettings,
) -> None:
    learning = Learning(settings())
    rollout, _ = learning.collector.collect()
    before = learning.prepare(rollout)[0].advantages
    unused = ~rollout.truncated
    rollout.final_observations[unused] = 1e6
    assert torch.equal(learning.prepare(rollout)[0].advantages, before)
    step, env = rollout.truncated.nonzero()[0].tolist()
    policy, old = learning.policy, rollout.final_observations[step, env].clone()
    rollout.final_observations[step, env] = -old
    after = learning.prepare(rollout)[0].advantages
    values = policy.critic(policy.normalize(torch.stack([old, -old]))).detach()
    moved = after[step, env] - before[step, env]
    torch.testing.assert_close(moved, 0.99 * (values[1] - values[0]), rtol=1e-4, atol=1e-5)
    others = torch.ones(N, dtype=torch.bool)
    others[env] = False
    assert torch.equal(after[:, others], before[:, others])


def test_equal_advantages_teach_nothing_and_stay_finite(settings: MakeSettings) -> None:
    class Same:
        needs_task_advantage = False

        def advantages(self, targets: Targets, probe: Probe) -> AdvantageResult:
            return AdvantageResult(torch.full((T, N), 3.0))

    learning = Learning(settings(), {"same": Same()})
    rollout, _ = learning.collector.collect()
    assert not learning.prepare(rollout)[1].advantages.any()


# --- spaces with one side -------------------------------------------------------------------------------


class Choosing(ToyEnv):
    action_space = spaces.Discrete(2)  # type: ignore[assignment]

    def step(self, action: Any) -> Timestep:
        still = torch.zeros(self.num_envs, 1)
        return super().step((action, (still, still)))


class Aiming(ToyEnv):
    action_space = spaces.Box(-1, 1, (1,))  # type: ignore[assignment]

    def step(self, action: Any) -> Timestep:
        return super().step((torch.zeros(self.num_envs, dtype=torch.int64), (action, action)))


@pytest.mark.parametrize("kind", [Choosing, Aiming])
def test_with_one_side_its_weight_is_1_and_the_gradient_stage_is_not_asked(
    settings: MakeSettings, kind: type[ToyEnv]
) -> None:
    class Forbidden:
        def gradients(self, sides: Sides) -> WeightResult:
            raise AssertionError("there is nothing to balance")

    steps = [
        Learning(settings(), {"forbidden": Forbidden()}, weights, kind(N, CPU, (0.5, 2.0))).step()
        for weights in ((0.7, 0.3), (0.1, 0.9))
    ]
    assert torch.equal(steps[0], steps[1])
    assert float(steps[0].norm()) > 0.0
