"""`python -m trainer.run [key=value ...]`: train. `--help` explains.

Arguments are parsed and composed into a plan, which is trained; whatever goes wrong on the way becomes one
message and an exit status. Sweeps and Hydra's own flags are left to Hydra's command: see `sweep.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from equipoise.trainer.configuration import flags
from equipoise.trainer.configuration.arguments import print_help, take_allowed
from equipoise.trainer.configuration.compose import compose_run, values
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.help import help_text
from equipoise.trainer.continuation import AUTO, Plan, begun, gone_on
from equipoise.trainer.session import run_errors, train
from equipoise.trainer.sweep import SweepError, through_hydra
from equipoise.trainer.system.run_folder import RunFolder
from equipoise.trainer.system.streams import lasting_streams

_RUN_DIR = "hydra.run.dir"
RANK0_GRACE_SECONDS = 20.0
"""How long the other processes wait after a configuration error: `torchrun` ends all processes as soon as one
ends, and that must be the one that prints the message."""


class Request(NamedTuple):
    """What the command line asks for."""

    overrides: list[str]
    resume: str | None = None
    """A run folder or a checkpoint to continue from."""
    allow: tuple[str, ...] = ()
    """Modules that this checkpoint may name."""
    config_dir: Path | None = None
    help: bool = False
    through_hydra: bool = False
    """A sweep, or one of Hydra's own flags."""


@lasting_streams()
def main() -> int:
    """Train as `sys.argv` asks. Returns the exit status: 0, 1 for a failed run, 2 for a bad configuration,
    128 + the number of the signal that ended it."""
    try:
        request, status = parse(sys.argv[1:]), 0
        if request.help:
            print_help(help_text())
        elif request.through_hydra:
            status = through_hydra(sys.argv[1:])
        else:
            with compose(request) as plan:
                train(plan)
    except BaseException as error:
        message, status = outcome(error)
        if message:
            print(message, file=sys.stderr)
    return status


def parse(arguments: Sequence[str]) -> Request:
    """Sort the arguments. Raises `ConfigError` for anything that is neither `key=value` nor a flag."""
    found = flags.parse(arguments)
    overrides, allow = take_allowed(found.overrides)
    resume = [override for override in overrides if override.lstrip("+").startswith("resume=")]
    overrides = [override for override in overrides if override not in resume]
    if any(override.endswith("=") for override in resume):  # as with the name of a variable that is not set
        raise ConfigError("resume = '': must be a run folder, a checkpoint, auto or null")
    given = [override for override in resume if override.partition("=")[2] != "null"]
    automatic = [override for override in given if override.partition("=")[2] == AUTO]
    if given and given != automatic and (len(given) > 1 or found.hydra or found.config_dir):
        raise ConfigError("resume=<run folder or checkpoint> continues one run: no flags, no second resume=")
    place = str(values([given[0].lstrip("+")])["resume"]) if given and not automatic else None
    return Request([*overrides, *automatic], place, allow, found.config_dir, found.help, found.hydra)


@contextmanager
def compose(request: Request) -> Iterator[Plan]:
    """What to train, with the run's folder locked. Raises `ConfigError`."""
    if request.resume is not None:
        overrides = values(request.overrides)
        elsewhere = overrides.pop(_RUN_DIR, None)
        folder = RunFolder(elsewhere) if elsewhere else None
        with gone_on(Path(request.resume), overrides, folder, request.allow) as plan:
            yield plan
        return
    composed = compose_run(request.overrides, request.config_dir)
    if composed.config.resume == AUTO and composed.dated:
        raise ConfigError(f"resume = auto: needs a folder that stays the same: {_RUN_DIR}=<folder>")
    with begun(composed.config, RunFolder(composed.run_dir), composed.dated) as plan:
        yield plan


def outcome(error: BaseException) -> tuple[str, int]:
    """The message and the exit status for `error`. Raises an unforeseen one again."""
    for kinds, message, status in _endings(error):
        if isinstance(error, kinds):
            if status == 2 and _rank("LOCAL_RANK"):
                time.sleep(RANK0_GRACE_SECONDS)
            return message, status
    raise error


def _endings(error: BaseException) -> Iterator[tuple[tuple[type[BaseException], ...], str, int]]:
    """Classes of errors, and the message and the exit status for `error` if it is one of them."""
    yield (ConfigError,), str(error), 2
    yield (KeyboardInterrupt,), "", 128 + getattr(error, "signal", signal.SIGINT)
    yield (SweepError,), str(error), 1
    yield run_errors(error), "" if _rank("RANK") else f"The run ended with an error. {error}", 1


def _rank(variable: str) -> int:
    return int(os.environ.get(variable, "0"))


if __name__ == "__main__":
    sys.exit(main())
