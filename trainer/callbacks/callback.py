"""What a callback can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer
    from equipoise.trainer.monitor.summary import Summary


class Callback:
    """Does nothing. A class of yours overrides what it needs, or has some of these methods without this base.

    Of several processes each has its own, called with the same numbers. An exception ends the run, as a
    `CallbackError`, with a checkpoint of the iteration that was done.
    """

    def on_start(self, run: Trainer) -> str | None:
        """Before the first iteration, also where a run goes on; keep `run` to look at it later. Returns why
        the run should end, or None."""
        return None

    def on_iteration(self, metrics: Mapping[str, float]) -> str | None:
        """After each iteration, with its line of `metrics.jsonl`. Returns why the run should end, or None."""
        return None

    def on_evaluation(self, metrics: Mapping[str, float]) -> str | None:
        """The same after `on_iteration` where the policy was evaluated: there are `evaluation/…`."""
        return None

    def on_end(self, summary: Summary) -> None:
        """At the end of a run that is finished or interrupted, when everything is saved."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which the callback goes on when the run is resumed."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; comes before `on_start`."""


def value(metrics: Mapping[str, float], by: str | None) -> tuple[str, float]:
    """The tag and the value of what evaluations are judged by: `by`, or the score, or else the return.

    Raises `KeyError` where there is no such metric.
    """
    tag = by or ("evaluation/score" if "evaluation/score" in metrics else "evaluation/return")
    if tag not in metrics:
        there = ", ".join(name for name in metrics if name.startswith("evaluation/"))
        raise KeyError(f"{tag}: evaluations have no such metric; they have {there}")
    return tag, metrics[tag]
