"""Observations of as many things as there happen to be, as a set of fixed size with a mask."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

THINGS, MASK = "things", "things_mask"
"""Parts of what takes the place of a `Sequence`; policies know a set and its mask by such names."""


class PadSequences(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Each `Sequence` of `Box` in the observation, wherever it stands, becomes `{things: [longest, F],
    things_mask: [longest]}`: F numbers of each thing, zeros after the last one, and 1 for those that exist.

    Args:
        env: the environment.
        longest: how many things there is room for.

    Raises:
        ValueError: no sequences of `Box` in the space; an observation with more than `longest` things.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], longest: int) -> None:
        super().__init__(env)
        if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
            raise ValueError(f"longest = {longest}: must be a whole number, at least 1")
        self.longest = longest
        self.observation_space = self._space(env.observation_space)
        if self.observation_space is env.observation_space:
            raise ValueError(
                f"PadSequences: no Sequence of Box in the observation space {env.observation_space}"
            )

    def observation(self, observation: Any) -> Any:
        """The same without sequences."""
        return self._padded(self.env.observation_space, observation, "observation")

    def _space(self, space: Any) -> Any:
        """`space` itself where it holds no sequence."""
        if is_sequence(space):
            low, high = (np.minimum(space.feature_space.low, 0), np.maximum(space.feature_space.high, 0))
            low, high = (np.tile(bound.reshape(1, -1), (self.longest, 1)) for bound in (low, high))
            things = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
            return spaces.Dict({THINGS: things, MASK: spaces.MultiBinary(self.longest)})
        if not isinstance(space, spaces.Dict | spaces.Tuple):
            return space
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        made: dict[Any, Any] = {key: self._space(part) for key, part in parts}
        if all(part is space.spaces[key] for key, part in made.items()):
            return space
        return spaces.Dict(made) if isinstance(space, spaces.Dict) else spaces.Tuple(list(made.values()))

    def _padded(self, space: Any, value: Any, path: str) -> Any:
        if is_sequence(space):
            return self._set(math.prod(space.feature_space.shape), value, path)
        if isinstance(space, spaces.Dict) and isinstance(value, Mapping):
            parts = {
                key: self._padded(space[key], value[key], f"{path}[{key!r}]")
                for key in space.spaces
                if key in value
            }
            return {**value, **parts}
        if isinstance(space, spaces.Tuple) and isinstance(value, tuple | list) and len(value) == len(space):
            return tuple(self._padded(space[i], part, f"{path}[{i}]") for i, part in enumerate(value))
        return value

    def _set(self, features: int, value: Any, path: str) -> dict[str, Any]:
        count = len(value)
        if count > self.longest:
            raise ValueError(
                f"{path} holds {count} things; PadSequences has room for longest = {self.longest}"
            )
        things = np.zeros((self.longest, features), np.float32)
        if count:
            things[:count] = np.asarray(value, np.float32).reshape(count, features)
        return {THINGS: things, MASK: (np.arange(self.longest) < count).astype(np.int8)}


def is_sequence(space: Any) -> bool:
    """Whether `PadSequences` makes a set of it."""
    return isinstance(space, spaces.Sequence) and isinstance(space.feature_space, spaces.Box)
