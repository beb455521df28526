"""Small tasks in which an observation does not tell everything: what was seen before has to be remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Columns(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Shows some entries of a vector alone: `env.wrappers=[{_target_: …Columns, keep: [0, 2]}]`.

    Args:
        env: with a `Box` of one dimension as its observation space.
        keep: which entries, counted from 0.

    Raises:
        ValueError: there is no such entry, or no vector.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], keep: Sequence[int]) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"Columns: needs a vector as observation; {space} is none")
        if not keep or not all(0 <= column < space.shape[0] for column in keep):
            raise ValueError(f"keep = {list(keep)}; allowed are columns 0 to {space.shape[0] - 1}")
        self.keep = np.array(keep)
        self.observation_space = spaces.Box(space.low[self.keep], space.high[self.keep], dtype=np.float32)

    def observation(self, observation: Any) -> Floats:
        """The entries that are kept."""
        shown: Floats = np.asarray(observation, np.float32)[self.keep]
        return shown


class Aliased(gymnasium.Env[Any, Any]):
    """Five places in a row, with the goal in the middle. Those beside it look alike and want opposite moves:
    who remembers where the episode began gets 0.9, the best without a memory tosses a coin."""

    observation_space = spaces.Discrete(4)
    action_space = spaces.Discrete(2)
    _looks = (0, 1, 2, 1, 3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        """Begin at either end."""
        super().reset(seed=seed)
        self._place = int(self.np_random.choice([0, 4]))
        return self._looks[self._place], {}

    def step(self, action: int) -> tuple[int, SupportsFloat, bool, bool, dict[str, Any]]:
        """Go left (0) or right (1)."""
        self._place = int(np.clip(self._place + (1 if action else -1), 0, 4))
        done = self._place == 2
        return self._looks[self._place], 1.0 if done else -0.1, done, False, {"is_success": done}


class TMaze(gymnasium.Env[Floats, Any]):
    """A corridor with a sign at its beginning, which says where to turn at its end (Bakker, "Reinforcement
    learning with long short-term memory", 2002).

    Seen are the sign, at the first place alone (-1 or 1, else 0), and whether this is the end. Forward is 0,
    left 1, right 2; the right turn at the end pays 1, the wrong one 0, and each other step -1/length.

    Args:
        length: of the corridor, in steps.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, length: int = 10) -> None:
        self._length = length

    def _seen(self) -> Floats:
        sign = self._sign if self._place == 0 else 0
        return np.array([sign, self._place == self._length], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Floats, dict[str, Any]]:
        """Draw the sign."""
        super().reset(seed=seed)
        self._place, self._sign = 0, int(self.np_random.choice([-1, 1]))
        return self._seen(), {}

    def step(self, action: int) -> tuple[Floats, SupportsFloat, bool, bool, dict[str, Any]]:
        """Move; turns before the end lead nowhere."""
        at_end = self._place == self._length
        if at_end and action != 0:
            right = (action == 2) == (self._sign == 1)
            return self._seen(), float(right), True, False, {"is_success": right}
        if action == 0 and not at_end:
            self._place += 1
        return self._seen(), -1.0 / self._length if at_end or action != 0 else 0.0, False, False, {}


gymnasium.register("Aliased-v0", f"{__name__}:Aliased", max_episode_steps=30)
gymnasium.register("TMaze-v0", f"{__name__}:TMaze", max_episode_steps=40)
