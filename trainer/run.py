"""`python -m trainer.run [key=value ...]`: train. `--help` explains."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from equipoise.trainer.configuration.arguments import take_allowed
from equipoise.trainer.configuration.compose import (
    CONFIG_DIR,
    admit,
    from_hydra,
    readable_errors,
    resolved_in,
    search_path,
    values,
)
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.continuation import AUTO, Plan, begun, gone_on
from equipoise.trainer.monitor.sweep import Sweep
from equipoise.trainer.system.lock import LockedError
from equipoise.trainer.system.run_folder import RunFolder

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer

# torch takes seconds to import: only once there is something to build.

_RUN_DIR = "hydra.run.dir"
AFTER_THE_FIRST = 20.0
"""Seconds that other processes keep a configuration error to themselves. `torchrun` ends all processes with
the first that ends: that must be the one that has said it."""


class RunError(Exception):
    """A run that began and failed; the message says why, and is empty where another process tells it."""


def main() -> int:
    """The exit status: 0, 1 for a failed run, 2 for a bad configuration, 128 + the signal that ended it."""
    try:
        status = _main(sys.argv[1:])
        sys.stdout.flush()
    except ConfigError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(AFTER_THE_FIRST)
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        if str(error):
            print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupted:
        return 128 + getattr(interrupted, "signal", signal.SIGINT)
    except BrokenPipeError:  # `--cfg job | head`; what Python flushes once more at its end must not fail too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status


def _main(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        from equipoise.commands import spelled
        from equipoise.trainer.configuration.arguments import print_help
        from equipoise.trainer.configuration.help import help_text

        print_help(spelled(help_text()))
        return 0
    arguments, allow = take_allowed(arguments)
    resume = [argument for argument in arguments if argument.lstrip("+").startswith("resume=")]
    locations = [argument.partition("=")[2] for argument in resume]
    if not set(locations) - {"null", AUTO}:
        if AUTO in locations and not _typed_run_dir(arguments):
            raise ConfigError("resume = auto: needs a folder that stays the same: hydra.run.dir=<folder>")
        return _compose_and_train(arguments)
    return _resume(arguments, resume, allow)


def _compose_and_train(arguments: Sequence[str]) -> int:
    """Through Hydra: one run, or a sweep (`-m`); also Hydra's own flags, such as `--cfg job`."""
    errors: list[Exception] = []

    @hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> str | None:
        """Why it failed. An exception would end a sweep, and have Hydra say more than there is to say."""
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        if not first and chosen is not None:
            run_dir = Path(resolved_in(composed, chosen))
        try:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                return _job_of_sweep(composed, run_dir)
            _train_new(composed, run_dir)
        except (ConfigError, RunError) as error:
            errors.append(error)
        return None

    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through, to be worded here
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"-m", "--multirun"} & set(arguments):
        raise ConfigError("-m: a sweep is of runs in one process each; start one torchrun for each run")
    admitted = admit([*search_path(arguments), *arguments])
    first, chosen = os.environ.get("RANK", "0") == "0", _typed_run_dir(arguments)
    if not first:  # it is the first process that makes the run folder
        admitted = [a for a in admitted if not a.startswith(f"{_RUN_DIR}=")] + [f"{_RUN_DIR}=."]
    sys.argv[1:] = admitted
    status = 0
    try:
        with readable_errors():
            job()
    except (BrokenPipeError, ConfigError):
        raise
    except ValueError as error:
        if not str(error).startswith("Only one of --run"):  # Hydra, of its flags
            raise
        raise ConfigError(str(error)) from None
    except OSError as error:  # of Hydra, which makes the run folder
        raise ConfigError(f"hydra.run.dir: cannot make the run folder: {error}") from None
    except Exception as error:  # of a launcher, one of whose processes was killed
        if Sweep.started is None:
            raise
        raise RunError(f"The sweep ended early. {type(error).__name__}: {error}") from error
    finally:
        if Sweep.started is not None:
            status = Sweep.started.report()
    if errors:
        raise errors[0]
    return status


