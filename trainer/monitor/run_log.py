"""Everything that a run shows and writes while it goes on, behind one door."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.monitor import layout
from equipoise.trainer.monitor.gif import encode_gif, shrink
from equipoise.trainer.monitor.progress import Progress
from equipoise.trainer.monitor.summary import MetricsFile, Summary, git_revision
from equipoise.trainer.monitor.tensorboard import TensorBoardLog
from equipoise.trainer.system.run_folder import SUMMARY

PLAIN_LINES = 50
"""How many lines a run prints where there is no terminal to redraw."""
FRAMES_PER_SECOND = 8.0


class RunLog:
    """Terminal, TensorBoard, `metrics.jsonl`, `summary.json` and `videos/` of one run; a context manager.

    Args:
        run_dir: holds `config.yaml` already.
        iteration, env_steps: where the run begins, above 0 when it is resumed.
        total_env_steps: where it ends.
        iterations: how many there are in all.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        iteration: int,
        env_steps: int,
        total_env_steps: int,
        iterations: int,
    ) -> None:
        self.run_dir = run_dir
        resumed = iteration > 0
        self._metrics = MetricsFile(run_dir / "metrics.jsonl", iteration if resumed else None)
        self._tensorboard = TensorBoardLog(run_dir, env_steps, _references(config))
        self._tensorboard.config((run_dir / "config.yaml").read_text(), git_revision())
        self._tensorboard.start(_hyperparameters(config))
        self._progress = Progress(
            total_env_steps,
            title=f"{config.env.label} · {config.preset} · seed {config.seed}",
            start_env_steps=env_steps,
            every=math.ceil(iterations / PLAIN_LINES),
        )

    def __enter__(self) -> RunLog:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        self._metrics.close()
        self._tensorboard.close()

    def message(self, text: str) -> None:
        self._progress.message(text)

    def record(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """The metrics of an iteration, by tag. Raises `OSError` after the metrics were taken in: what a full
        disk has no room for is written later."""
        self._progress.update(iteration, env_steps, metrics)
        self._tensorboard.scalars(metrics, env_steps)
        self._metrics.write(iteration, env_steps, metrics)
        self._tensorboard.flush_when_due()

    def film(self, frames: Sequence[np.ndarray[Any, np.dtype[np.uint8]]], env_steps: int) -> None:
        """Frames `[height, width, 3]` of an episode, as a GIF on disk and on the Images page."""
        stacked = shrink(np.stack(frames))
        self._tensorboard.gif("episode/deterministic_policy", stacked, FRAMES_PER_SECOND, env_steps)
        folder = self.run_dir / "videos"
        folder.mkdir(exist_ok=True)
        (folder / f"steps_{env_steps:09d}.gif").write_bytes(encode_gif(stacked, FRAMES_PER_SECOND))

    def sync(self) -> None:
        """Everything so far is on the disk; to be called before a checkpoint is written."""
        self._metrics.sync()
        self._tensorboard.flush()

    def finish(self, summary: Summary) -> None:
        """Write `summary.json`, and for a run that is complete its end in TensorBoard."""
        summary.write(self.run_dir / SUMMARY)
        if summary.status == "finished":
            self._tensorboard.finish(summary)
        self._tensorboard.flush()


def _references(config: Config) -> dict[str, float]:
    """The constant lines that charts compare with."""
    entropy = config.stages.get("entropy_regularization")
    thresholds = entropy.keywords if entropy is not None else {}
    lines = {
        layout.BALANCED: 1.0,
        layout.MIN_DISCRETE_ENTROPY: thresholds.get("min_entropy_threshold"),
        layout.MIN_CONTINUOUS_ENTROPY: thresholds.get("min_continuous_entropy"),
    }
    return {tag: value for tag, value in lines.items() if value is not None}


def _hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    scaling = config.stages.get("gradient_scaling")
    keywords = scaling.keywords if scaling is not None else {}
    plain = {name: value for name, value in keywords.items() if isinstance(value, bool | int | float | str)}
    return {"env": config.env.label, "preset": config.preset, "seed": config.seed, **plain}
