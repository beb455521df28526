"""Metrics in Trackio."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from equipoise.trainer.monitor.logger import LoggedRun, Tracker, final_metrics, group_name, run_name
from equipoise.trainer.monitor.summary import Summary


class Trackio(Tracker):
    """A run of Trackio, kept on this machine (TRACKIO_DIR); `trackio show` shows it.

    Args:
        project: null: the environment's label.
    """

    name = "trackio"

    def __init__(self, project: str | None = None) -> None:
        self.project = project
        self._run: Any = None

    def begin(self, run: LoggedRun, known: str | None) -> str:
        import trackio

        self._project = self.project or run.config.env.label
        self._name = known or f"{run_name(run)}-{uuid.uuid4().hex[:6]}"  # a name is all it knows a run by
        self._run = trackio.init(
            project=self._project,
            name=self._name,
            group=group_name(run),
            config={key: str(x) for key, x in run.hyperparameters.items()},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return self._name

    def reached(self) -> int | None:
        import trackio

        step = trackio.SQLiteStorage.get_max_step_for_run(self._project, self._name)
        return None if step is None else int(step)

    def send(self, metrics: Mapping[str, float], env_steps: int) -> None:
        self._run.log(dict(metrics), step=env_steps)

    def finish(self, summary: Summary) -> None:
        self._run.log(final_metrics(summary), step=summary.env_steps)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
