"""PPO value clipping: the critic gains nothing from leaving the neighbourhood of its old prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor

from equipoise.envs.arguments import PositiveFactor, checked
from equipoise.trainer.data import Metric, Metrics, Term, critic_heads
from equipoise.trainer.stages.protocol import LossState


class ValueClipping:
    """Replace the value loss by max((v − R)², (v_old + clamp(v − v_old, ±ε) − R)²), per value head.

    The larger of the two, as in OpenAI Baselines' ppo2. This limits the *incentive* to move v further than
    ε towards R; it does not cap the step: where v has overshot, the unclipped loss wins and pulls it back.
    `value_clip_epsilon` is in units of the normalised value targets.
    """

    @checked
    def __init__(
        self,
        *,
        reward_names: Annotated[tuple[str, ...], MinLen(1)],
        enable_value_clipping: bool = True,
        value_clip_epsilon: PositiveFactor = 0.2,
    ) -> None:
        self.reward_names = reward_names
        self.enable_value_clipping = enable_value_clipping
        self.value_clip_epsilon = value_clip_epsilon

    def losses(self, state: LossState) -> LossState:
        """Replaces the term `value` `[B, V]`; switched off it only adds the metrics."""
        old, returns = state.batch.values, state.batch.returns
        metrics = self._metrics(state.values.detach(), old, returns)
        if not self.enable_value_clipping:
            return replace(state, metrics={**state.metrics, **metrics})
        loss = clipped_value_loss(state.values, old, returns, self.value_clip_epsilon)
        return state.with_term("value", Term(loss), metrics)

    def _metrics(self, values: Tensor, old: Tensor, returns: Tensor) -> Metrics:
        # The old prediction, made before the critic saw these returns, tells how well it generalises.
        both = torch.stack((returns, returns - old))
        variance, unexplained = (both - both.mean(1, keepdim=True)).square().mean(1).unbind()
        by_head = {"explained_variance": torch.where(variance > 0, 1 - unexplained / variance, torch.nan)}
        if self.enable_value_clipping:
            by_head["clipped_fraction"] = ((values - old).abs() > self.value_clip_epsilon).float().mean(0)
        heads = critic_heads(self.reward_names, values.shape[1])
        return {
            f"value/{metric}/{name}": Metric(number)
            for metric, numbers in by_head.items()
            for name, number in zip(heads, numbers.unbind(), strict=True)
        }


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, epsilon: float) -> Tensor:
    """max((v − R)², (v_old + clamp(v − v_old, ±ε) − R)²), elementwise."""
    clipped = old + (values - old).clamp(-epsilon, epsilon)
    return torch.maximum((values - returns).square(), (clipped - returns).square())