def _job_of_sweep(composed: DictConfig, run_dir: Path) -> str | None:
    """Train; why that failed. Not even an error of ours ends the jobs that come after it."""
    try:
        _train_new(composed, run_dir)
    except Exception as error:
        expected = isinstance(error, ConfigError | RunError)
        print(error if expected else traceback.format_exc(), file=sys.stderr)
        return str(error) if expected else f"{type(error).__name__}: {error}"
    return None


def _resume(arguments: Sequence[str], resume: Sequence[str], allow: Sequence[str]) -> int:
    """Continue a run with the configuration that its checkpoint holds."""
    others = [argument for argument in arguments if argument not in resume]
    if len(resume) > 1 or any(argument.startswith("-") for argument in others):
        raise ConfigError("resume=<run folder or checkpoint> continues one run: no flags, no second resume=")
    overrides = values(others)
    elsewhere = overrides.pop(_RUN_DIR, None)
    location = values(resume)["resume"]
    with gone_on(Path(location), overrides, RunFolder(elsewhere) if elsewhere else None, allow) as plan:
        _train(plan)
    return 0


def _train_new(composed: DictConfig, run_dir: Path) -> None:
    hydra_config = HydraConfig.get()
    pattern = hydra_config.sweep if hydra_config.mode is RunMode.MULTIRUN else hydra_config.run
    # Runs of the same second get folders of their own; a folder that the user has chosen stays the one.
    numbered = "${now:" in OmegaConf.to_yaml(pattern, resolve=False)
    folder = RunFolder(run_dir)
    try:
        config = from_hydra(composed)
    except ConfigError:
        folder.discard()  # Hydra made it before the configuration was checked
        raise
    with begun(config, folder, numbered) as plan:
        Sweep.job_folder = plan.folder.path
        _train(plan)


def _typed_run_dir(arguments: Sequence[str]) -> str | None:
    """As Hydra reads it, interpolations included."""
    given = [argument for argument in arguments if argument.startswith(f"{_RUN_DIR}=")]
    return str(values(given)[_RUN_DIR]) if given else None


def _train(plan: Plan) -> None:
    from equipoise.trainer.build import find_device
    from equipoise.trainer.system import distributed

    for notice in plan.notices if os.environ.get("RANK", "0") == "0" else ():
        print(notice, file=sys.stderr)
    if plan.finished:
        return
    config = plan.config
    try:
        with distributed.processes(cuda=find_device(config.device) == "cuda"):
            _train_here(config, plan.folder, plan.state)
    except distributed.ProcessLostError as error:
        raise RunError(f"The run ended with an error. {error}") from error


def _train_here(config: Config, folder: RunFolder, state: Mapping[str, Any] | None) -> None:
    from equipoise.envs.gymnasium_adapter.guard import EnvError
    from equipoise.trainer.diagnosis import DivergenceError, NonFiniteError
    from equipoise.trainer.monitor.progress import closing_table
    from equipoise.trainer.process_state import OutOfStepError
    from equipoise.trainer.system import distributed
    from equipoise.trainer.system.checkpoint import CheckpointError
    from equipoise.trainer.system.interruption import Interrupted

    known = EnvError, NonFiniteError, DivergenceError, OutOfStepError, CheckpointError, LockedError, OSError
    try:
        with closing(_build(config, folder, state)) as trainer:
            summary = trainer.train()
    except (*known, distributed.ElsewhereError) as error:
        if distributed.rank() > 0:
            raise RunError from error  # the first process tells: it knows what the others met
        raise RunError(f"The run ended with an error. {error}") from error
    if distributed.rank() == 0:
        closing_table(summary, folder.path)
    if trainer.interrupted_by:
        raise Interrupted(trainer.interrupted_by)  # through Hydra too: a sweep must not start its next job


def _build(config: Config, folder: RunFolder, state: Mapping[str, Any] | None) -> Trainer:
    from equipoise.trainer.build import build

    try:
        return build(config, folder, state)
    except ValueError as error:  # what only the environment, once there, can tell is wrong
        raise ConfigError(str(error)) from error
    except RuntimeError as error:  # PyTorch has no class of its own for a full memory of the CPU
        if "allocate" not in str(error):
            raise
        sizes = "env.num_envs, trainer.batch.rollout_steps or policy.hidden_sizes"
        raise ConfigError(f"there is not enough memory for this run: lower {sizes}") from error


if __name__ == "__main__":
    sys.exit(main())
