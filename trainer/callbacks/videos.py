"""A callback that films the policy while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from equipoise.trainer.callbacks.callback import Callback

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer


class SaveVideos(Callback):
    """Films an episode after evaluations, as every run does at its end: `videos/` and the Images page.

    Args:
        every: evaluations from one film to the next.
    """

    def __init__(self, every: Annotated[int, Field(ge=1)] = 1) -> None:
        self.every, self.evaluations = every, 0
        self._told = False

    def on_start(self, run: Trainer) -> None:
        self._run = run

    def on_evaluation(self, metrics: Mapping[str, float]) -> str | None:
        self.evaluations += 1
        if self.evaluations % self.every == 0 and not self._run.recorder.film(self._run) and not self._told:
            self._told = True
            self._run.recorder.message(
                "SaveVideos: this environment draws no pictures (Gymnasium: env.render_mode=rgb_array)"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"evaluations": self.evaluations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.evaluations = state["evaluations"]
