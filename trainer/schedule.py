"""How long a run is, and what changes on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The length of a run in iterations of `samples` environment steps, over all environments and processes.

    `learning_rate`: at the beginning; with `anneal` it falls linearly to 0 at the end.
    """

    samples: int
    iterations: int
    learning_rate: float
    anneal: bool

    @classmethod
    def of_length(cls, env_steps: int, samples: int, learning_rate: float, anneal: bool) -> Schedule:
        """At least `env_steps`: rounded up to whole iterations."""
        return cls(samples, math.ceil(env_steps / samples), learning_rate, anneal)

    @property
    def env_steps(self) -> int:
        """Where the run ends."""
        return self.iterations * self.samples

    def progress(self, env_steps: int) -> float:
        """The fraction of the run that is done, 0 to 1."""
        return env_steps / self.env_steps

    def learning_rate_at(self, progress: float) -> float:
        return self.learning_rate * (1.0 - progress) if self.anneal else self.learning_rate
