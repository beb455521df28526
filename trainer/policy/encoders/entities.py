"""Entities of an observation, each with an action of its own: their order does not matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from equipoise.envs.observation_parts import ObservationPart
from equipoise.trainer.policy.encoders.asked import masks_by_name
from equipoise.trainer.policy.encoders.living import Living
from equipoise.trainer.policy.encoders.mlp import ACTIVATIONS, MLP, Activation, Sizes, linear
from equipoise.trainer.policy.encoders.parts import Parts
from equipoise.trainer.policy.protocol import Encoder
from equipoise.trainer.policy.storage import Storage

Rounds = Annotated[int, Ge(1), Le(64)]


class Entities(Encoder):
    """Features of each entity, `[B, O]` -> `[B, N, W]`, equivariant to their order.

    All go through one network. Then, in each round, each gets what all have in common (the mean over those
    that exist: Zaheer et al., "Deep sets", 2017, equation 4), what the rest of the observation says, and the
    mean over its neighbours, weighted by the edges to them (Gilmer et al., "Neural message passing", 2017).

    Args:
        observation_shape: of one observation.
        observation_parts: what lies in which of its columns.
        entities: name of the part `[N, F]`; null: the one that has a mask, or the only one of this shape
        mask: name of the part of N zeros and ones that says which exist; null: `<entities>_mask`, or all do
        edges: name of the part `[N, N]` or `[N, N, kinds]`: edge `[i, j]` says how much `i` hears of `j`
        rounds: of exchange, each with layers of its own
        hidden_sizes: widths of the network of each entity, of which the last is `W`, and of the rest's
        activation: after each layer

    Raises:
        ValueError: for parts that are not there, or of another shape; the message names the key.
    """

    packed = True

    def __init__(
        self,
        observation_shape: Sequence[int],
        observation_parts: Sequence[ObservationPart] = (),
        entities: str | None = None,
        mask: str | None = None,
        edges: str | None = None,
        rounds: Rounds = 1,
        hidden_sizes: Sizes = (64,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        named = {part.name: part for part in observation_parts}
        self._set, self._mask = _found(named, entities, mask)
        self._edges = edges
        count, kinds = self._set.shape[0], 0 if edges is None else _kinds(named, edges, self._set.shape[0])
        self.nodes: int | None = count
        self._size = count, math.prod(self._set.shape[1:])
        self.storage = Storage(observation_parts)
        self._index = {name: index for index, name in enumerate(named)}
        self.width = width = hidden_sizes[-1]
        used = [self._set.name, *([] if edges is None else [edges]), *([self._mask] if self._mask else [])]
        self.raw_parts = used[1:]
        self.each = MLP((self._size[1],), hidden_sizes, activation)
        self.rest: Parts | None = None
        if len(used) < len(named):
            parts = (tuple(observation_shape), tuple(observation_parts))
            self.rest = Parts(*parts, hidden_sizes=hidden_sizes, activation=activation, leave_out=used)
            self.raw_parts += self.rest.raw_parts
        self.own = nn.ModuleList(linear(width, width) for _ in range(rounds))
        self.common = nn.ModuleList(linear(width, width, gain=1.0, bias=False) for _ in range(rounds))
        self.world = linear(width, width, gain=1.0, bias=False) if self.rest is not None else None
        self.heard = nn.ModuleList(
            linear(kinds * width, width, gain=1.0, bias=False) for _ in range(rounds if kinds else 0)
        )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, inputs: Tensor) -> Tensor:
        living, hidden = self.rows(inputs)
        return living.placed(hidden)

    def rows(self, inputs: Tensor) -> tuple[Living, Tensor]:
        """Which exist, and the features `[R, W]` of those."""
        parts = self.storage.split(inputs)
        things = parts[self._index[self._set.name]].to(torch.float32).view(-1, *self._size)
        exists = torch.ones_like(things[..., 0])
        if self._mask is not None:
            exists = parts[self._index[self._mask]].to(torch.float32)
        living = Living(exists)
        hidden = self.each(living.of(things.flatten(0, 1)))
        world = None
        if self.rest is not None and self.world is not None:
            world = self.world(self.rest(inputs))
        shares = None
        if self._edges is not None:
            edges = parts[self._index[self._edges]].to(torch.float32)
            shares = _shares(edges.view(*exists.shape, exists.shape[1], -1), exists)
        for index, own in enumerate(self.own):
            common = self.common[index](living.mean(hidden))
            found = own(hidden) + living.given(common if world is None else common + world)
            if shares is not None:
                heard = torch.matmul(shares, living.placed(hidden).unsqueeze(1))  # [B, kinds, N, W]
                found = found + living.of(self.heard[index](heard.transpose(1, 2).flatten(2)).flatten(0, 1))
            hidden = self.activation(found)
        return living, hidden


class EntitiesSummary(Entities):
    """Features of all entities together, `[B, O]` -> `[B, W]`, whatever their order: what suits a critic.

    The mean over those that exist, and one layer after it. The arguments are those of `Entities`.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        observation_parts: Sequence[ObservationPart] = (),
        entities: str | None = None,
        mask: str | None = None,
        edges: str | None = None,
        rounds: Rounds = 1,
        hidden_sizes: Sizes = (64,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__(
            observation_shape, observation_parts, entities, mask, edges, rounds, hidden_sizes, activation
        )
        self.nodes = None
        self.summary = MLP((self.width,), [self.width], activation)

    def forward(self, inputs: Tensor) -> Tensor:
        living, hidden = self.rows(inputs)
        summary: Tensor = self.summary(living.mean(hidden))
        return summary


def _shares(edges: Tensor, exists: Tensor) -> Tensor:
    """`[B, N, N, kinds]` -> `[B, kinds, N, N]`: of each neighbour that exists, its share of what is heard."""
    weights = edges.permute(0, 3, 1, 2) * exists[:, None, None, :]
    return weights / weights.abs().sum(-1, keepdim=True).clamp(min=1.0)


def _found(
    named: dict[str, ObservationPart], entities: str | None, mask: str | None
) -> tuple[ObservationPart, str | None]:
    """The part of the entities, and the name of their mask."""
    by_name = masks_by_name(named)
    if entities is None:
        sets = list(by_name) or [name for name, part in named.items() if len(part.shape) == 2]
        if len(sets) != 1:
            listed = {name: part.shape for name, part in named.items()}
            raise ValueError(f"entities: name the part [entities, features] of {listed}")
        entities = sets[0]
    for key, name in (("entities", entities), ("mask", mask)):
        if name is not None and name not in named:
            raise ValueError(f"{key} = {name}: no part of the observation; there are {list(named)}")
    found = named[entities]
    if len(found.shape) < 2:
        raise ValueError(f"entities = {entities}: must have shape [entities, features], not {found.shape}")
    mask = mask or by_name.get(entities)
    if mask is not None and math.prod(named[mask].shape) != found.shape[0]:
        raise ValueError(f"mask = {mask}: must hold a number for each of {found.shape[0]} entities")
    return found, mask


def _kinds(named: dict[str, ObservationPart], edges: str, count: int) -> int:
    """How many kinds of edges there are."""
    shape = named[edges].shape if edges in named else None
    if shape is None or len(shape) not in (2, 3) or shape[:2] != (count, count):
        raise ValueError(f"edges = {edges}: must be a part [{count}, {count}] or [{count}, {count}, kinds]")
    return shape[2] if len(shape) == 3 else 1
