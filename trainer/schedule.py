"""How long a run is, and what changes on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Schedule:
    """The length of a run in whole iterations, and its learning rate.

    Args:
        wanted: environment steps, over all environments and processes; the run takes as many or a few more.
        samples: environment steps of an iteration.
        learning_rate: at the beginning. With `anneal` it falls linearly to 0.
        steps: after which everything that changes over a run has changed; None: at its end.
        start: environment steps after which iterations of `samples` begin, above 0 where a run goes on.
    """

    wanted: int
    samples: int
    learning_rate: float
    anneal: bool
    steps: int | None = None
    start: int = 0

    def starting_at(self, env_steps: int) -> Schedule:
        """The same for a run that goes on after `env_steps`, with iterations of any size before."""
        return replace(self, start=env_steps)

    @property
    def remaining(self) -> int:
        """Iterations from `start` to the end."""
        return max(math.ceil((self.wanted - self.start) / self.samples), 0)

    @property
    def env_steps(self) -> int:
        """Where the run ends."""
        return self.start + self.remaining * self.samples

    def progress(self, env_steps: int) -> float:
        """The fraction of all changes that is done, 0 to 1."""
        return min(env_steps / (self.steps or self.env_steps), 1.0)

    def learning_rate_at(self, progress: float) -> float:
        return self.learning_rate * (1.0 - progress) if self.anneal else self.learning_rate
