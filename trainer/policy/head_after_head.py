"""Acting where heads decide one after the other, as later ones, or their masks, depend on what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from equipoise.envs.dependent_masks import ActionMask, DependentMask, in_order
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.trainer.data import Actions
from equipoise.trainer.policy.choosing import in_turn
from equipoise.trainer.policy.distributions import HybridDistribution

if TYPE_CHECKING:
    from equipoise.trainer.policy.protocol import Policy

Pick = Callable[[int, Tensor], Tensor]
"""Head and its logits `[B, choices]`, very low where not valid -> which choice is taken, `[B]`."""


class HeadAfterHead:
    """Draws actions as `HybridDistribution` does, where the outputs or the masks depend on the choices.

    Args:
        inputs: normalised observations `[B, O]`.
        action_mask: as `HybridSpace.valid_choices` for each of them, or dependent; None: all are valid.
        log_std: see `Policy.actor`.
    """

    def __init__(
        self, policy: Policy, inputs: Tensor, action_mask: ActionMask | None, log_std: Tensor | None = None
    ) -> None:
        self._policy, self._inputs, self._log_std = policy, inputs, log_std
        self._mask, self._space = action_mask, policy.space
        check_order(action_mask, policy)
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
        return self._take(lambda head, logits: choices[:, head])[1]

    def _take(self, pick: Pick) -> tuple[Tensor, HybridDistribution]:
        space, policy, mask = self._space, self._policy, self._mask
        taken: dict[int, Tensor] = {}
        valid: dict[int, Tensor] = {}

        def choose(head: int, logits: Tensor) -> Tensor:
            valid[head] = self._valid(head, taken)
            lowest = 1e-8 * torch.finfo(logits.dtype).min
            taken[head] = pick(head, logits.masked_fill(~valid[head], lowest))
            return taken[head]

        if policy.conditional:
            logits, mean, log_std = policy.outputs(self._inputs, choose, self._log_std)
        else:  # only the masks depend on choices
            logits, mean, log_std = policy.outputs(self._inputs, None, self._log_std)
            in_turn(space, policy.order, space.laid_out(logits), choose)
        heads = range(space.num_heads)
        choices = torch.stack([taken[head] for head in heads], 1)
        if isinstance(mask, DependentMask):
            mask = space.laid_out(torch.cat([valid[head] for head in heads], 1))
        self._latest = choices, policy.as_distribution(logits, mean, log_std, mask)
        return self._latest

    def _valid(self, head: int, taken: Mapping[int, Tensor]) -> Tensor:
        """`[B, choices]`: what the mask allows a head, given the choices before it."""
        space, mask = self._space, self._mask
        if not isinstance(mask, DependentMask):
            every = space.valid_choices.expand(self._inputs.shape[0], *space.valid_choices.shape)
            return space.of_head(every if mask is None else mask, head)
        valid = space.of_head(mask.own, head)
        if (table := mask.table_of(head)) is None:
            return valid
        valid = valid & table.row(taken, space.num_heads)
        # Elsewhere the device would be waited for.
        looking = valid.device.type == "cpu" and not torch.compiler.is_compiling()
        if looking and not bool(valid.any(-1).all()):
            row = int(valid.any(-1).to(torch.int8).argmin())
            called = space.table.head_path
            chosen = ", ".join(f"{called(of)} = {int(taken[of][row])}" for of in table.given)
            left = f"leaves {called(head)} no valid choice once {chosen}"
            raise EnvError(f"environment {row}: the action mask {left}")
        return valid


def check_order(mask: ActionMask | None, policy: Policy) -> None:
    """Raises ValueError where a head's mask depends on one that decides after it."""
    if not isinstance(mask, DependentMask):
        return
    place = {head: place for place, head in enumerate(policy.order)}
    name = policy.space.table.head_name
    for table in mask.tables:
        for of in table.given:
            if place[of] >= place[table.head]:
                heads = in_order(mask.tables, policy.space.num_heads)
                wanted = ",".join(str(name(head)) for head in heads)
                raise ValueError(
                    f"policy.order = [{','.join(str(name(head)) for head in policy.order)}]: the mask of "
                    f"{name(table.head)} depends on {name(of)}, which must come before it: "
                    f"policy.order=[{wanted}]"
                )
