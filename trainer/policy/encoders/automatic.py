"""The encoder that suits the observations, chosen by their space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from equipoise.envs.observation_parts import ObservationPart
from equipoise.trainer.policy.encoders.asked import bound, masks_by_name
from equipoise.trainer.policy.encoders.convolution import Convolution
from equipoise.trainer.policy.encoders.mlp import MLP, Activation, Sizes
from equipoise.trainer.policy.encoders.parts import Parts, suits
from equipoise.trainer.policy.protocol import Encoder


class Automatic(Encoder):
    """Becomes a `Convolution` for a picture alone, `Parts` where some part wants an encoder of its own, an
    `MLP` for anything else.

    Args:
        observation_shape: of one observation.
        observation_parts: what it holds.
        picture: keywords of the `Convolution` of every picture
        parts: of `Parts`: keywords of a part's encoder by its name, or a section with a `_target_`
        masks: of `Parts`: which part says what of a set exists
        combine: of `Parts`: concatenate or attend
        hidden_sizes: of the multilayer perceptron
        activation: of the multilayer perceptron
    """

    @staticmethod
    def chosen(observation_parts: Sequence[ObservationPart], **keywords: Any) -> type[Encoder]:
        """The class that it becomes."""
        named = {part.name: part for part in observation_parts}
        asked = keywords.get("combine", "concatenate") == "attend"
        if asked or any(keywords.get(key) for key in ("parts", "masks")):
            return Parts
        masks = masks_by_name(named)
        if not any(suits(part, masks) for part in observation_parts):
            return MLP
        return Convolution if len(named) == 1 and observation_parts[0].picture else Parts

    def __new__(  # type: ignore[misc]
        cls,
        observation_shape: Sequence[int],
        observation_parts: Sequence[ObservationPart] = (),
        picture: Mapping[str, Any] | None = None,
        parts: Mapping[str, Any] | None = None,
        masks: Mapping[str, str | Mapping[str, Any] | None] | None = None,
        combine: Literal["concatenate", "attend"] = "concatenate",
        hidden_sizes: Sizes = (64, 64),
        activation: Activation = "tanh",
    ) -> Encoder:
        chosen = cls.chosen(observation_parts, parts=parts, masks=masks, combine=combine)
        if chosen is Convolution:
            convolution = bound(Convolution, picture or {}, "policy.encoder.picture")
            made: Encoder = convolution(observation_shape, observation_parts)
            return made
        if chosen is MLP:
            return MLP(observation_shape, hidden_sizes, activation)
        return Parts(
            observation_shape,
            observation_parts,
            parts,
            picture,
            masks,
            combine,
            hidden_sizes,
            activation=activation,
        )
