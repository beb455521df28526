"""Acting where heads decide one after the other, as later ones depend on what earlier ones have chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equipoise.trainer.data import Actions
from equipoise.trainer.policy.distributions import HybridDistribution

if TYPE_CHECKING:
    from equipoise.trainer.policy.protocol import Policy

Pick = Callable[[int, Tensor], Tensor]
"""Head and its logits `[B, choices]`, very low where not valid -> which choice is taken, `[B]`."""


class HeadAfterHead:
    """Draws actions as `HybridDistribution` does, for a policy whose outputs depend on the choices.

    Args:
        inputs: normalised observations `[B, O]`.
        action_mask: bool, as `HybridSpace.valid_choices` for each of them; None: all choices are valid.
        log_std: see `Policy.actor`.
    """

    def __init__(
        self, policy: Policy, inputs: Tensor, action_mask: Tensor | None, log_std: Tensor | None = None
    ) -> None:
        self._policy, self._inputs, self._log_std = policy, inputs, log_std
        self._mask, self._space = action_mask, policy.space
        self._latest: tuple[Tensor, HybridDistribution] | None = None

    def sample(self, gumbel: Tensor, normal: Tensor) -> Actions:
        """See `HybridDistribution.sample`."""

        def pick(head: int, logits: Tensor) -> Tensor:
            return (logits + self._space.of_head(gumbel, head)).argmax(-1)

        choices, taken_from = self._take(pick)
        mean, log_std = taken_from.mean, taken_from.log_std
        return Actions(choices, taken_from.family.sample(mean, log_std, normal))

    def draw(self, generator: torch.Generator | None = None) -> Actions:
        """See `HybridDistribution.draw`."""
        size, space, policy = len(self._inputs), self._space, self._policy
        gumbel = self._inputs.new_empty(size, *space.valid_choices.shape)
        gumbel = -gumbel.exponential_(generator=generator).log_()
        normal = self._inputs.new_empty(size, space.num_continuous, *policy.family.noise)
        return self.sample(gumbel, normal.normal_(generator=generator))

    def mode(self) -> Actions:
        """The likeliest choice of each head given those before it, and what the parameters' family says: not
        always the likeliest action of all."""
        choices, taken_from = self._take(lambda head, logits: logits.argmax(-1))
        return Actions(choices, taken_from.family.mode(taken_from.mean, taken_from.log_std))

    def given(self, choices: Tensor) -> HybridDistribution:
        """The distribution that `choices` `[B, H]` were taken from."""
        if self._latest is not None and self._latest[0] is choices:
            return self._latest[1]
        return self._policy.distribution(self._inputs, self._mask, choices)

    def _take(self, pick: Pick) -> tuple[Tensor, HybridDistribution]:
        space, taken = self._space, dict[int, Tensor]()
        everything = space.valid_choices.expand(len(self._inputs), *space.valid_choices.shape)
        mask = everything if self._mask is None else self._mask

        def choose(head: int, logits: Tensor) -> Tensor:
            lowest = 1e-8 * torch.finfo(logits.dtype).min
            taken[head] = pick(head, logits.masked_fill(~space.of_head(mask, head), lowest))
            return taken[head]

        outputs = self._policy.outputs(self._inputs, choose, self._log_std)
        choices = torch.stack([taken[head] for head in range(space.num_heads)], 1)
        self._latest = choices, self._policy.as_distribution(*outputs, action_mask=mask)
        return self._latest
