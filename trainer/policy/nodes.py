"""Which node of a set owns which heads and parameters."""

from __future__ import annotations

from torch import nn

from equipoise.trainer.spaces import HybridSpace


def nodes_of(encoder: nn.Module, space: HybridSpace) -> int:
    """How many nodes the heads are divided among. Raises ValueError where they cannot be."""
    nodes: int | None = getattr(encoder, "nodes", None)
    if nodes is None:
        return 1
    name = type(encoder).__name__
    if nodes != space.num_heads:
        raise ValueError(
            f"policy.encoder = {name}: needs one head for each of {nodes} nodes; the action space has "
            f"{space.num_heads} heads (use policy=mlp)"
        )
    share, rest = divmod(space.num_continuous, nodes)
    if rest or space.head_of.tolist() != [p // share for p in range(nodes * share)]:
        raise ValueError(
            f"policy.encoder = {name}: parameters must belong to the heads in order, equally many to each"
        )
    return nodes
