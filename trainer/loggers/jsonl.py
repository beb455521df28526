"""Metrics as a file of JSON lines."""

from __future__ import annotations

from collections.abc import Mapping

from equipoise.trainer.monitor.logger import LoggedRun, Logger
from equipoise.trainer.monitor.summary import MetricsFile
from equipoise.trainer.system.run_folder import METRICS


class Jsonl(Logger):
    """`metrics.jsonl`, which `Run.metrics`, comparisons and reports read."""

    def start(self, run: LoggedRun) -> None:
        self._file = MetricsFile(run.folder / METRICS, run.iteration or None)

    def scalars(self, metrics: Mapping[str, float], iteration: int, env_steps: int) -> None:
        self._file.write(iteration, env_steps, metrics)

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()
