"""Numbers in the place of arrays of one, for environments that take no others."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from equipoise.envs.older_gymnasium import OneOfSpace


def with_numbers(space: gymnasium.Space[Any], action: Any) -> Any:
    """`action` with a number for each `Box` of one entry; the very same object if it has none."""
    if isinstance(space, spaces.Box):
        return action.item() if isinstance(action, np.ndarray | np.generic) and action.size == 1 else action
    if isinstance(space, spaces.Dict):
        parts = {key: with_numbers(part, action[key]) for key, part in space.spaces.items()}
        return parts if any(parts[key] is not action[key] for key in parts) else action
    if isinstance(space, spaces.Tuple):
        listed = tuple(with_numbers(part, action[i]) for i, part in enumerate(space.spaces))
        return listed if any(a is not b for a, b in zip(listed, action, strict=True)) else action
    if isinstance(space, OneOfSpace):
        held = with_numbers(space[action[0]], action[1])
        return action if held is action[1] else (action[0], held)
    return action
