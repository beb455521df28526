"""The distribution over hybrid actions: independent categorical heads and independent numbers.

The numbers live in the normalised space, where [-1, 1] is the native range; what they are drawn from says
their `Family`. The sample as it was drawn is stored, and `Policy.to_native` makes an action of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.trainer.data import Actions
from equipoise.trainer.policy.continuous import Family, Gaussian
from equipoise.trainer.spaces import HybridSpace

_GAUSSIAN = Gaussian()


class HybridDistribution:
    """Of `B` samples. Parameters that do not matter under the choices taken take no part in anything.

    Args:
        logits: `[B, H, C]` or, all choices of the first head before those of the second, `[B, S]`.
        mean: `[B, P]`.
        log_std: `[P]` or `[B, P]`.
        action_mask: bool, of the shape of the logits; at least one valid choice for each head.
        family: of the numbers, by `mean` and `log_std`.
    """

    def __init__(
        self,
        space: HybridSpace,
        logits: Tensor,
        mean: Tensor,
        log_std: Tensor,
        action_mask: Tensor,
        family: Family = _GAUSSIAN,
    ) -> None:
        self.space = space
        self.family = family
        self.mean = mean
        self.log_std = log_std
        self.action_mask = action_mask
        self._log_probs: Tensor | None = None
        self._discrete_active: Tensor | None = None
        self._relevant: tuple[Tensor, Tensor] | None = None
        # Not -inf, for 0 · log 0 would be NaN in the entropy and its gradient; nor the lowest finite number,
        # which weights above 1 make infinite.
        self._logits = logits.masked_fill(~action_mask, 1e-8 * torch.finfo(logits.dtype).min)

    @property
    def logits(self) -> Tensor:
        """As given, but for a very low number in the place of those of choices that are not valid."""
        return self._logits

    def given(self, choices: Tensor) -> HybridDistribution:
        """The distribution that `choices` `[B, H]` were taken from: this one, where nothing sees them."""
        return self

    @property
    def log_probs(self) -> Tensor:
        """Of every choice, of the shape of the logits."""
        if self._log_probs is None:  # no cached_property, whose lock torch.compile cannot trace
            self._log_probs = self._normalised()
        return self._log_probs

    def _normalised(self) -> Tensor:
        if self.space.num_heads == 0:
            return self._logits
        parts = [_log_softmax(part) for part in self.space.by_width(self._logits)]
        return parts[0] if self._logits.dim() == 3 else torch.cat([part.flatten(1) for part in parts], 1)

    def _of_heads(self, reduce: Callable[[Tensor], Tensor], numbers: Tensor) -> Tensor:
        """`[B, H]`: `numbers`, of the shape of the logits, reduced over the choices of each head."""
        parts = [reduce(part) for part in self.space.by_width(numbers)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def sample(self, gumbel: Tensor, normal: Tensor) -> Actions:
        """Actions from ready-made noise: Gumbel of the logits' shape and normal `[B, P, *family.noise]`,
        standard.

        The largest of logit + Gumbel noise is a sample of the categorical (Gumbel, 1954; Maddison et al.,
        "A* sampling", 2014, section 2).
        """
        parameters = self.family.sample(self.mean, self.log_std, normal)
        return Actions(self._argmax(self._logits + gumbel), parameters)

    def draw(self, generator: torch.Generator | None = None) -> Actions:
        """Actions from fresh noise of `generator`, or of PyTorch's own."""
        gumbel = -torch.empty_like(self._logits).exponential_(generator=generator).log_()
        normal = self.mean.new_empty(*self.mean.shape, *self.family.noise)
        return self.sample(gumbel, normal.normal_(generator=generator))

    def mode(self) -> Actions:
        """The deterministic action: the likeliest choice of each head, and of each parameter what its family
        says: a Gaussian's mean."""
        return Actions(self._argmax(self._logits), self.family.mode(self.mean, self.log_std))

    def _argmax(self, scores: Tensor) -> Tensor:
        if self.space.num_heads == 0:
            return scores.new_zeros(scores.shape[:2], dtype=torch.int64)
        return self._of_heads(lambda part: part.argmax(-1), scores)

    def relevant(self, choices: Tensor) -> Tensor:
        """`[B, P]` bool: the parameters that matter under `choices` `[B, H]`."""
        if self._relevant is None or self._relevant[0] is not choices:  # the surrogates and stages all ask
            self._relevant = choices, self.space.relevant(choices)
        return self._relevant[1]

    def discrete_active(self) -> Tensor:
        """`[B, H]` bool: the heads that have a decision to make (two valid choices or more)."""
        if self._discrete_active is None:
            # Added up as floats: of a sum of integers torch.compile (2.13, AVX2) makes C++ that is an error.
            self._discrete_active = self._of_heads(
                lambda part: part.to(torch.float32).sum(-1) > 1.0, self.action_mask
            )
        return self._discrete_active

    def discrete_log_prob(self, choices: Tensor) -> Tensor:
        """`[B, H]`; exactly 0, with exactly zero gradient, for a head with one valid choice."""
        if self.space.num_heads == 0:
            return self.mean.new_zeros(choices.shape)
        if self.log_probs.dim() == 2:
            return self.log_probs.gather(1, choices + self.space.first_choice)
        return self.log_probs.gather(-1, choices.unsqueeze(-1)).squeeze(-1)

    def continuous_log_prob(self, parameters: Tensor, relevant: Tensor) -> Tensor:
        """`[B, D]`: of the relevant parameters of each decision together; 0 where none is relevant."""
        each = self.family.log_prob(parameters, self.mean, self.log_std)
        return self.space.sum_by_decision(each * relevant)

    def discrete_entropy(self) -> Tensor:
        """`[B, H]` nats."""
        if self.space.num_heads == 0:
            return self._logits.new_zeros(self._logits.shape[:2])
        return -self._of_heads(lambda part: part.sum(-1), self.log_probs.exp() * self.log_probs)

    def continuous_entropy(self) -> Tensor:
        """`[B, P]` nats of each parameter in the normalised space."""
        return self.family.entropy(self.mean, self.log_std)

    def discrete_kl(self, other: HybridDistribution) -> Tensor:
        """KL(this ‖ other) of each head, `[B, H]`, exact; both under the same mask."""
        if self.space.num_heads == 0:
            return self._logits.new_zeros(self._logits.shape[:2])
        each = self.log_probs.exp() * (self.log_probs - other.log_probs)
        return self._of_heads(lambda part: part.sum(-1), each)

    def continuous_kl(self, other: HybridDistribution) -> Tensor:
        """KL(this ‖ other) of each parameter, `[B, P]`, exact; both of one family."""
        return self.family.kl(self.mean, self.log_std, other.mean, other.log_std)


def _log_softmax(logits: Tensor) -> Tensor:
    if logits.shape[-1] >= 16:
        return logits.log_softmax(-1)
    # Choices outermost: over a short innermost dimension the CPU takes four times as long.
    return logits.movedim(-1, 0).contiguous().log_softmax(0).movedim(0, -1)
