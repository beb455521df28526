"""`equipoise.train` and the `Run` that it returns."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.envs.process_wide import preserved
from equipoise.trainer.configuration.errors import ConfigError, shown
from equipoise.trainer.configuration.imports import foreign
from equipoise.trainer.configuration.keywords import MakeEnv, changed, configure
from equipoise.trainer.configuration.roles import CALLBACK
from equipoise.trainer.continuation import AUTO, begun, gone_on
from equipoise.trainer.monitor.progress import quiet
from equipoise.trainer.session import train as train_plan
from equipoise.trainer.system.run_folder import CHECKPOINTS, METRICS, SUMMARY, RunFolder, is_run

if TYPE_CHECKING:
    from equipoise.acting import Policy


def train(
    environment: str | MakeEnv,
    *,
    folder: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    progress: bool = True,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> Run:
    """Train a policy and return the run.

    A run is written to a folder of its own, as by the command `equipoise train`: metrics, TensorBoard events,
    checkpoints, a summary. Its settings are those of the command, too (`equipoise train --help` lists them),
    by their last name where only one has it:

    >>> run = equipoise.train("CartPole-v1", total_env_steps=2048, seed=3, learning_rate=1e-3)
    >>> run = equipoise.train(MyEnv, preset="conservative", num_envs=16, kwargs={"level": 2})
    >>> run = equipoise.train("goal", overrides={"trainer.gradient_scaling.scaling_momentum": 0.95})

    Args:
        environment: an id that Gymnasium knows (`"module:Name-v0"` imports `module` first), the name of one
            of this package's environments (`"topology_spawn"`) or of your `conf/env/*.yaml`, a class, or
            anything else that makes a Gymnasium environment when called (with `kwargs=` as keywords).
        folder: where the run is written; it must be empty or not exist yet. None: a new one below `runs/`.
        overrides: more settings, as a dictionary with dotted names or as text, `["trainer.gamma=0.9"]`.
        progress: whether to show progress and, at the end, a table.
        callbacks: watch the run or end it early: objects of `equipoise.Callback`, or sections with a
            `_target_` as in the configuration. Objects are not saved with the configuration: pass them again
            when you resume the run.
        settings: `preset=`, `seed=`, `device=`, and any other setting. A section can be a dictionary:
            `policy={"hidden_sizes": [128, 128]}`. `resume="auto"` continues what is in `folder`;
            `init_from=other.folder` starts from the weights of another run, as far as they fit.

    Raises:
        equipoise.ConfigError: a setting, the environment's spaces or the folder cannot be used; the message
            names it and what is allowed.
        KeyboardInterrupt: Ctrl-C, once the current iteration is done; what was learned is in the folder.
        Exception: whatever else ended training, such as an environment that fails.
    """
    sections, objects = _sorted(callbacks)
    if sections:
        settings["callbacks"] = sections
    composed, unnamed = configure(environment, overrides, settings)
    place = RunFolder(composed.run_dir if folder is None else folder)
    if composed.config.resume == AUTO and folder is None:
        raise ConfigError("resume = auto: needs a folder that stays the same: folder=…")
    with _as_from_python(progress):
        with begun(composed.config, place, folder is None and composed.dated) as plan:
            train_plan(plan, unnamed, objects)
        named = [name.partition(":")[0] for name in foreign(composed.config.plain())]
        return Run(plan.folder.path, unnamed, named)


class Run:
    """A run folder: how it went, its metrics, and the policy that it trained.

    >>> run = equipoise.Run("runs/CartPole-v1-even/2026-01-01_12-00-00-s1")
    >>> run.summary["status"], run.summary["return_mean"]
    >>> plt.plot(run.metrics["env_steps"], run.metrics["episode/return"])

    Args:
        folder: of a run, trained from Python or by the command.
        env, allow: see `load`. A run that `train` returned knows them.
    """

    def __init__(self, folder: str | Path, env: MakeEnv | None = None, allow: Collection[str] = ()) -> None:
        self.folder = Path(folder)
        self.env, self.allow = env, tuple(allow)
        if not is_run(self.folder):
            raise ConfigError(f"{self.folder} is no run folder: it has no config.yaml of a run")

    def __repr__(self) -> str:
        try:
            status, mean = self.summary["status"], self.summary["return_mean"]
        except FileNotFoundError:
            return f"<Run {self.folder}: not ended>"
        return f"<Run {self.folder}: {status}, return {'n/a' if mean is None else format(mean, '.4g')}>"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds, with None where the run has no such number.

        `status` is `finished`, `interrupted` or `failed`; `return_mean`, `return_std`, `normalized_score` and
        `success_rate` are of deterministic episodes at the end, `sampled_return_mean` and so on of sampled
        ones, and `random_return_mean` of random actions.
        """
        found: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        return found

    @cached_property
    def metrics(self) -> Mapping[str, NDArray[np.float64]]:
        """The metrics as columns: `metrics["episode/return"]` has a number for each iteration.

        `iteration` and `env_steps` number them; a metric that an iteration lacks is NaN.
        """
        rows = [json.loads(line) for line in (self.folder / METRICS).read_text().splitlines()]
        names = dict.fromkeys(name for row in rows for name in row)
        return _Columns({name: np.array([row.get(name) for row in rows], np.float64) for name in names})

    def load(self, checkpoint: Literal["last", "best"] = "last", device: str = "auto") -> Policy:
        """The trained policy: the last one, whose return the summary states, or the best one evaluated."""
        from equipoise.acting import load

        return load(self.folder / CHECKPOINTS / f"{checkpoint}.pt", self.env, device, self.allow)

    def resume(
        self,
        *,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        progress: bool = True,
        callbacks: Sequence[Any] | None = None,
        **settings: Any,
    ) -> Run:
        """Continue the run in its folder, and return it.

        `callbacks` are as in `train`; None: those of the run's configuration.

        >>> run = run.resume(total_env_steps=100_000)

        Raises:
            equipoise.ConfigError: there is nothing to continue, or a setting that cannot be changed.
        """
        sections, objects = _sorted(callbacks or ())
        if callbacks is not None and (sections or not objects):
            settings["callbacks"] = sections
        changes = changed(overrides, settings)
        with _as_from_python(progress):
            with gone_on(self.folder, changes, allow=self.allow) as plan:
                train_plan(plan, self.env, objects)
            return Run(plan.folder.path, self.env, self.allow)


