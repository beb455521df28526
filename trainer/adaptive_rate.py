"""A learning rate that follows the KL divergence of the updates, not the clock."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FACTOR = 1.5
"""rsl_rl's: from one end of the default range to the other in 17 updates."""


@dataclass(frozen=True)
class AdaptiveRate:
    """Lower the rate where the policy has moved more than twice as far as wanted, raise it below half that.

    As rsl_rl's `schedule="adaptive"` (Rudin et al., "Learning to walk in minutes using massively parallel
    deep reinforcement learning", 2022; the factors are those of its `ppo.py`), but by the
    joint KL divergence of choices and parameters, which each update estimates anyway.

    Args:
        desired: KL divergence from the policy that acted, in nats, around which the rate is kept.
        lowest, highest: bounds of the rate.
    """

    desired: float
    lowest: float
    highest: float

    def after(self, rate: Tensor, kl: Tensor) -> Tensor:
        """The next rate; all are device scalars. A divergence that is not finite changes nothing."""
        lower, higher = kl > 2.0 * self.desired, kl < 0.5 * self.desired
        factor = torch.where(lower & kl.isfinite(), 1.0 / FACTOR, torch.where(higher, FACTOR, 1.0))
        return (rate * factor).clamp(self.lowest, self.highest)
