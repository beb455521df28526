"""Takes pictures of an episode as it unfolds, in bounded memory and time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from PIL import Image

from equipoise.envs.protocol import BatchedEnv

Frame = np.ndarray[Any, np.dtype[np.uint8]]
"""`[height, width, 3]`."""

MOST = 300
"""Most pictures of one episode; longer episodes are shown in larger steps."""
SECONDS = 60.0
"""Most time that rendering may take in all; the rest of the episode is not shown."""
WIDTH = 480
"""Widest picture, in pixels; larger ones are scaled down at once."""


class Footage:
    """Pictures of environment 0 of `env`, evenly spread over its episode. The first one is taken here.

    Rendering errors propagate.
    """

    def __init__(self, env: BatchedEnv) -> None:
        self.frames: list[Frame] = []
        self._env = env
        self._calls, self._every, self._spent = 0, 1, 0.0
        self.take()

    def take(self) -> None:
        """Call this once for each state of the environment."""
        if self._calls % self._every == 0 and self._spent < SECONDS:
            began = time.monotonic()
            self.frames.append(_scaled_down(self._env.render(0)))
            self._spent += time.monotonic() - began
        self._calls += 1
        if len(self.frames) >= MOST:
            self.frames, self._every = self.frames[::2], 2 * self._every


def can_render(env: BatchedEnv) -> bool:
    """Whether `env` can be rendered: not a Gymnasium environment that was made without a render mode."""
    return getattr(env, "render_mode", "rgb_array") is not None


def _scaled_down(frame: Frame) -> Frame:
    height, width = frame.shape[:2]
    if width <= WIDTH:
        return frame.copy()  # it may be the renderer's own buffer
    return np.asarray(Image.fromarray(frame).resize((WIDTH, round(height * WIDTH / width))))
