"""Metrics and settings in MLflow."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from equipoise.trainer.monitor.logger import LoggedRun, Tracker, final_metrics, run_name
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.lock import FolderLock

_BATCH = 100
"""What MLflow takes at once: 1,000 metrics, but 100 parameters."""
_LONGEST = 6_000
_CREATION = 120.0
"""Seconds that another process may take to make the database."""


class Mlflow(Tracker):
    """A run of MLflow, in an experiment.

    Args:
        experiment: null: the environment's label.
        tracking_uri: of the server or database; null: MLFLOW_TRACKING_URI, or `mlflow.db` in the current
            folder, which `mlflow ui --backend-store-uri sqlite:///mlflow.db` shows.
    """

    name = "mlflow"

    def __init__(self, experiment: str | None = None, tracking_uri: str | None = None) -> None:
        self.experiment, self.tracking_uri = experiment, tracking_uri
        self._client: Any = None
        self._id: str | None = None

    def begin(self, run: LoggedRun, known: str | None) -> str:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        uri = (
            self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd()}/mlflow.db"
        )
        with _alone(uri):
            self._client = MlflowClient(uri)
            name = self.experiment or run.config.env.label
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                with contextlib.suppress(MlflowException):  # another run has just made it
                    self._client.create_experiment(name)
                experiment = self._client.get_experiment_by_name(name)
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._id = known
            return known
        self._id = self._client.create_run(experiment.experiment_id, run_name=run_name(run)).info.run_id
        params = [Param(_admitted(key), str(x)[:_LONGEST]) for key, x in run.hyperparameters.items()]
        for first in range(0, len(params), _BATCH):
            self._client.log_batch(self._id, params=params[first : first + _BATCH])
        self._client.set_tag(self._id, "folder", str(run.folder.resolve()))
        return str(self._id)

    def send(self, metrics: Mapping[str, float], env_steps: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[Metric(_admitted(tag), x, now, env_steps) for tag, x in metrics.items()]
        )

    def finish(self, summary: Summary) -> None:
        self.send(final_metrics(summary), summary.env_steps or 0)
        self._client.set_terminated(self._id, "FINISHED" if summary.status == "finished" else "KILLED")
        self._client = None

    def close(self) -> None:
        if self._client is not None and self._id is not None:
            self._client.set_terminated(self._id, "FAILED")


def _admitted(name: str) -> str:
    """`name` with what MLflow does not take replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Around the first use of a database: processes that make one file together break it for good."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        yield
        return
    folder = path.with_name(f".{path.name}.making")
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder, _CREATION):
        yield
