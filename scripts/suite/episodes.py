"""What is measured of every learner in the same way: episodes in training and of the trained policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

BINS = 20
"""Points of a learning curve."""

Act = Callable[[Any, dict[str, Any], bool], Any]
"""`act(observation, info, deterministic)`: an action in the environment's own structure."""


class Found(NamedTuple):
    """One run of one learner."""

    curve: list[float]
    """`[BINS]`: mean return of the training episodes that ended in each part of the run."""
    sampled: list[float]
    deterministic: list[float]
    """Returns of the trained policy's episodes."""
    random: list[float]
    """Returns of uniformly random actions."""
    seconds: float
    """CPU time of training."""
    commit: str = ""
    """The revision that was trained."""


def binned(steps: Sequence[float], returns: Sequence[float], total: int) -> list[float]:
    """Mean of the returns that came at `steps` in each of `BINS` equal parts of a run of `total` steps.

    A part in which no episode ended has the value of the one before it; at the beginning, of the next one.
    """
    part = np.minimum(np.asarray(steps, np.float64) / total * BINS, BINS - 1e-9).astype(int)
    values = np.asarray(returns, np.float64)
    means = [float(values[part == i].mean()) if (part == i).any() else None for i in range(BINS)]
    last = next((mean for mean in means if mean is not None), float("nan"))
    curve = []
    for mean in means:
        last = last if mean is None else mean
        curve.append(last)
    return curve


def play(env: gymnasium.Env[Any, Any], act: Act, deterministic: bool, episodes: int) -> list[float]:
    """The returns of `episodes` episodes, the same starts for everybody."""
    returns = []
    for episode in range(episodes):
        observation, info = env.reset(seed=1_000_000 + episode)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, info = env.step(act(observation, info, deterministic))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns
