"""Entropy regularization: a scheduled bonus per action type, and a guard against collapse."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, NamedTuple

import torch
from annotated_types import Gt, Le
from torch import Tensor

from equipoise.envs.arguments import Factor, checked
from equipoise.trainer.data import Metric, Term
from equipoise.trainer.stages.protocol import LossState
from equipoise.trainer.system import distributed


class EntropyRegularization:
    """Add −coefficient·weight·entropy for each action type, and a penalty where a type has collapsed.

    - Tier 1: the coefficient falls linearly from `entropy_coeff_start` to `entropy_coeff_end` over the first
      `entropy_decay_fraction` of the run.
    - Tier 2: a weight per action type. Entropies are averaged over the decisions that exist: heads with at
      least two valid choices, and parameters that matter under the choices taken.
    - Tier 3: guard_multiplier · max(0, threshold − mean entropy) per type, in nats: per head for discrete
      decisions, per dimension of the normalised space for continuous ones (a differential entropy, which
      may be negative: −2 is σ ≈ 0.03).

    `scale_with_side` multiplies each bonus by its side's weight over its base weight, so that turning a
    surrogate down cannot leave its bonus in command. The guard is never scaled with the side: it is a
    constraint, and it must hold whatever the balance does.

    `enable_adaptive_entropy: false` is a constant `entropy_coeff_end` with the same weights and no guard.
    """

    @checked
    def __init__(
        self,
        *,
        enable_adaptive_entropy: bool = True,
        entropy_coeff_start: Factor = 0.1,
        entropy_coeff_end: Factor = 0.001,
        entropy_decay_fraction: Annotated[float, Gt(0), Le(1)] = 0.5,
        discrete_entropy_weight: Factor = 1.0,
        continuous_entropy_weight: Factor = 0.5,
        min_entropy_threshold: Factor = 0.1,
        min_continuous_entropy: float = -2.0,
        guard_multiplier: Factor = 3.0,
        scale_with_side: bool = True,
    ) -> None:
        self.enable_adaptive_entropy = enable_adaptive_entropy
        self.entropy_coeff_start = entropy_coeff_start
        self.entropy_coeff_end = entropy_coeff_end
        self.entropy_decay_fraction = entropy_decay_fraction
        self.discrete_entropy_weight = discrete_entropy_weight
        self.continuous_entropy_weight = continuous_entropy_weight
        self.min_entropy_threshold = min_entropy_threshold
        self.min_continuous_entropy = min_continuous_entropy
        self.guard_multiplier = guard_multiplier
        self.scale_with_side = scale_with_side

    def losses(self, state: LossState) -> LossState:
        """Adds `entropy_discrete` and `entropy_continuous`, each with its `…_guard`; none for a side that
        the action space does not have."""
        coefficient = self.coefficient(state.progress)
        metrics = {**state.metrics, "entropy/coefficient": Metric(coefficient, "last")}
        state = replace(state, metrics=metrics)
        distribution = state.distribution
        discrete_scale, continuous_scale = state.side_scale if self.scale_with_side else (1.0, 1.0)
        if distribution.space.num_heads:
            mean = mean_entropy(distribution.discrete_entropy(), distribution.discrete_active())
            bonus = coefficient * self.discrete_entropy_weight * discrete_scale
            state = self._add(state, "discrete", mean, bonus, self.min_entropy_threshold)
        if distribution.space.num_continuous:
            relevant = distribution.relevant(state.batch.actions.discrete)
            mean = mean_entropy(distribution.continuous_entropy(), relevant)
            bonus = coefficient * self.continuous_entropy_weight * continuous_scale
            state = self._add(state, "continuous", mean, bonus, self.min_continuous_entropy)
        return state

    def coefficient(self, progress: Tensor) -> Tensor:
        """Device scalar, from the fraction of the run that is done (device scalar)."""
        if not self.enable_adaptive_entropy:
            return torch.full_like(progress, self.entropy_coeff_end)
        decayed = (progress / self.entropy_decay_fraction).clamp(max=1)
        return self.entropy_coeff_start * (1 - decayed) + self.entropy_coeff_end * decayed

    def _add(
        self, state: LossState, side: str, mean: MeanEntropy, bonus: Tensor, threshold: float
    ) -> LossState:
        metric = torch.where(mean.active, mean.everywhere, torch.nan)
        state = state.with_term(
            f"entropy_{side}", Term(-bonus * mean.share), {f"entropy/{side}": Metric(metric)}
        )
        if not self.enable_adaptive_entropy:
            return state
        collapsed = mean.active & (mean.everywhere < threshold)
        guard = Term(self.guard_multiplier * collapsed * (threshold - mean.share))
        metrics = {f"entropy/{side}_guard_active": Metric(collapsed.float())}
        return state.with_term(f"entropy_{side}_guard", guard, metrics)


class MeanEntropy(NamedTuple):
    share: Tensor
    """Scalar with gradient: this process's share; the mean of the shares is the mean entropy."""
    everywhere: Tensor
    """Scalar: the mean over all processes, by which collapse is judged: max(0, ·) is not linear, and one
    process alone may lie on the other side of the threshold."""
    active: Tensor
    """Scalar bool: there is a decision anywhere. Where there is none, nothing has collapsed."""


def mean_entropy(entropy: Tensor, mask: Tensor) -> MeanEntropy:
    """Of `entropy` `[B, …]` over the decisions in `mask`."""
    whole = torch.where(mask, entropy, 0.0).sum()
    everywhere, active = distributed.all_reduce_means([whole.detach(), mask.sum().to(whole.dtype)])
    divisor = active.clamp(min=1.0 / distributed.world_size())
    return MeanEntropy(whole / divisor, everywhere / divisor, active > 0)
