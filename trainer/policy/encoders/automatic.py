"""The encoder that suits the observations, chosen by their space."""

from __future__ import annotations

from collections.abc import Sequence

from equipoise.envs.observation_parts import ObservationPart
from equipoise.trainer.policy.encoders.convolution import Convolution
from equipoise.trainer.policy.encoders.mlp import MLP, Activation, Sizes
from equipoise.trainer.policy.protocol import Encoder


class Automatic(Encoder):
    """Becomes a `Convolution` for a picture, an `MLP` for anything else.

    Args:
        observation_shape: of one observation.
        observation_parts: what it holds.
        hidden_sizes: of the MLP
        activation: of the MLP
    """

    @staticmethod
    def chosen(observation_parts: Sequence[ObservationPart]) -> type[Encoder]:
        """The class that it becomes."""
        one = len(observation_parts) == 1
        return Convolution if one and observation_parts[0].picture else MLP

    def __new__(  # type: ignore[misc]
        cls,
        observation_shape: Sequence[int],
        observation_parts: Sequence[ObservationPart] = (),
        hidden_sizes: Sizes = (64, 64),
        activation: Activation = "tanh",
    ) -> Encoder:
        if cls.chosen(observation_parts) is Convolution:
            return Convolution(observation_shape, observation_parts)
        return MLP(observation_shape, hidden_sizes, activation)
