"""Observations of several parts: an encoder for each, and a multilayer perceptron over what they find."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from equipoise.envs.observation_parts import ObservationPart
from equipoise.trainer.policy.encoders.asked import bound, by_name, masks_by_name, refuse_unknown
from equipoise.trainer.policy.encoders.convolution import Convolution
from equipoise.trainer.policy.encoders.embedding import Embedding
from equipoise.trainer.policy.encoders.mlp import MLP, Activation, Sizes, linear
from equipoise.trainer.policy.encoders.node_set import NodeSetSummary
from equipoise.trainer.policy.encoders.sets import SelfAttention
from equipoise.trainer.policy.protocol import Encoder, make_encoder
from equipoise.trainer.policy.storage import Storage

MANY = 1024
"""Choices from which on a one-hot code gets an `Embedding`: the layer over it would be a large one."""


class Parts(Encoder):
    """An encoder for each part of an observation, `[B, O]` -> `[B, W]`.

    Pictures of uint8 or bool get a `Convolution`, sets with a mask a `NodeSetSummary`, one-hot codes of 1,024
    choices or more an `Embedding`; all other parts are taken as they are. A set is a part `[M, F]` beside one
    of M zeros and ones that is called like it, with `_mask` at the end, or named in `masks`.

    Args:
        observation_shape: of one observation.
        observation_parts: what lies in which of its columns.
        parts: by name: a section with a `_target_`, or keywords of the encoder that the part gets by itself
        picture: keywords of the `Convolution` of every picture
        masks: which part says what of a set exists: `{units: alive}`; null for a set of which all do
        combine: concatenate: side by side; attend: each part looks at the others before
        hidden_sizes: of the multilayer perceptron over all parts, of which the last is `W`
        attention_width: of each part where they look at each other
        activation: of the same
        leave_out: parts that others look at, by name

    Raises:
        ValueError: names of parts that are not there, or what their encoders refuse.
    """

    packed = True

    def __init__(
        self,
        observation_shape: Sequence[int],
        observation_parts: Sequence[ObservationPart] = (),
        parts: Mapping[str, Any] | None = None,
        picture: Mapping[str, Any] | None = None,
        masks: Mapping[str, str | Mapping[str, Any] | None] | None = None,
        combine: Literal["concatenate", "attend"] = "concatenate",
        hidden_sizes: Sizes = (64, 64),
        attention_width: Annotated[int, Ge(4), Le(10**4)] = 64,
        activation: Activation = "tanh",
        leave_out: Sequence[str] = (),
    ) -> None:
        super().__init__()
        everything = [part.name for part in observation_parts]
        named = {part.name: part for part in observation_parts if part.name not in leave_out}
        asked = dict(by_name(parts or {}, named))
        of_sets: dict[str, str | None] = {**masks_by_name(named), **dict(by_name(masks or {}, named))}
        refuse_unknown(named, asked, of_sets)
        self.storage = Storage(observation_parts)
        self.names = [name for name in named if name not in of_sets.values()]
        self._place = {name: index for index, name in enumerate(everything)}
        self.masks = of_sets
        # A part's name may hold dots, which the name of a module may not.
        self.encoders = nn.ModuleList()
        widths = []
        for name in self.names:
            encoder = _encoder(named[name], of_sets, asked.get(name, {}), picture or {})
            self.encoders.append(encoder if encoder is not None else nn.Identity())
            widths.append(encoder.width if encoder is not None else named[name].stop - named[name].first)
        self.raw_parts = [name for name in of_sets.values() if name is not None]
        self.raw_parts += [
            name
            for name, encoder in zip(self.names, self.encoders, strict=True)
            if name not in of_sets and getattr(encoder, "raw_observations", False)
        ]
        self.combine = combine
        if combine == "attend":
            self.tokens = nn.ModuleList(linear(width, attention_width) for width in widths)
            self.attention = SelfAttention(attention_width, heads=4 if attention_width % 4 == 0 else 1)
            widths = [attention_width] * len(widths)
        self.whole = MLP((sum(widths),), hidden_sizes, activation)
        self.width = self.whole.width

    def into_layers(self) -> Iterator[tuple[ObservationPart, int]]:
        """The parts whose numbers go into a layer of a multilayer perceptron as they are, and its units."""
        for index, (name, encoder) in enumerate(zip(self.names, self.encoders, strict=True)):
            part = self.storage.parts[self._place[name]]
            if isinstance(encoder, MLP):
                yield part, cast(int, encoder.layers[0].out_features)
            elif isinstance(encoder, nn.Identity):
                first = self.tokens[index] if self.combine == "attend" else self.whole.layers[0]
                yield part, cast(int, first.out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = self.storage.split(inputs)
        found = [
            encoder(self._part(name, rows)) for name, encoder in zip(self.names, self.encoders, strict=True)
        ]
        if self.combine == "attend":
            tokens = torch.stack([token(each) for token, each in zip(self.tokens, found, strict=True)], 1)
            tokens = tokens + self.attention(tokens, tokens.new_ones(tokens.shape[:2]))
            found = [tokens.flatten(1)]
        features: Tensor = self.whole(torch.cat(found, -1))
        return features

    def _part(self, name: str, rows: Sequence[Tensor]) -> Tensor:
        row, part = rows[self._place[name]], self.storage.parts[self._place[name]]
        if name in self.masks:
            mask = self.masks[name]
            things = row.to(torch.float32).view(-1, *part.shape[:1], math.prod(part.shape[1:]))
            exists = things.new_ones(things.shape[:2]) if mask is None else rows[self._place[mask]]
            exists = exists.to(torch.float32)
            # Whatever stands where nothing exists, it is not seen.
            return torch.cat([exists.unsqueeze(-1), things * exists.unsqueeze(-1)], -1).flatten(1)
        kept = part.picture or (part.choices and part.stop - part.first >= MANY)
        return row if kept else row.to(torch.float32)


def suits(part: ObservationPart, masks: Mapping[str, str | None]) -> type[Encoder] | None:
    """The encoder that a part gets by itself; None: it is taken as it is."""
    if part.name in masks:
        return NodeSetSummary
    if part.picture:
        return Convolution
    return Embedding if part.choices and part.stop - part.first >= MANY else None


def _encoder(
    part: ObservationPart, masks: Mapping[str, str | None], asked: Any, picture: Mapping[str, Any]
) -> Encoder | None:
    key = f"policy.encoder.parts.{part.name}"
    make = asked
    if isinstance(asked, Mapping):
        chosen = suits(part, masks)
        if chosen is None and not asked:
            return None
        asked = {**picture, **asked} if chosen is Convolution else asked
        make = bound(chosen or MLP, asked, key)
    shape = part.shape
    if part.choices:
        shape = (part.stop - part.first,)
    if part.name in masks:
        shape = (part.shape[0], 1 + math.prod(part.shape[1:]))
    return make_encoder(make, shape, key, (part,))
