"""Learning: epochs of updates from the samples of a rollout.

for each epoch and minibatch: forward → surrogates → loss stages → gradient stage → clip → step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.trainer.adaptive_rate import AdaptiveRate
from equipoise.trainer.compilation import Compiled
from equipoise.trainer.configuration import schema
from equipoise.trainer.data import Metric, Metrics, Minibatch
from equipoise.trainer.diagnosis import BadUpdates, NoGradientError
from equipoise.trainer.estimators import EstimatorMix
from equipoise.trainer.gradient_noise import signal_shares
from equipoise.trainer.gradients import FlatParameters, SideGradients
from equipoise.trainer.metric_log import MetricLog
from equipoise.trainer.minibatches import minibatches
from equipoise.trainer.objective import Losses, Objective
from equipoise.trainer.optimizer import PolicyOptimizer
from equipoise.trainer.policy.protocol import Heads, Policy
from equipoise.trainer.stages.pipeline import Pipeline
from equipoise.trainer.stages.protocol import SIDES, LossState, SignalStage, WeightResult
from equipoise.trainer.system import distributed

SIGNAL_EVERY = 5
"""Iterations between measurements of the gradients' signal, which take as long as a few updates."""


class Direction(NamedTuple):
    """What one update computes for the optimizer; device scalars except for the gradient."""

    gradient: Tensor
    """`[n]`, before clipping."""
    clipped: Tensor
    """`[n]`: the step's gradient."""
    skipped: Tensor
    """1 where loss or gradient is not finite and the optimizer must not step, else 0."""
    kl: Tensor
    """The joint KL divergence from the policy that acted."""
    weights: Tensor
    """`[2]`: of the discrete and the continuous surrogate."""
    metrics: Metrics
    state: LossState | None
    """What the losses were computed from; None if compiled, as only results are returned then."""


