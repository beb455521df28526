"""What the trainer and the classes that a configuration names by `_target_` know of each other: names only.

Checking a configuration and building from it both read this. It imports no torch, which takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from equipoise.envs.observation_parts import ObservationPart
    from equipoise.trainer.spaces import HybridSpace

HOOKS = ("rewards", "advantages", "losses", "gradients")
"""The methods of a stage, in the order in which they run; a stage has exactly one of them."""


class SuppliedToEnv(NamedTuple):
    """Constructor arguments of an environment that are no configuration keys of the section `env`."""

    num_envs: int
    device: torch.device


class SuppliedToPolicy(NamedTuple):
    """Constructor arguments of a policy that are no configuration keys of the section `policy`."""

    space: HybridSpace
    observation_shape: tuple[int, ...]
    num_values: int
    """One for each reward component, and perhaps one more for the task."""
    observation_parts: tuple[ObservationPart, ...] = ()
    """Of the classes that take it."""


class SuppliedToEncoder(NamedTuple):
    """Constructor arguments of an encoder that are no configuration keys of its section."""

    observation_shape: tuple[int, ...]
    observation_parts: tuple[ObservationPart, ...] = ()
    """Of the classes that take it."""


class SuppliedToMemory(NamedTuple):
    """Constructor arguments of a memory that are no configuration keys of its section."""

    width: int
    """Features of an observation, as the encoder gives them."""


class SuppliedToStage(NamedTuple):
    """Constructor arguments that a stage gets if it takes them; they are no configuration keys."""

    num_envs: int
    num_components: int
    device: torch.device
    reward_names: tuple[str, ...]
    reward_weights: Tensor
    """`[K]` float32."""
    gamma: float
    parameters: None = None
    """Of `GradientScaling` in a loop of one's own; the trainer measures gradients itself."""
