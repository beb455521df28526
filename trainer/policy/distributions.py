"""The distribution over hybrid actions: independent categorical heads and independent numbers.

The numbers live in the normalised space, where [-1, 1] is the native range; what they are drawn from says
their `Family`. The sample as it was drawn is stored, and `Policy.to_native` makes an action of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.trainer.data import Actions
from equipoise.trainer.policy.continuous import Family, Gaussian
from equipoise.trainer.spaces import HybridSpace

_GAUSSIAN = Gaussian()


class HybridDistribution:
    """Of `B` samples. Parameters that do not matter under the choices taken take no part in anything.

    Args:
        logits: `[B, H, C]`.
        mean: `[B, P]`.
        log_std: `[P]` or `[B, P]`.
        action_mask: `[B, H, C]` bool, at least one valid choice for each head.
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
        # The lowest finite number, not -inf: 0 · log 0 would be NaN in the entropy and its gradient.
        self._logits = logits.masked_fill(~action_mask, torch.finfo(logits.dtype).min)

    @property
    def log_probs(self) -> Tensor:
        """`[B, H, C]`: log-probability of every choice."""
        if self._log_probs is None:  # no cached_property, whose lock torch.compile cannot trace
            self._log_probs = self._normalised()
        return self._log_probs

    def _normalised(self) -> Tensor:
        if self.space.num_heads == 0:
            return self._logits
        # Choices outermost: over a short innermost dimension the CPU takes four times as long.
        return self._logits.movedim(-1, 0).contiguous().log_softmax(0).movedim(0, -1)

    def sample(self, gumbel: Tensor, normal: Tensor) -> Actions:
        """Actions from ready-made noise: Gumbel `[B, H, C]` and normal `[B, P, *family.noise]`, standard.

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
        return scores.argmax(-1)

    def relevant(self, choices: Tensor) -> Tensor:
        """`[B, P]` bool: the parameters that matter under `choices` `[B, H]`."""
        if self._relevant is None or self._relevant[0] is not choices:  # the surrogates and stages all ask
            self._relevant = choices, self.space.relevant(choices)
        return self._relevant[1]

    def discrete_active(self) -> Tensor:
        """`[B, H]` bool: the heads that have a decision to make (two valid choices or more)."""
        if self._discrete_active is None:
            # Added up as floats: of a sum of integers torch.compile (2.13, AVX2) makes C++ that is an error.
            self._discrete_active = self.action_mask.to(torch.float32).sum(-1) > 1.0
        return self._discrete_active

    def discrete_log_prob(self, choices: Tensor) -> Tensor:
        """`[B, H]`; exactly 0, with exactly zero gradient, for a head with one valid choice."""
        if self.space.num_heads == 0:
            return self.mean.new_zeros(choices.shape)
        return self.log_probs.gather(-1, choices.unsqueeze(-1)).squeeze(-1)

    def continuous_log_prob(self, parameters: Tensor, relevant: Tensor) -> Tensor:
        """`[B, D]`: of the relevant parameters of each decision together; 0 where none is relevant."""
        each = self.family.log_prob(parameters, self.mean, self.log_std)
        return self.space.sum_by_decision(each * relevant)

    def discrete_entropy(self) -> Tensor:
        """`[B, H]` nats."""
        if self.space.num_heads == 0:
            return self._logits.new_zeros(self._logits.shape[:2])
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def continuous_entropy(self) -> Tensor:
        """`[B, P]` nats of each parameter in the normalised space."""
        return self.family.entropy(self.mean, self.log_std)

    def discrete_kl(self, other: HybridDistribution) -> Tensor:
        """KL(this ‖ other) of each head, `[B, H]`, exact; both under the same mask."""
        if self.space.num_heads == 0:
            return self._logits.new_zeros(self._logits.shape[:2])
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)

    def continuous_kl(self, other: HybridDistribution) -> Tensor:
        """KL(this ‖ other) of each parameter, `[B, P]`, exact; both of one family."""
        return self.family.kl(self.mean, self.log_std, other.mean, other.log_std)
