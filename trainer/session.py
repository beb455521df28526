"""Carries out a plan: builds the run, trains to its end, prints how it went."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.continuation import Plan
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.run_folder import SUMMARY

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer

# torch takes seconds to import: only once there is something to build.


def train(
    plan: Plan, environment: Callable[..., Any] | None = None, callbacks: Sequence[Any] = ()
) -> Summary:
    """Run to the end and print a closing table. Returns the summary of the run.

    `environment`: makes a single Gymnasium environment, in place of the one that the configuration names.
    `callbacks`: in addition to those that the configuration names.

    Raises:
        ConfigError: the plan cannot be carried out.
        KeyboardInterrupt: a signal ended the run; what was learned is saved.
        Exception: one of `run_errors`: the run began and failed.
    """
    from equipoise.trainer.build import find_device
    from equipoise.trainer.monitor.progress import closing_table, quiet
    from equipoise.trainer.system import distributed
    from equipoise.trainer.system.interruption import Interrupted

    for notice in plan.notices if os.environ.get("RANK", "0") == "0" and not quiet.get() else ():
        print(notice, file=sys.stderr)
    if plan.finished:
        return Summary.read(plan.folder.path / SUMMARY)
    with distributed.processes(cuda=find_device(plan.config.device) == "cuda"):
        with closing(built(plan, environment, callbacks)) as trainer:
            summary = trainer.train()
        if distributed.rank() == 0:
            closing_table(summary, plan.folder.path)
    if trainer.interrupted_by:
        raise Interrupted(trainer.interrupted_by)  # through Hydra too: a sweep must not start its next job
    return summary


def run_errors(error: BaseException) -> tuple[type[BaseException], ...]:
    """The classes of errors that can end a run; `error` may be one of them."""
    if not isinstance(error, Exception):
        return ()
    from equipoise.envs.gymnasium_adapter.guard import EnvError
    from equipoise.trainer.calling import CallbackError
    from equipoise.trainer.diagnosis import DivergenceError, NoGradientError, NonFiniteError
    from equipoise.trainer.monitor.run_log import LoggerError
    from equipoise.trainer.process_state import OutOfStepError
    from equipoise.trainer.system.checkpoint import CheckpointError
    from equipoise.trainer.system.distributed import ElsewhereError, ProcessLostError
    from equipoise.trainer.system.lock import LockedError

    of_several_processes = (ElsewhereError, ProcessLostError, OutOfStepError)
    of_the_folder = (CheckpointError, LockedError, OSError)
    of_numbers = (NonFiniteError, NoGradientError, DivergenceError)
    return (EnvError, CallbackError, LoggerError, *of_numbers, *of_the_folder, *of_several_processes)


def built(
    plan: Plan, environment: Callable[..., Any] | None = None, callbacks: Sequence[Any] = ()
) -> Trainer:
    """The trainer of `plan`. Raises `ConfigError` for what only the environment can tell is wrong."""
    from equipoise.trainer.build import build

    try:
        return build(plan.config, plan.folder, plan.state, environment, callbacks)
    except ValueError as error:  # what only the environment, once there, can tell is wrong
        raise ConfigError(str(error)) from error
    except RuntimeError as error:  # PyTorch has no class of its own for a full memory of the CPU
        if "allocate" not in str(error):
            raise
        sizes = "env.num_envs, trainer.batch.rollout_steps or policy.hidden_sizes"
        raise ConfigError(f"there is not enough memory for this run: lower {sizes}") from error
