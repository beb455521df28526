"""Actions of a policy as arrays of an environment's own dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equipoise.envs.action_table import ActionLeaf, ActionTable
from equipoise.envs.gymnasium_adapter.given_masks import Joined
from equipoise.envs.protocol import NativeAction


def native_arrays(action: NativeAction, table: ActionTable) -> list[NDArray[Any]]:
    """`[N, *shape]` for each leaf of the table. Raises ValueError for a leaf of another shape."""
    leaves = zip(table.leaves, table.take_apart(action), strict=True)
    return [_leaf_to_numpy(part, leaf) for leaf, part in leaves]


def _leaf_to_numpy(part: Any, leaf: ActionLeaf) -> NDArray[Any]:
    """`[N, *shape]` of the space's own dtype."""
    if not isinstance(part, Tensor) or tuple(part.shape[1:]) != leaf.shape:
        raise ValueError(f"{leaf.path} must be a tensor {['N', *leaf.shape]}")
    array = part.numpy(force=True).astype(leaf.dtype, copy=False)
    if not leaf.discrete and leaf.dtype != np.float32:
        # No silent clamp but rounding: float32, in which the trainer reckons, does not have every constant.
        low, high = (np.array(bound, leaf.dtype).reshape(leaf.shape) for bound in (leaf.low, leaf.high))
        array = np.clip(array, low, high)
    return array


def some_arrays(
    table: ActionTable, mask: NDArray[np.bool_], tables: Joined | None = None
) -> list[NDArray[Any]]:
    """A valid action, `[N, *shape]` for each leaf: the first choice that `mask` `[N, H, C]` or `[N, S]` and
    the `tables` allow, or the first of all, and the middle of every box."""
    first, by_head = np.zeros((len(mask), table.num_heads), np.int64), table.by_head(mask)
    given = {head: (others, valid) for head, others, valid in tables or ()}
    rows, left = np.arange(len(mask)), list(range(table.num_heads))
    while left:
        head = next(h for h in left if not set(given[h][0] if h in given else ()) & set(left))
        valid = by_head[head]
        if head in given:
            others, allowed = given[head]
            valid = valid & allowed[(rows, *(first[:, other] for other in others))]
        first[:, head] = valid.argmax(1)
        left.remove(head)
    arrays = []
    for leaf in table.leaves:
        if leaf.outcomes:
            numbers = np.array(leaf.outcomes)[first[:, leaf.first]]
        elif leaf.discrete:
            numbers = first[:, leaf.first : leaf.first + leaf.count] + np.array(leaf.start, np.int64)
        else:
            middle = (np.array(leaf.low) + np.array(leaf.high)) / 2
            numbers = np.tile(np.floor(middle) if leaf.rounded else middle, (len(mask), 1))
        arrays.append(numbers.reshape(len(mask), *leaf.shape).astype(leaf.dtype))
    return arrays
