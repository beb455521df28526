"""The update: from a collected rollout to new parameters.

rollout → rewards stage → values → GAE per component → advantages stage → value statistics
→ for each epoch and minibatch: forward → surrogates → loss stages → gradient stage → clip → step
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.trainer.advantage import compute_gae
from equipoise.trainer.compilation.compiling import Compiling
from equipoise.trainer.compilation.graphs import Graphed
from equipoise.trainer.configuration import schema
from equipoise.trainer.data import Actions, Metric, Metrics, Minibatch, Rollout
from equipoise.trainer.diagnosis import BadUpdates, check_targets
from equipoise.trainer.gradients import FlatParameters, SideGradients
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.objective import Losses, Objective
from equipoise.trainer.optimizer import PolicyOptimizer
from equipoise.trainer.policy.normalization import value_metrics
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.probe import PolicyProbe
from equipoise.trainer.stages.pipeline import Pipeline
from equipoise.trainer.stages.protocol import LossState, RewardResult, WeightResult
from equipoise.trainer.system import distributed


class Learned(NamedTuple):
    """By one optimizer step."""

    kl: Tensor
    metrics: Metrics
    gradient: Tensor
    """`[n]`, before clipping."""
    look: Callable[[], LossState]
    """Gives what the losses were computed from."""


class Learner:
    """Learns from one rollout at a time.

    Args:
        optimizer: of `flat`.
        flat: the policy's parameters.
        base_weights: of the discrete and the continuous surrogate, summing to 1.
        generator: shuffles the samples, on the policy's device.
        reward_names: of the components, for messages and metrics.
    """

    def __init__(
        self,
        policy: Policy,
        pipeline: Pipeline,
        optimizer: PolicyOptimizer,
        flat: FlatParameters,
        settings: schema.TrainerConfig,
        base_weights: tuple[float, float],
        generator: torch.Generator,
        reward_names: Sequence[str] = (),
    ) -> None:
        self.policy, self.pipeline, self.optimizer, self.flat = policy, pipeline, optimizer, flat
        self.settings = settings
        self.generator = generator
        self.reward_names = reward_names
        self.bad = BadUpdates(policy, reward_names)
        device = flat.vector.device
        self._objective = Objective(policy, pipeline, settings)
        self._graphs: Graphed[Learned] | None = None
        self.updates = 0
        """Optimizer steps so far, skipped ones included."""
        space = policy.space
        both = space.num_heads > 0 and space.num_continuous > 0
        if not both:
            base_weights = (1.0, 1.0)  # there is nothing to weigh the only side against
        self._base = torch.tensor(base_weights, dtype=torch.float64, device=device)
        self._gradient_stage = pipeline.gradients if both else None
        if settings.compile != "none":
            self._graphs = Graphed(
                settings.compile, "the update", self._learn, pipeline.of_updates, device, self._obstacle()
            )
        self._used = self._base.clone()
        """`[2]`: the weights of the previous update."""
        self._skipped_in_a_row = torch.zeros((), device=device)
        self._check_targets: Callable[[], None] | None = None
        shared = flat.mask(policy.side_parameters("discrete")) * flat.mask(
            policy.side_parameters("continuous")
        )
        self._shared = shared if bool(shared.any()) else None

    def _obstacle(self) -> str | None:
        """Why an update cannot be recorded, as far as that is known."""
        if not self.optimizer.fused:
            return f"{type(self.optimizer.inner).__name__} has no fused step"
        stage = self._gradient_stage
        if stage is None or callable(getattr(stage, "turn", None)):
            return None
        return f"{type(stage).__name__} has no turn(), see GradientStage"

    @property
    def compiling(self) -> list[Compiling]:
        """How far `trainer.compile` has come; empty for `none`."""
        return [] if self._graphs is None else [self._graphs.compiling]

    @property
    def learning_rate(self) -> Tensor:
        """Device scalar."""
        return self.optimizer.learning_rate

    def set_learning_rate(self, rate: float) -> None:
        self.optimizer.set_learning_rate(rate)

    def run(self, rollout: Rollout, progress: float, log: MetricLog) -> None:
        """One iteration's learning. `progress` is the fraction of the run that is done, 0 to 1."""
        done = torch.tensor(progress, device=self.flat.vector.device)
        samples = self.prepare(rollout, log)
        settings, limit = self.settings.batch, self.settings.target_kl
        size = len(samples.advantages) // settings.num_minibatches
        for _ in range(settings.update_epochs):
            divergence = []
            order = torch.randperm(len(samples.advantages), generator=self.generator, device=done.device)
            for batch in _split(_take(samples, order), size):
                kl = self._minibatch(batch, done, log)
                if limit is not None:
                    divergence.append(kl.clone())  # a graph writes over its own the next time
            if limit is not None:
                mean = distributed.all_reduce_mean(torch.stack(divergence).mean())
                if float(mean) > limit:
                    break
        if self.policy.normalizer is not None:
            self.policy.normalizer.update(rollout.observations)
        norm = torch.linalg.vector_norm(self.flat.vector.detach(), dtype=torch.float64)
        log.add(
            {
                "optimizer/learning_rate": Metric(self.learning_rate, "last"),
                "optimizer/parameter_norm": Metric(norm, "last"),
            }
        )

    @torch.no_grad()
    def prepare(self, rollout: Rollout, log: MetricLog) -> Minibatch:
        """All samples of a rollout, `B = T·N`, with advantages and value targets."""
        policy, settings, pipeline = self.policy, self.settings, self.pipeline
        ones = torch.ones_like(rollout.reward_weights)
        result = RewardResult(rollout.rewards, factor=ones, applied=ones)
        if pipeline.rewards is not None:
            result = pipeline.rewards.rewards(rollout)
            log.add(result.metrics)
        rewards = result.rewards
        components = rewards.shape[-1]
        if rollout.values.shape[-1] > components:
            rewards = torch.cat([rewards, rollout.task_reward.unsqueeze(-1)], dim=-1)
        inputs = policy.normalize(rollout.observations.flatten(0, 1))
        last_values = self._values(rollout.last_observation)
        rollout.values = policy.value_normalizer.denormalize(policy.critic(inputs)).view_as(rollout.values)
        log.add(value_metrics(rollout.values, result.applied, self.reward_names))
        advantages, returns = compute_gae(
            rewards,
            rollout.values,
            last_values,
            rollout.terminated,
            rollout.truncated,
            self._final_values(rollout),
            settings.gamma,
            settings.gae_lambda,
        )
        self._check_targets = partial(check_targets, advantages, returns, rewards, self.reward_names)
        if advantages.device.type == "cpu":
            self.check_targets()
        rollout.advantages = advantages[..., :components] / result.factor
        rollout.task_advantages = advantages[..., -1] if advantages.shape[-1] > components else None
        if pipeline.advantages is None:
            combined = rollout.advantages @ rollout.reward_weights
        else:
            with torch.enable_grad():
                combined, metrics = pipeline.advantages.advantages(rollout, PolicyProbe(policy, rollout))
            log.add(metrics)
        if settings.normalize_values:
            policy.value_normalizer.update(returns, policy.value_head)
        normalize = policy.value_normalizer.normalize
        return Minibatch(
            inputs=inputs,
            actions=Actions(*(part.flatten(0, 1) for part in rollout.actions)),
            action_mask=rollout.action_mask.flatten(0, 1),
            discrete_log_prob=rollout.discrete_log_prob.flatten(0, 1),
            continuous_log_prob=rollout.continuous_log_prob.flatten(0, 1),
            advantages=_standardise(combined.flatten()),
            values=normalize(rollout.values).flatten(0, 1),
            returns=normalize(returns).flatten(0, 1),
        )

    def check_targets(self) -> None:
        """Raise `NonFiniteError` for targets of the latest rollout that are not finite.

        On the CPU they have been checked before anything learned from them. Elsewhere looking would wait for
        the device in the middle of an update, whose steps are skipped anyway if its losses are not finite:
        there it is for the loop to ask, when it reads the metrics.
        """
        check, self._check_targets = self._check_targets, None
        if check is not None:
            with distributed.failing_together():
                check()

    def _values(self, observations: Tensor) -> Tensor:
        policy = self.policy
        return policy.value_normalizer.denormalize(policy.critic(policy.normalize(observations)))

    def _final_values(self, rollout: Rollout) -> Tensor:
        """`[T, N, V]`: values of final observations, needed only where an episode was truncated."""
        final = rollout.final_observations
        if final.device.type != "cpu":
            return self._values(final.flatten(0, 1)).view_as(rollout.values)
        # On the CPU looking is free, and most steps truncate nothing.
        where = rollout.truncated.nonzero(as_tuple=True)
        values = torch.zeros_like(rollout.values)
        values[where] = self._values(final[where])
        return values

    def _minibatch(self, batch: Minibatch, progress: Tensor, log: MetricLog) -> Tensor:
        """One optimizer step; returns the joint KL divergence."""
        if self._graphs is None:
            done = self._learn(batch, progress)
        else:
            turn = getattr(self._gradient_stage, "turn", None)
            done = self._graphs(turn and turn(self.updates), batch, progress)
            # A graph keeps the results, and not what they were computed from.
            done = done._replace(look=partial(self._look, batch, progress))
        self.updates += 1
        log.add(done.metrics)
        self.bad.note(self.updates, done.look, done.gradient, self._skipped_in_a_row)
        return done.kl

    def _learn(self, batch: Minibatch, progress: Tensor) -> Learned:
        """All that the device does for one optimizer step."""
        state, kl = self._state(self._objective, batch, progress)
        losses = self._objective.reduce(state)
        gradient, loss, metrics = self._gradient(losses)
        metrics = {**losses.metrics, **metrics, **self._step(gradient, loss)}
        return Learned(kl, metrics, gradient, lambda: state)

    def _state(self, objective: Objective, batch: Minibatch, progress: Tensor) -> tuple[LossState, Tensor]:
        """What the losses are computed from, and the KL divergence."""
        return objective.state(self.policy(batch.inputs), batch, progress, self._side_scale())

    def _look(self, batch: Minibatch, progress: Tensor) -> LossState:
        """The state once more, by copies of the stages: one that counts has counted this update already."""
        objective = Objective(self.policy, deepcopy(self.pipeline), self.settings)
        return self._state(objective, batch, progress)[0]

    def _side_scale(self) -> tuple[Tensor, Tensor]:
        """Each side's weight in the previous update over its base weight; 1 where that is 0."""
        scale = torch.where(self._base > 0, self._used / self._base, 1.0).to(self.flat.vector.dtype)
        return scale[0], scale[1]

    def _gradient(self, losses: Losses) -> tuple[Tensor, Tensor, Metrics]:
        """The gradient of the weighted loss, before clipping; the unweighted loss; the metrics."""
        discrete, continuous, rest = losses.discrete, losses.continuous, losses.rest
        sides = SideGradients(self.flat, self._shared, discrete, continuous, rest, self.updates)
        weights = WeightResult(self._base[0], self._base[1])
        if self._gradient_stage is not None:
            weights = self._gradient_stage.gradients(sides)
            self._used.copy_(torch.stack([weights.discrete, weights.continuous]))
        loss = distributed.all_reduce_mean(rest.detach() + discrete.detach() + continuous.detach())
        return sides.combine(weights), loss, weights.metrics

    def _step(self, gradient: Tensor, loss: Tensor) -> Metrics:
        """Clip and step; where gradient or loss is not finite, that is counted and nothing changes."""
        norm = torch.linalg.vector_norm(gradient)
        # The loss too: a NaN among its samples need not be in the gradient.
        skipped = 1.0 - (norm.isfinite() & loss.isfinite()).to(torch.float32)
        assert self.flat.vector.grad is not None
        clip = (self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        torch.mul(gradient, clip, out=self.flat.vector.grad)
        self.optimizer.step(skipped)
        self._skipped_in_a_row.add_(1.0).mul_(skipped)
        return {
            "optimizer/gradient_norm": Metric(norm),
            "optimizer/skipped": Metric(skipped, "sum"),
            "optimizer/skipped_in_a_row": Metric(self._skipped_in_a_row, "max"),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "stages": self.pipeline.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "skipped_in_a_row": self._skipped_in_a_row.clone(),
            "weights": self._used.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.pipeline.load_state_dict(state["stages"])
        self.generator.set_state(state["generator"].cpu())
        self.updates = state["updates"]
        self._skipped_in_a_row.copy_(state["skipped_in_a_row"])
        self._used.copy_(state["weights"])
        if self._graphs is not None:
            self._graphs.forget()


def _take(samples: Minibatch, chosen: Tensor) -> Minibatch:
    def rows(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, chosen)

    actions = Actions(*map(rows, samples.actions))
    others = {name: rows(field) for name, field in samples._asdict().items() if name != "actions"}
    return Minibatch(actions=actions, **others)


def _split(samples: Minibatch, size: int) -> Iterator[Minibatch]:
    """Consecutive minibatches of `size` samples: views, nothing is copied."""
    for first in range(0, len(samples.advantages), size):
        rows = slice(first, first + size)
        actions = Actions(*(part[rows] for part in samples.actions))
        others = {name: field[rows] for name, field in samples._asdict().items() if name != "actions"}
        yield Minibatch(actions=actions, **others)


def _standardise(advantages: Tensor) -> Tensor:
    """To mean 0 and std 1 over the samples of all processes, of whatever size; all 0 where all are equal."""
    centred = advantages - distributed.all_reduce_mean(advantages.mean())
    # Divided by the largest first: the squares of 1e-30 are 0, those of 1e30 infinite.
    size = distributed.all_reduce_mean(centred.abs().mean())
    unit = centred / torch.where(size > 0, size, 1.0)
    std = distributed.all_reduce_mean(unit.square().mean()).sqrt()
    return unit / torch.where(std > 0, std, 1.0)
