"""What every distribution of a bounded number can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Family(nn.Module, ABC):
    """Distributions of `[B, P]` independent numbers, by two outputs of a policy's network.

    `mean` `[B, P]` says where, `log_std` `[P]` or `[B, P]` how wide. A *sample* is what the rollout stores
    and log-probabilities are asked for; `in_range` maps it to the normalised range [-1, 1] of the action.
    Densities and entropies, in nats, are those of the number that is stored (`Gaussian`) or of the number in
    [-1, 1] (all others). All methods are finite, and so are their gradients, for what `sample` gives.

    A module for its constants alone, which lie on the policy's device: no parameters, no state.
    """

    noise: ClassVar[tuple[int, ...]] = ()
    """Shape of the standard normal noise that one sample is made of."""
    deterministic: ClassVar[str] = "means"
    """What the deterministic actions are, for people."""

    @abstractmethod
    def sample(self, mean: Tensor, log_std: Tensor, normal: Tensor) -> Tensor:
        """`[B, P]` from noise `[B, P, *noise]`."""

    @abstractmethod
    def mode(self, mean: Tensor, log_std: Tensor) -> Tensor:
        """The deterministic action, as a sample `[B, P]`."""

    @abstractmethod
    def in_range(self, sample: Tensor) -> Tensor:
        """The action in [-1, 1] that a sample of any shape stands for."""

    @abstractmethod
    def from_range(self, action: Tensor) -> Tensor:
        """A sample that stands for `action` in [-1, 1]; where only an infinite one would, one close to it."""

    @abstractmethod
    def log_prob(self, sample: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        """`[B, P]`."""

    @abstractmethod
    def entropy(self, mean: Tensor, log_std: Tensor) -> Tensor:
        """`[B, P]`."""

    @abstractmethod
    def kl(self, mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
        """KL(this ‖ other), `[B, P]`, exact."""

    @abstractmethod
    def interval(self, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """About one standard deviation to both sides, `[B, P]` each in the normalised space: for pictures."""