def _sorted(callbacks: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The callbacks that are sections of a configuration, and those that are objects."""
    if isinstance(callbacks, str | Mapping) or not isinstance(callbacks, Sequence):
        raise ConfigError(f"callbacks = {shown(callbacks)}: must be a list of callbacks")
    objects = [callback for callback in callbacks if not isinstance(callback, Mapping)]
    for callback in objects:
        if isinstance(callback, type) or not any(hasattr(callback, name) for name in CALLBACK.methods):
            wanted = f"an object with a method {' or '.join(CALLBACK.methods)}"
            raise ConfigError(f"callbacks: {shown(callback)} must be {wanted}")
    return [callback for callback in callbacks if isinstance(callback, Mapping)], objects


@contextmanager
def _as_from_python(progress: bool) -> Iterator[None]:
    """A context for a run that restores PyTorch's threads and all random states afterwards.

    Messages that name the command line's key for the folder name the argument instead.
    """
    threads = torch.get_num_threads()
    token = quiet.set(not progress)
    try:
        with preserved():
            yield
    except ConfigError as error:
        problems = [p.replace("hydra.run.dir", "folder") if isinstance(p, str) else p for p in error.problems]
        raise ConfigError(*problems) from error.__cause__
    finally:
        quiet.reset(token)
        torch.set_num_threads(threads)


class _Columns(dict[str, NDArray[np.float64]]):
    def __missing__(self, name: str) -> NDArray[np.float64]:
        near = difflib.get_close_matches(name, self, n=3, cutoff=0.4)
        raise KeyError(f"{name}: there is no such metric; there are {', '.join(near or sorted(self))}")
