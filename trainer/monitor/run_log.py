"""Everything that a run shows and writes while it goes on, behind one door."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from equipoise.trainer.configuration.constructors import find_class
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.monitor import layout
from equipoise.trainer.monitor.gif import encode_gif, shrink
from equipoise.trainer.monitor.logger import LoggedRun, Logger
from equipoise.trainer.monitor.progress import Progress
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.run_folder import SUMMARY

PLAIN_LINES = 50
"""How many lines a run prints where there is no terminal to redraw."""
FRAMES_PER_SECOND = 8.0


Hyperparameter = bool | int | float | str | None


class LoggerError(RuntimeError):
    """A logger cannot begin; the message says which one and why."""


class RunLog:
    """Terminal, loggers, `summary.json` and `videos/` of one run; a context manager.

    Args:
        run_dir: holds `config.yaml` already.
        iteration, env_steps: where the run begins, above 0 when it is resumed.
        total_env_steps: where it ends.
        iterations: how many there are in all.

    Raises:
        LoggerError: a logger cannot begin.
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
        self._told: set[str] = set()
        self._progress = Progress(
            total_env_steps,
            title=f"{config.env.label} · {config.preset} · seed {config.seed}",
            start_env_steps=env_steps,
            every=math.ceil(iterations / PLAIN_LINES),
        )
        settings, typed = _hyperparameters(config), [key for key, _ in _typed(config)]
        run = LoggedRun(config, run_dir, iteration, env_steps, _references(config), settings, typed)
        self._loggers: list[Logger] = []
        for section in config.loggers:
            try:
                logger: Logger = find_class(section.target)(**section.keywords)
                self._loggers.append(logger)
                logger.start(run)
            except Exception as error:  # of other people's code
                self._each("close")
                name = section.target.rpartition(".")[2]
                raise LoggerError(f"logger {name} cannot begin: {type(error).__name__}: {error}") from error

    def __enter__(self) -> RunLog:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        self._each("close")

    def _each(self, hook: str, *arguments: Any) -> None:
        """Call all loggers. Raises the first `OSError` of one that writes into the run folder, at the end."""
        errors: list[OSError] = []
        for logger in self._loggers:
            try:
                if (method := getattr(logger, hook, None)) is not None:
                    method(*arguments)
            except Exception as error:  # of other people's code
                if isinstance(error, OSError) and not getattr(logger, "elsewhere", False):
                    errors.append(error)
                elif (name := f"{type(logger).__name__}: {hook}") not in self._told:
                    self._told.add(name)
                    what = f"{type(error).__name__}: {error}"
                    self.message(f"WARNING: logger {name} raised {what}; the run goes on without it")
        if errors:
            raise errors[0]

    def message(self, text: str) -> None:
        self._progress.message(text)

    def reference(self, tag: str, value: float) -> None:
        """A constant line that charts compare with, from now on."""
        self._each("reference", tag, value)

    def record(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """The metrics of an iteration, by tag. Raises `OSError` after the metrics were taken in: what a full
        disk has no room for is written later."""
        self._progress.update(iteration, env_steps, metrics)
        self._each("scalars", metrics, iteration, env_steps)

    def evaluation(self, metrics: Mapping[str, float], env_steps: int) -> None:
        """An evaluation, by tag, that is in no iteration's metrics."""
        self._each("evaluation", metrics, env_steps)

    def film(self, frames: Sequence[np.ndarray[Any, np.dtype[np.uint8]]], env_steps: int) -> None:
        """Frames `[height, width, 3]` of an episode, as a GIF on disk and on the Images page."""
        stacked = shrink(np.stack(frames))
        self._each("film", "episode/deterministic_policy", stacked, FRAMES_PER_SECOND, env_steps)
        folder = self.run_dir / "videos"
        folder.mkdir(exist_ok=True)
        (folder / f"steps_{env_steps:09d}.gif").write_bytes(encode_gif(stacked, FRAMES_PER_SECOND))

    def sync(self) -> None:
        """Everything so far is on the disk; to be called before a checkpoint is written."""
        self._each("sync")

    def finish(self, summary: Summary) -> None:
        """Write `summary.json`, and have all loggers end."""
        summary.write(self.run_dir / SUMMARY)
        self._each("finish", summary)


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


def _hyperparameters(config: Config) -> dict[str, Hyperparameter]:
    """Every setting by its key, so that runs of any sweep can be told apart; `env` is the label."""
    settings = config.plain()
    del settings["resume"]
    # Groups that were chosen, such as `batch=fast_prototyping`, are no settings by themselves.
    return dict(_typed(config)) | dict(_leaves(settings)) | {"env": config.env.label}


def _typed(config: Config) -> list[tuple[str, str]]:
    """Key and value of what was typed; what was deleted has no value."""
    pairs = (argument.lstrip("+").partition("=") for argument in config.typed if "=" in argument)
    return [(key, value) for key, _, value in pairs if not key.startswith(("~", "hydra", "resume"))]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Hyperparameter]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(value) if isinstance(value, list | tuple) else value
