"""Several runs with one command (`-m`), through Hydra's own command, which also knows `--cfg job`.

`monitor/sweep.py` keeps account of the jobs, wherever a launcher runs them.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from equipoise.trainer.configuration.compose import (
    CONFIG_DIR,
    admit,
    as_typed,
    compose_unchecked,
    from_hydra,
    readable_errors,
    search_path,
)
from equipoise.trainer.configuration.errors import ConfigError, bad_value
from equipoise.trainer.continuation import AUTO, begun
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.monitor.sweep import JobScore, Sweep
from equipoise.trainer.session import run_errors, train
from equipoise.trainer.system.run_folder import RunFolder


class SweepError(Exception):
    """A sweep ended before its jobs did; the message says why."""


def through_hydra(arguments: Sequence[str]) -> int:
    """Hand the arguments to Hydra. Returns the exit status of a sweep: 1 if a job failed.

    Raises:
        ConfigError: Hydra refuses the arguments.
        SweepError: a launcher gave up.
        Exception: of a single run, as `trainer.session.train` raises it.
    """
    errors: list[Exception] = []

    @hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
    def job(composed: DictConfig) -> JobScore:
        """Train, and return the score, which an optimising sweeper uses. A failure has a score too: an
        exception would end the sweep, and have Hydra print far more than the reason."""
        try:
            return JobScore(_train(composed).score)
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                return JobScore.of_failure(_told(error))
            errors.append(error)
            return JobScore.of_failure(str(error))

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("-m: a sweep is of runs in one process each; start one torchrun for each run")
    _check_direction(arguments)
    _check_folders(arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through, to be worded here
    sys.argv[1:] = admit([*search_path(arguments), *arguments])
    status = 0
    try:
        with readable_errors():
            job()
    except ConfigError:
        raise
    except OSError as error:  # of Hydra, which makes the run folder
        raise ConfigError(f"hydra.run.dir: cannot make the run folder: {error}") from None
    except Exception as error:  # of a launcher, one of whose processes was killed
        if Sweep.started is None:
            raise
        raise SweepError(f"The sweep ended early. {type(error).__name__}: {error}") from error
    finally:
        if Sweep.started is not None:
            status = Sweep.started.report()
    if errors:
        raise errors[0]
    return status


_DIRECTIONS = {  # of Hydra's sweepers for Optuna, Nevergrad and Ax
    "direction": "maximize",
    "optim.maximize": True,
    "ax_config.experiment.minimize": False,
}


def _check_direction(arguments: Sequence[str]) -> None:
    """Raises `ConfigError` for a sweeper that would look for the smallest score, as most do by default."""
    if not any(argument.startswith("hydra/sweeper=") for argument in arguments):
        return
    sweeper = compose_unchecked([a for a in arguments if a.startswith(("hydra/", "hydra."))]).hydra.sweeper
    for key, wanted in _DIRECTIONS.items():
        given = OmegaConf.select(sweeper, key)
        given = getattr(given, "name", given)
        if given is not None and given != wanted:
            allowed = f"{str(wanted).lower()}: a job gives its score, or its return"
            raise ConfigError(bad_value(f"hydra.sweeper.{key}", given, allowed))


def _check_folders(arguments: Sequence[str]) -> None:
    """Raises `ConfigError` if `resume=auto` would look into folders that are named after the time."""
    if f"resume={AUTO}" not in arguments or not {"-m", "--multirun"} & set(arguments):
        return
    sweep = compose_unchecked([a for a in arguments if a.startswith("hydra.")]).hydra.sweep
    if "${now:" in OmegaConf.to_yaml(sweep, resolve=False):
        place = "hydra.sweep.dir=<folder> hydra.sweep.subdir='${hydra.job.num}'"
        raise ConfigError(f"resume = {AUTO}: needs folders that stay the same, as with {place}")


def _train(composed: DictConfig) -> Summary:
    """A run in the folder that Hydra has made for it."""
    hydra_config = HydraConfig.get()
    pattern = hydra_config.sweep if hydra_config.mode is RunMode.MULTIRUN else hydra_config.run
    # Runs of the same second get folders of their own; a folder that the user has chosen stays the one.
    numbered = "${now:" in OmegaConf.to_yaml(pattern, resolve=False)
    folder = RunFolder(Path(hydra_config.runtime.output_dir))
    try:
        config = from_hydra(composed).with_typed(map(as_typed, hydra_config.overrides.task))
    except ConfigError:
        folder.discard()  # Hydra made it before the configuration was checked
        raise
    with begun(config, folder, numbered) as plan:
        Sweep.job_folder = plan.folder.path
        return train(plan)


def _told(error: Exception) -> str:
    """Print why a job failed, and return that in one line. Not even a bug of ours ends the later jobs."""
    if isinstance(error, ConfigError):
        message = complaint = str(error)
    elif isinstance(error, run_errors(error)):
        message = complaint = f"The run ended with an error. {error}"
    else:
        message = "".join(traceback.format_exception(error))
        complaint = f"{type(error).__name__}: {error}"
    print(message, file=sys.stderr)
    return complaint
