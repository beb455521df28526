"""A policy that acts in environments of which it may remember what it has seen."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.envs.dependent_masks import ActionMask
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.head_after_head import HeadAfterHead
from equipoise.trainer.policy.protocol import Policy


def forget(state: Tensor, where: Tensor) -> Tensor:
    """`state` `[N, M]` of a memory without what it knows of the environments `where` `[N]`."""
    return state.masked_fill(where.unsqueeze(-1), 0.0)


class Player:
    """`policy` in the episodes of `N` environments, which all begin with the first observation."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.state: Tensor | None = None
        """`[N, M]`: what the policy's memory knows; None before the first observation."""

    @torch.inference_mode()
    def acting(self, observation: Tensor, mask: ActionMask | None) -> HybridDistribution | HeadAfterHead:
        """See `Policy.acting`; for raw observations `[N, O]`, which are remembered."""
        if self.state is None:
            self.state = self._policy.initial_state(len(observation))
        inputs, self.state = self._policy.remember(self._policy.normalize(observation), self.state)
        return self._policy.acting(inputs, mask)

    def forget(self, where: Tensor | None) -> None:
        """Episodes have ended `where` `[N]` bool; None: nowhere."""
        if self.state is not None and where is not None:
            self.state = forget(self.state, where)
