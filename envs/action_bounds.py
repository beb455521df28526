"""Bounds for the parameters of an action space that has none, in which a policy can act."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from equipoise.envs.action_leaves import MOST_WHOLE_NUMBERS
from equipoise.envs.older_gymnasium import OneOfSpace

ActionBounds: TypeAlias = Annotated[
    Sequence[float] | Mapping[str, Sequence[float]],
    "two numbers [low, high] or {name: [low, high]}",
]


def bounded(space: gymnasium.Space[Any], bounds: ActionBounds) -> gymnasium.Space[Any]:
    """A part of `space`: that between `bounds`.

    Args:
        space: of the actions of one environment.
        bounds: `[low, high]` for every number without bounds, or with too wide ones; where it has one that is
            nearer, that stays. Or for all numbers of some parts by name: `{aim: [-1, 1]}`, `{arm.force: …}`
            for a nested one, `{action: …}` where the action is a single box.

    Raises:
        ValueError: no pair of numbers, a name that is no box, or bounds between which there is no action.
    """
    named = bounds if isinstance(bounds, Mapping) else {"": bounds}
    pairs = {name: _pair(name, pair) for name, pair in named.items()}
    boxes: list[str] = []
    changed: set[str] = set()
    narrowed = _narrowed(space, (), pairs, boxes, changed)
    if unknown := sorted(set(pairs) - changed):
        what = (
            f"{unknown[0]!r} is no box of the action" if unknown[0] else "no box of the action is unbounded"
        )
        raise ValueError(f"action_bounds: {what}; its boxes are {boxes}")
    return narrowed


def _pair(name: str, pair: Any) -> tuple[float, float]:
    try:
        low, high = map(float, pair)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        where = f" of {name!r}" if name else ""
        raise ValueError(f"action_bounds{where} is {pair!r}; give [low, high], two numbers with low < high")
    return low, high


def _narrowed(
    space: gymnasium.Space[Any],
    keys: tuple[object, ...],
    pairs: Mapping[str, tuple[float, float]],
    boxes: list[str],
    changed: set[str],
) -> gymnasium.Space[Any]:
    if isinstance(space, spaces.Dict):
        parts = {
            key: _narrowed(part, (*keys, key), pairs, boxes, changed) for key, part in space.spaces.items()
        }
        return spaces.Dict(OrderedDict(parts))
    if isinstance(space, spaces.Tuple | OneOfSpace):
        inner = [_narrowed(part, (*keys, i), pairs, boxes, changed) for i, part in enumerate(space.spaces)]
        return spaces.Tuple(inner) if isinstance(space, spaces.Tuple) else OneOfSpace(inner)
    if not isinstance(space, spaces.Box):
        return space
    name = ".".join(map(str, keys)) or "action"
    boxes.append(name)
    where = np.ones(space.shape, bool) if name in pairs else _unbounded(space)
    key = name if name in pairs else ""
    if key not in pairs or not where.any():
        return space
    changed.add(key)
    return _between(space, name, pairs[key], where)


def _unbounded(box: spaces.Box) -> Any:
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    most = MOST_WHOLE_NUMBERS if np.dtype(box.dtype).kind in "iub" else np.finfo(np.float32).max
    with np.errstate(over="ignore", invalid="ignore"):
        return ~(high - low <= most)


def _between(box: spaces.Box, name: str, pair: tuple[float, float], where: Any) -> spaces.Box:
    dtype: Any = np.dtype(box.dtype)
    ends = (math.ceil(pair[0]), math.floor(pair[1])) if dtype.kind in "iub" else pair
    low = np.where(where, np.maximum(box.low, ends[0]), box.low)
    high = np.where(where, np.minimum(box.high, ends[1]), box.high)
    if (low > high).any():
        raise ValueError(f"action_bounds: {list(pair)} holds no action of {name}, which is {box}")
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
