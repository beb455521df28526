"""Finds out that episodes have no end, long before an evaluation waits for one."""

from __future__ import annotations

import time
from collections.abc import Mapping

STEPS = 10_000
"""Of each environment without an end of an episode, after which one is not to be expected. The longest limit
that is in common use is that of Atari: 27,000 steps, but hardly an episode takes them."""
SECONDS = 120.0


class EndlessEpisodes:
    """Watches the episodes of a session; its text tells what to do.

    `start`: steps of each environment before it.
    """

    def __init__(self, start: int = 0) -> None:
        self._began, self._start = time.monotonic(), start
        self._steps = 0
        self._done = False

    def found(self, steps: int, metrics: Mapping[str, float]) -> bool:
        """Whether it is time to say so, once. `steps`: of each environment since the beginning of the run;
        `metrics`: of the iteration just done."""
        self._steps = steps - self._start
        self._done = self._done or "episode/length" in metrics
        if self._done or (self._steps < STEPS and time.monotonic() - self._began < SECONDS):
            return False
        self._done = True
        return True

    def __str__(self) -> str:
        return (
            f"no episode has ended in {self._steps:,} steps of each environment. If episodes can go on for "
            "ever, set a time limit: max_episode_steps where the environment is registered (or in "
            "env.kwargs), or gymnasium.wrappers.TimeLimit"
        )
