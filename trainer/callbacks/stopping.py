"""Callbacks that end a run early: at a score, without improvement, after a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from equipoise.trainer.callbacks.callback import Callback, value

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer

Count = Annotated[int, Field(ge=1)]
Time = Annotated[float, Field(ge=0)]


class StopAtScore(Callback):
    """Ends the run at the first evaluation that reaches a score.

    Args:
        score: to reach.
        by: metric of evaluations; null: `evaluation/score`, or the return where there is no score.
        times: how many evaluations in a row must reach it.
    """

    def __init__(self, score: float, by: str | None = None, times: Count = 1) -> None:
        self.score, self.by, self.times = score, by, times
        self.reached = 0

    def on_evaluation(self, metrics: Mapping[str, float]) -> str | None:
        tag, found = value(metrics, self.by)
        self.reached = self.reached + 1 if found >= self.score else 0
        return f"{tag} = {found:.4g} has reached {self.score:g}" if self.reached >= self.times else None

    def state_dict(self) -> dict[str, Any]:
        return {"reached": self.reached}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reached = state["reached"]


class StopWithoutImprovement(Callback):
    """Ends the run when evaluations have not become better for a while.

    Args:
        patience: evaluations in a row without a new best that end the run.
        by: metric of evaluations; null: `evaluation/score`, or the return where there is no score.
        by_at_least: how much better than the best so far counts as better.
    """

    def __init__(self, patience: Count, by: str | None = None, by_at_least: Time = 0.0) -> None:
        self.patience, self.by, self.by_at_least = patience, by, by_at_least
        self.best, self.waited = -math.inf, 0

    def on_evaluation(self, metrics: Mapping[str, float]) -> str | None:
        tag, found = value(metrics, self.by)
        if found > self.best + self.by_at_least or self.best == -math.inf:
            self.best, self.waited = found, 0
            return None
        self.waited += 1
        if self.waited < self.patience:
            return None
        return f"{tag} has not risen above {self.best:.4g} for {self.waited} evaluations"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class StopAfter(Callback):
    """Ends the run after a time by the clock, over all sessions of the run, after the iteration at hand.

    Args:
        hours, minutes, seconds: added up.
    """

    def __init__(self, hours: Time = 0.0, minutes: Time = 0.0, seconds: Time = 0.0) -> None:
        self.limit = 3600.0 * hours + 60.0 * minutes + seconds
        self.spent, self.began = 0.0, time.monotonic()

    @classmethod
    def contradictions(cls, **keywords: float) -> Iterator[tuple[str, float, str]]:
        if sum(keywords.values()) <= 0.0:
            yield "minutes", 0.0, "above 0, or hours or seconds"

    def on_start(self, run: Trainer) -> None:
        self.began = time.monotonic()

    def on_iteration(self, metrics: Mapping[str, float]) -> str | None:
        seconds = self._seconds()
        return f"{seconds:,.0f} s of {self.limit:,.0f} s are over" if seconds >= self.limit else None

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.began

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.spent = state["seconds"]
