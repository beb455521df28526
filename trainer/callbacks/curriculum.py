"""A callback that makes the environment harder on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from equipoise.trainer.callbacks.callback import Callback

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer

Stage = Mapping[str, Any]


class Curriculum(Callback):
    """Trains in environments whose arguments change on a schedule.

    Evaluations, and so the score, stay in the environment that is configured. A change makes new copies:
    their episodes begin anew. Spaces and reward names must stay the same.

    Args:
        stages: in their order, each with `at`, the fraction of the run at which it begins, and `kwargs`, of
            a Gymnasium environment as in `env.kwargs`, of another one its own arguments. What a stage does
            not name is as it was before.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        if wrong := next(self.contradictions(stages), None):
            raise ValueError(f"stages = {wrong[1]}: must be {wrong[2]}")
        self.stages = stages

    @classmethod
    def contradictions(cls, stages: Sequence[Stage]) -> Iterator[tuple[str, Any, str]]:
        starts = [stage.get("at") for stage in stages]
        numbers = [at for at in starts if isinstance(at, int | float) and 0 <= at <= 1]
        right = stages and all(
            stage.keys() == {"at", "kwargs"} and isinstance(stage["kwargs"], Mapping) for stage in stages
        )
        if not right or numbers != starts or sorted(set(numbers)) != numbers:
            wanted = "stages as {at: 0.5, kwargs: {level: 2}}, each at a later fraction of the run, 0 to 1"
            yield "stages", list(stages), wanted

    def on_start(self, run: Trainer) -> None:
        self._run = run
        for index in range(len(self.stages)):  # a wrong argument should not show after hours
            run.callbacks.environment.try_out(self._kwargs(index + 1))
        self._change(told=False)

    def on_iteration(self, metrics: Mapping[str, float]) -> str | None:
        self._change()
        return None

    def _kwargs(self, stages: int) -> dict[str, Any]:
        """Those of so many stages, the later ones first in rank."""
        return {name: x for stage in self.stages[:stages] for name, x in stage["kwargs"].items()}

    def _change(self, told: bool = True) -> None:
        run = self._run
        progress = run.schedule.progress(run.env_steps)
        begun = sum(stage["at"] <= progress for stage in self.stages)
        if run.callbacks.environment.change(self._kwargs(begun)) and told:
            named = ", ".join(f"{name}={x}" for name, x in self._kwargs(begun).items())
            run.recorder.message(f"curriculum: from {run.env_steps:,} steps on with {named}")
