"""Metrics, charts, hyperparameters and films in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping

from equipoise.trainer.monitor.gif import Frames
from equipoise.trainer.monitor.logger import LoggedRun, Logger
from equipoise.trainer.monitor.summary import Summary, git_revision
from equipoise.trainer.monitor.tensorboard import TensorBoardLog


class TensorBoard(Logger):
    """Event files in the run folder; `equipoise dashboard` shows them."""

    def start(self, run: LoggedRun) -> None:
        self._log = TensorBoardLog(run.folder, run.env_steps, run.references)
        self._log.config((run.folder / "config.yaml").read_text("utf-8"), git_revision())
        self._log.start(run.hyperparameters, run.typed)

    def reference(self, tag: str, value: float) -> None:
        self._log.reference(tag, value)

    def scalars(self, metrics: Mapping[str, float], iteration: int, env_steps: int) -> None:
        self._log.scalars(metrics, env_steps)
        self._log.flush_when_due()

    def evaluation(self, metrics: Mapping[str, float], env_steps: int) -> None:
        self._log.evaluation(metrics, env_steps)

    def film(self, tag: str, frames: Frames, fps: float, env_steps: int) -> None:
        self._log.gif(tag, frames, fps, env_steps)

    def sync(self) -> None:
        self._log.flush()

    def finish(self, summary: Summary) -> None:
        if summary.status == "finished":
            self._log.finish(summary)
        self._log.flush()

    def close(self) -> None:
        self._log.close()
