"""The size of a surrogate made irrelevant: each is divided by the mean size of its own terms.

    L'_s = √(2/π) · L_s / mean |terms of s|        over the samples where s is active; the mean is a constant

Advantages are standardised, so that the terms of a surrogate at ratio 1 have the mean size E|z| = √(2/π) of
a standard normal z: with nothing wrong this stage changes next to nothing. A loss that has a factor by
mistake or by another stage loses it here, *before* the entropy bonus is added, the gradient is clipped and
the optimizer keeps its moments, all of which would see the wrong size. Which side's gradient is the larger
one is left as it is: that is gradient scaling's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from equipoise.envs.arguments import checked
from equipoise.trainer.data import Metric, Term
from equipoise.trainer.stages.protocol import SIDES, LossState, reduce_terms
from equipoise.trainer.system import distributed

UNIT = math.sqrt(2.0 / math.pi)
"""Mean size of a standard normal number."""


class SurrogateSize:
    """Brings both surrogates to the size that they have with standardised advantages at ratio 1.

    List it behind stages that change a surrogate and before the entropy bonus. Exactly invariant to a factor
    on a surrogate; no gradient flows through the mean.
    """

    @checked
    def __init__(self, *, enable_unit_size: bool = True) -> None:
        self.enable_unit_size = enable_unit_size

    def losses(self, state: LossState) -> LossState:
        """Divides the terms `discrete` and `continuous`; nothing else changes."""
        if not self.enable_unit_size:
            return state
        for side, size in zip(SIDES, self._sizes(state), strict=True):
            term = state.terms[side]
            # Where nothing is active, and where all advantages are 0, there is nothing to divide.
            values = term.values * torch.where(size > 0, UNIT / size, 1.0)
            metric = Metric(torch.where(size > 0, size, torch.nan))
            state = state.with_term(side, term._replace(values=values), {f"loss/size_{side}": metric})
        return state

    def _sizes(self, state: LossState) -> Sequence[Tensor]:
        """Device scalars: the mean size of each side's terms over all processes; 0 where none is active."""
        terms: dict[str, Term] = {}
        for side in SIDES:
            values, mask = state.terms[side].values.detach().abs(), state.terms[side].mask
            # With `reduction: common` a side's inactive samples are zeros in its mean.
            active = values != 0
            terms[side] = Term(values, active if mask is None else active & mask)
        return distributed.all_reduce_means(list(reduce_terms(terms).values()))