class Learner:
    """Takes optimizer steps from the samples of one rollout at a time.

    Args:
        optimizer: of `flat`.
        flat: the policy's parameters.
        base_weights: of the discrete and the continuous surrogate, summing to 1.
        generator: shuffles the samples, on the policy's device.
        reward_names: of the components, for messages.
        adaptive: how the learning rate follows the updates; None: `set_learning_rate` alone changes it.
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
        adaptive: AdaptiveRate | None = None,
    ) -> None:
        self.policy, self.pipeline, self.optimizer, self.flat = policy, pipeline, optimizer, flat
        self.settings, self.generator, self._adaptive = settings, generator, adaptive
        self.updates = 0
        """Optimizer steps so far, skipped ones included."""
        self.bad = BadUpdates(policy, reward_names)
        self._objective = Objective(policy, pipeline, settings)
        self._mix = EstimatorMix(policy, flat, settings) if settings.continuous_gradient == "auto" else None
        device, space = flat.vector.device, policy.space
        # A head of one choice decides nothing.
        both = max(space.table.choices, default=0) > 1 and space.num_continuous > 0
        # An only side has nothing to be weighed against.
        self._gradient_stage = pipeline.gradients if both else None
        base = base_weights if both else (1.0, 1.0)
        self._base = torch.tensor(base, dtype=torch.float64, device=device)
        self._weights = self._base
        """`[2]`: those of the previous update."""
        self._skipped_in_a_row = torch.zeros((), device=device)
        sides = (flat.mask(policy.side_parameters(side)) for side in SIDES)
        shared = torch.stack(list(sides)).prod(0)
        self._shared = shared if bool(shared.any()) else None
        self.direction = Compiled(settings.compile, "the update", self._direction, device)

    @property
    def learning_rate(self) -> Tensor:
        """Device scalar."""
        return self.optimizer.learning_rate

    def set_learning_rate(self, rate: float) -> None:
        """Take the rate from the schedule; ignored where the rate follows the updates."""
        if self._adaptive is None:
            self.optimizer.set_learning_rate(rate)

    @torch.enable_grad()
    def learn(self, samples: Minibatch, progress: float, log: MetricLog) -> None:
        """Run the epochs of one iteration, until an epoch's mean KL divergence exceeds `target_kl`.

        For that the host waits for the device once an epoch; without `target_kl` it never does.
        `progress`: the fraction of the run that is done, 0 to 1.
        """
        batch, limit = self.settings.batch, self.settings.target_kl
        due = self._signal_is_due()
        if self._mix is not None and samples.pathwise is not None:
            samples = self._mix.mix(samples, log)
        if due and self._gradient_stage is not None:
            found = signal_shares(self.policy, self.flat, self._shared, samples, self.settings)
            log.add(found)
            if found and isinstance(self._gradient_stage, SignalStage):
                norms = [found[f"gradient_scaling/{side}_signal_norm"].value for side in SIDES]
                self._gradient_stage.observe_signal(torch.stack(norms))
        done = torch.full((), progress, device=self.flat.vector.device)
        moved = False
        for _ in range(batch.update_epochs):
            divergence = []
            for minibatch in minibatches(samples, batch.num_minibatches, self.generator):
                divergence.append(self._update(minibatch, done, log, moved))
                moved = True
            if limit is not None:
                mean = distributed.all_reduce_mean(torch.stack(divergence).mean())
                if float(mean) > limit:
                    break
        norm = torch.linalg.vector_norm(self.flat.vector.detach(), dtype=torch.float64)
        log.add(
            {
                "optimizer/learning_rate": Metric(self.learning_rate, "last"),
                "optimizer/parameter_norm": Metric(norm, "last"),
            }
        )

    def _signal_is_due(self) -> bool:
        """True in one of `SIGNAL_EVERY` iterations, by the number of updates, which a checkpoint keeps."""
        batch = self.settings.batch
        each = batch.update_epochs * batch.num_minibatches
        return self.updates % (SIGNAL_EVERY * each) < each

    def _update(self, batch: Minibatch, progress: Tensor, log: MetricLog, moved: bool) -> Tensor:
        """An optimizer step; returns the joint KL divergence. `moved`: since these samples were taken."""
        before = self._weights
        found = self.direction.call(batch, progress, before, self.updates)
        self._weights = found.weights
        if self._adaptive is not None and moved:  # before the step, as rsl_rl does
            kl = distributed.all_reduce_mean(found.kl)
            self.optimizer.set_learning_rate(self._adaptive.after(self.learning_rate, kl))
        self._step(found)
        self.updates += 1
        log.add(found.metrics)
        log.add({"optimizer/skipped_in_a_row": Metric(self._skipped_in_a_row, "max")})

        def state() -> LossState:
            return found.state or self._state_again(batch, progress, before)

        self.bad.record(self.updates, state, found.gradient, self._skipped_in_a_row)
        return found.kl

    def _direction(self, batch: Minibatch, progress: Tensor, before: Tensor, update: int) -> Direction:
        """Compute the step for the optimizer; `before`: the side weights of the previous update."""
        state, kl = self._state(self._objective, self._heads(batch), batch, progress, before)
        losses = self._objective.reduce(state)
        if not any(loss.requires_grad for loss in (losses.discrete, losses.continuous, losses.rest)):
            raise NoGradientError(
                f"update {update + 1}: the loss does not depend on any parameter of the policy, so "
                "nothing can be learned. Gradients are switched off, or a stage has detached all of its terms"
            )
        gradient, loss, weights = self._gradient(losses, update)
        norm = torch.linalg.vector_norm(gradient)
        # The loss too: a NaN among its samples need not be in the gradient.
        skipped = 1.0 - (norm.isfinite() & loss.isfinite()).to(torch.float32)
        clipped = gradient * (self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        metrics = {
            **losses.metrics,
            **weights.metrics,
            "optimizer/gradient_norm": Metric(norm),
            "optimizer/skipped": Metric(skipped, "sum"),
        }
        both = torch.stack([weights.discrete, weights.continuous]).to(self._base)
        kept = None if torch.compiler.is_compiling() else state
        return Direction(gradient, clipped, skipped, kl, both, metrics, kept)

    def _heads(self, batch: Minibatch) -> Heads:
        inputs = self.policy.recall(batch.inputs, batch.sequences)
        heads: Heads = self.policy(inputs, batch.actions.discrete)
        return heads

    def _state(
        self, objective: Objective, heads: Heads, batch: Minibatch, progress: Tensor, before: Tensor
    ) -> tuple[LossState, Tensor]:
        """The losses' parts, and the KL divergence."""
        # A side without a base weight has no scale.
        scale = torch.where(self._base > 0, before / self._base, 1.0).to(self.flat.vector.dtype)
        return objective.state(heads, batch, progress, (scale[0], scale[1]))

    def _state_again(self, batch: Minibatch, progress: Tensor, before: Tensor) -> LossState:
        """The losses' parts of a past update, from copies of the stages, which have moved on themselves."""
        objective = Objective(self.policy, deepcopy(self.pipeline), self.settings)
        return self._state(objective, self._heads(batch), batch, progress, before)[0]

    def _gradient(self, losses: Losses, update: int) -> tuple[Tensor, Tensor, WeightResult]:
        """The gradient `[n]` of the weighted loss, the unweighted loss, and the weights."""
        discrete, continuous, rest = losses.discrete, losses.continuous, losses.rest
        sides = SideGradients(self.flat, self._shared, discrete, continuous, rest, update)
        weights = WeightResult(self._base[0], self._base[1])
        if self._gradient_stage is not None:
            weights = self._gradient_stage.gradients(sides)
        loss = distributed.all_reduce_mean(rest.detach() + discrete.detach() + continuous.detach())
        return sides.combine(weights), loss, weights

    def _step(self, found: Direction) -> None:
        """Let the optimizer step. A skipped update is counted, and changes nothing."""
        assert self.flat.vector.grad is not None
        self.flat.vector.grad.copy_(found.clipped)
        self.optimizer.step(found.skipped)
        self._skipped_in_a_row.add_(1.0).mul_(found.skipped)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "stages": self.pipeline.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "skipped_in_a_row": self._skipped_in_a_row.clone(),
            "weights": self._weights.clone(),
            "mix": None if self._mix is None else self._mix.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.pipeline.load_state_dict(state["stages"])
        self.generator.set_state(state["generator"].cpu())
        self.updates = state["updates"]
        self._skipped_in_a_row.copy_(state["skipped_in_a_row"])
        self._weights = state["weights"].to(self._base)
        if self._mix is not None and state.get("mix") is not None:
            self._mix.load_state_dict(state["mix"])
