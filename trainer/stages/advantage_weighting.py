"""Three-tier learnable advantage weighting: how much each reward component's advantage counts."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from torch import Tensor

from equipoise.envs.arguments import Factor, PositiveFactor, checked
from equipoise.trainer.data import Metric, Metrics, Targets
from equipoise.trainer.stages.protocol import AdvantageResult, Probe
from equipoise.trainer.system import distributed

MAX_GRADIENT_NORM = 0.5
SMALLEST_START = 1e-3
"""A component without weight starts at this part of the largest one: log 0 could never be learned away."""


class AdvantageWeighting:
    """Combine the component advantages A_k as Σ w_k·A_k with weights that are learned.

    - Tier 1: softmax(base_logits), started at the environment's weights c (normalised to sum 1).
    - Tier 2: × softmax(Linear_K×K(mean |A|)), renormalised; zero at first. `attention_input: relative`
      takes the components' shares of Σ_k mean |A_k|, so that neither the reward's scale nor K sets the
      learning rate; `absolute` takes mean |A| as it is.
    - Tier 3: the squared distance of all parameters from their start × `weight_regularization`, a gradient
      clip of 0.5, and an Adam of its own, one step a rollout. K + K² + K parameters.

    `objective: alignment` minimises −Σ c_k·cos_k·log w_k, where cos_k is the cosine between the policy
    gradient of component k and that of the task reward. Where all cosines are positive its minimum is
    w_k ∝ c_k·cos_k: every component keeps its share of the task as far as it points the task's way, noise
    (cos ≈ 0) fades and what misleads (cos < 0) vanishes. (Σ w_k·cos_k, the plainer choice, is linear in w:
    its optimum gives everything to one component and forgets the rest of the task.)

    `objective: surrogate` minimises the PPO surrogate at ratio 1, −mean of the standardised Σ w_k·A_k. That
    is 0 whatever the weights are, so nothing is learned; it is there for comparison.

    A rollout is weighted with what was learned from those before it: weights chosen on the same samples
    would pick the components whose noise happens to agree with the task's.
    """

    @checked
    def __init__(
        self,
        *,
        reward_names: Annotated[tuple[str, ...], MinLen(1)],
        reward_weights: Tensor,
        enable_learnable_weights: bool = True,
        enable_attention_weighting: bool = True,
        weight_learning_rate: PositiveFactor = 0.01,
        weight_regularization: Factor = 0.001,
        objective: Literal["alignment", "surrogate"] = "alignment",
        attention_input: Literal["relative", "absolute"] = "relative",
    ) -> None:
        self.reward_names = reward_names
        self.reward_weights = reward_weights
        self.enable_learnable_weights = enable_learnable_weights
        self.enable_attention_weighting = enable_attention_weighting
        self.weight_regularization = weight_regularization
        self.objective = objective
        self.attention_input = attention_input
        self.needs_task_advantage = enable_learnable_weights and objective == "alignment"
        if not enable_learnable_weights:
            return

        count = len(reward_names)
        start = reward_weights.double()
        if start.shape != (count,) or bool((start < 0).any()) or not bool(start.any()):
            raise ValueError(
                f"reward_weights: expected {count} weights >= 0, not all 0, got {reward_weights.tolist()}"
            )
        # float64 and Adam's ε: where the loss has no gradient (`surrogate`) rounding noise and the
        # regulariser's own tiny pull must stay tiny, and Adam makes full steps of whatever exceeds ε.
        start = start.clamp(min=SMALLEST_START * float(start.max()))
        self._start_logits = (start / start.sum()).log()
        self.base_logits = self._start_logits.clone().requires_grad_()
        self.attention_matrix = torch.zeros(count, count).to(start).requires_grad_()
        self.attention_bias = torch.zeros(count).to(start).requires_grad_()
        self._optimizer = torch.optim.Adam(self.parameters, lr=weight_learning_rate, eps=1e-5)

    @property
    def parameters(self) -> list[Tensor]:
        """What is learned, float64: `[K]` logits and, with attention, its `[K, K]` matrix and `[K]` bias."""
        if not self.enable_attention_weighting:
            return [self.base_logits]
        return [self.base_logits, self.attention_matrix, self.attention_bias]

    def advantages(self, targets: Targets, probe: Probe) -> AdvantageResult:
        """`[T, N]` Σ w_k·A_k, and one step of learning; Σ c_k·A_k where the weights are not learned."""
        if not self.enable_learnable_weights:
            return AdvantageResult(targets.advantages @ self.reward_weights)
        advantages = targets.advantages
        with torch.enable_grad():
            attention_logits = self._attention_logits(advantages)
            log_weights = (self.base_logits + attention_logits).log_softmax(-1)
            if self.objective == "alignment":
                cosines = self._cosines(targets, probe)
                loss = -(self._start_logits.exp() * cosines * log_weights).sum()
            else:
                cosines = torch.full_like(log_weights, torch.nan)
                loss = surrogate_loss(advantages.double(), log_weights.exp())
            gradient_norm = self._learn(loss)
        weights = log_weights.detach().exp()
        by_component = {"weight": weights, "cosine": cosines}
        if self.enable_attention_weighting:
            by_component["attention"] = attention_logits.detach().softmax(-1)
        metrics: Metrics = {
            **{
                f"advantage_weighting/{metric}/{name}": Metric(values[k], "last")
                for metric, values in by_component.items()
                for k, name in enumerate(self.reward_names)
            },
            "advantage_weighting/entropy": Metric(-(weights * log_weights.detach()).sum(), "last"),
            "advantage_weighting/loss": Metric(loss.detach(), "last"),
            "advantage_weighting/gradient_norm": Metric(gradient_norm, "last"),
        }
        return AdvantageResult(advantages @ weights.to(advantages.dtype), metrics)

    def _attention_logits(self, advantages: Tensor) -> Tensor:
        if not self.enable_attention_weighting:
            return torch.zeros_like(self.base_logits)
        magnitude = distributed.all_reduce_mean(advantages.detach().double().abs().mean((0, 1)))
        if self.attention_input == "relative":
            magnitude = magnitude / magnitude.sum().clamp(min=torch.finfo(magnitude.dtype).tiny)
        return self.attention_matrix @ magnitude + self.attention_bias

    def _cosines(self, targets: Targets, probe: Probe) -> Tensor:
        """`[K]`; a component whose gradient is zero has no direction and counts as noise, 0."""
        if targets.task_advantages is None:
            raise ValueError("advantage weighting with objective=alignment needs targets.task_advantages")
        cosines = probe.cosines(targets.task_advantages, targets.advantages).detach().double()
        return torch.where(cosines.isfinite(), cosines, 0.0)

    def _learn(self, loss: Tensor) -> Tensor:
        """One step of Adam on the regularised loss; the norm of its gradient before the clip."""
        starts = [self._start_logits, *(torch.zeros_like(p) for p in self.parameters[1:])]
        distance = torch.stack(
            [(p - start).square().sum() for p, start in zip(self.parameters, starts, strict=True)]
        ).sum()
        gradients = torch.autograd.grad(loss + self.weight_regularization * distance, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = distributed.all_reduce_mean(gradient)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        self._optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        if not self.enable_learnable_weights:
            return {}
        return {
            "parameters": [p.detach().clone() for p in self.parameters],
            "optimizer": deepcopy(self._optimizer.state_dict()),  # its own tensors, not a copy
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not self.enable_learnable_weights:
            return
        shapes = [tuple(p.shape) for p in self.parameters]
        if [tuple(p.shape) for p in state["parameters"]] != shapes:
            raise ValueError(f"advantage weighting of {shapes} cannot take the state of another shape")
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))


def surrogate_loss(advantages: Tensor, weights: Tensor) -> Tensor:
    """The PPO surrogate at ratio 1 of the standardised weighted sum of `advantages` `[T, N, K]`."""
    mixed = advantages @ weights
    return -((mixed - mixed.mean()) / (mixed.std(correction=0) + 1e-8)).mean()
