"""Which node of a set owns which heads and parameters, and how outputs by node become those of the space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equipoise.trainer.spaces import HybridSpace


class NodeLayout(nn.Module):
    """Outputs of nodes `[B, nodes, …]` as those of the action space.

    A part of the action whose first axis counts the nodes, as `MultiDiscrete([k] * nodes)` and
    `Box(…, (nodes, p))`, belongs to them row by row. Else node `i` owns head `i` and the parameters of that
    head, in order.

    Args:
        encoder: its `nodes` says how many there are; None: one, which owns everything.
        space: of the actions.

    Raises:
        ValueError: the action space cannot be divided among the nodes.
    """

    def __init__(self, encoder: nn.Module, space: HybridSpace) -> None:
        super().__init__()
        found: int | None = getattr(encoder, "nodes", None)
        self.nodes = found or 1
        """How many there are."""
        heads, parameters = [0] * space.num_heads, [0] * space.num_continuous
        if found is not None:
            heads, parameters = _owners(type(encoder).__name__, found, space)
        self.heads_each, self.parameters_each = len(heads) // self.nodes, len(parameters) // self.nodes
        """Of each node."""
        self.head_places: Tensor | None
        self.parameter_places: Tensor | None
        self.register_buffer("head_places", _places(heads), persistent=False)
        self.register_buffer("parameter_places", _places(parameters), persistent=False)

    def of_heads(self, logits: Tensor) -> Tensor:
        """`[B, nodes, heads · C]` as `[B, H, C]`; of one node, and where they are in order, as they are."""
        if self.head_places is None:
            return logits
        rows = logits.view(logits.shape[0], len(self.head_places), -1)
        return rows.index_select(1, self.head_places)

    def of_parameters(self, numbers: Tensor) -> Tensor:
        """`[B, nodes, parameters]` or `[B, P]` by node -> `[B, P]` as the space has them."""
        numbers = numbers.view(numbers.shape[0], self.nodes * self.parameters_each)
        return numbers if self.parameter_places is None else numbers.index_select(1, self.parameter_places)


def _owners(name: str, nodes: int, space: HybridSpace) -> tuple[list[int], list[int]]:
    """The node of each head and of each parameter."""
    heads, parameters = [0] * space.num_heads, [0] * space.num_continuous
    leaves = [leaf for leaf in space.table.leaves if leaf.count]
    head_of = space.head_of.tolist()
    if all(leaf.shape[:1] == (nodes,) for leaf in leaves):
        for leaf in leaves:
            each = leaf.count // nodes
            of = heads if leaf.discrete else parameters
            of[leaf.first : leaf.first + leaf.count] = [number // each for number in range(leaf.count)]
        for parameter, head in enumerate(head_of):
            if head < len(heads) and heads[head] != parameters[parameter]:
                raise ValueError(
                    f"policy.encoder = {name}: parameter {parameter} belongs to head {head} of another node"
                )
        return heads, parameters
    if nodes != len(heads):
        raise ValueError(
            f"policy.encoder = {name}: needs an action of which every part has a row for each of {nodes} "
            f"nodes, or one head for each; the action space has {len(heads)} heads (use policy=mlp)"
        )
    share, rest = divmod(len(parameters), nodes)
    if rest or head_of != [p // share for p in range(nodes * share)]:
        raise ValueError(
            f"policy.encoder = {name}: parameters must belong to the heads in order, equally many to each"
        )
    return list(range(nodes)), head_of


def _places(owners: Sequence[int]) -> Tensor | None:
    """Where each is found once they are sorted by their owners; None: where it is."""
    order = sorted(range(len(owners)), key=lambda number: owners[number])
    if order == list(range(len(owners))):
        return None
    places = torch.empty(len(owners), dtype=torch.int64)
    places[torch.tensor(order)] = torch.arange(len(owners))
    return places
