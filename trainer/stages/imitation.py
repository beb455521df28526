"""Imitation: beside its own experience the policy learns from demonstrations, less and less.

A term `weight · max(0, 1 − progress/until) · −log π(a|s)` over demonstrations (s, a), as DAPG has it
(Rajeswaran et al., "Learning complex dexterous manipulation with deep reinforcement learning and
demonstrations", 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le

from equipoise.envs.arguments import Count, PositiveFactor, checked
from equipoise.trainer.cloning import imitation_loss
from equipoise.trainer.data import Actions, Metric, Term
from equipoise.trainer.demonstrations import Demonstrations
from equipoise.trainer.stages.protocol import LossState


class Imitation:
    """A loss stage.

    Args:
        demonstrations: a file that `python -m trainer.clone` has written.
        weight: of the term at the start.
        until: the fraction of the run after which it has faded.
        batch_size: demonstrations in each update, taken in turn.

    Raises:
        ValueError: the file holds no demonstrations.
    """

    @checked
    def __init__(
        self,
        *,
        demonstrations: str,
        device: torch.device,
        weight: PositiveFactor = 1.0,
        until: Annotated[float, Gt(0), Le(1)] = 0.5,
        batch_size: Count = 256,
    ) -> None:
        self._known = Demonstrations.load(demonstrations, device)
        self._weight, self._until = weight, until
        self._rows = torch.arange(min(batch_size, len(self._known)), device=device)
        self._next = torch.zeros((), dtype=torch.int64, device=device)

    def losses(self, state: LossState) -> LossState:
        """The hook: adds the term `imitation`."""
        rows = (self._next + self._rows) % len(self._known)
        self._next = (self._next + len(self._rows)) % len(self._known)
        actions = Actions(*(part[rows] for part in self._known.actions))
        shown = self._known.observations[rows], self._known.action_mask[rows], actions.discrete
        loss = imitation_loss(state.policy_at(*shown), actions)
        weight = self._weight * (1.0 - state.progress / self._until).clamp(min=0.0)
        metrics = {"imitation/loss": Metric(loss.detach().mean()), "imitation/weight": Metric(weight)}
        return state.with_term("imitation", Term(weight * loss), metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next = state["next"].to(self._next)
