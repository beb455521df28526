"""How long a run is, and what changes on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Schedule:
    """The length of a run in whole iterations, and its learning rate.

    Args:
        wanted: environment steps, over all environments and processes, rounded up to whole iterations.
        samples: environment steps of an iteration.
        learning_rate: at the start. With `anneal` it falls linearly to 0.
        steps: when all schedules end, in environment steps; None: at the end of the run.
        start: environment steps already taken, with iterations of any size, when the run was resumed.
    """

    wanted: int
    samples: int
    learning_rate: float
    anneal: bool
    steps: int | None = None
    start: int = 0

    def starting_at(self, env_steps: int) -> Schedule:
        """The same schedule for a run that is resumed after `env_steps`, whatever its iterations were."""
        return replace(self, start=env_steps)

    @property
    def remaining(self) -> int:
        """Iterations from `start` to the end."""
        return max(math.ceil((self.wanted - self.start) / self.samples), 0)

    @property
    def env_steps(self) -> int:
        """Environment steps at which the run ends."""
        return self.start + self.remaining * self.samples

    def progress(self, env_steps: int) -> float:
        """The fraction of all schedules that is done, 0 to 1."""
        return min(env_steps / (self.steps or self.env_steps), 1.0)

    def learning_rate_at(self, progress: float) -> float:
        return self.learning_rate * (1.0 - progress) if self.anneal else self.learning_rate
