"""Searches for good settings: `equipoise tune env=… study=<name> trials=100`; `--help` explains."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from equipoise.commands import typed
from equipoise.prerequisites import extra
from equipoise.scripts.tuning.space import examples, read
from equipoise.trainer.configuration.arguments import Arguments
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Count
from equipoise.trainer.system.files import unwritable_folder
from equipoise.trainer.system.streams import lasting_streams


class TuneArguments(Arguments):
    """Search for good settings: trials are runs, chosen by TPE, and ended early where the median is better.

    equipoise tune env=goal study=goal trials=100

    Start it as often as you like, on all machines that share the folder: workers share the trials. What is
    killed goes on from its checkpoint, and the same command goes on with a study. All other key=value
    arguments are settings of every trial, as for training, and are not searched.
    """

    study: Annotated[str, "letters, digits, . _ and -, of which the first is a letter, a digit or _"] = Field(
        pattern=r"^\w[\w.-]*$", description="a folder and a file have this name"
    )
    trials: Count = Field(100, description="in all, by all workers")
    storage: str | None = Field(
        None, description="URL of a database, file of SQLite (.db), or journal file; null: in the folder"
    )
    folder: Path | None = Field(
        None, description="of the trials' runs and the report; null: runs/tune/<study>"
    )
    space: str = Field("ppo", description="a YAML file of what to search, or the name of one of ours")
    pruner: Literal["median", "none"] = "median"
    evaluations: Count = Field(10, description="of each trial on its way, by which it is pruned")
    finalists: Count = Field(
        3, description="of the best trials, trained on two more seeds each before one is named; 1: none"
    )
    confirm: Annotated[int, Field(ge=0)] = Field(
        6,
        description="fresh seeds on which the best settings meet the default at the end; an interval takes 6",
    )
    hung: float = Field(
        1800.0, gt=0, description="seconds without an iteration after which another worker takes over a trial"
    )


@lasting_streams()
def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 for bad arguments, 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        options, overrides = TuneArguments.parse_with_overrides(given)
        _tune(options, overrides, given)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupted:
        print(f"interrupted; the same command goes on: {typed('tune', *given)}", file=sys.stderr)
        return 128 + getattr(interrupted, "signal", 2)
    return 0


def _tune(options: TuneArguments, overrides: tuple[str, ...], given: Sequence[str]) -> None:
    typed_keys = {override.partition("=")[0] for override in overrides}
    space = {key: entry for key, entry in read(options.space).items() if key not in typed_keys}
    if not space:
        raise ConfigError(f"space = {options.space}: all its keys are typed: nothing is left to search")
    for refused in ("resume", "hydra.run.dir", "trainer.eval_every", "trainer.checkpoint_every"):
        if any(override.partition("=")[0] == refused for override in overrides):
            raise ConfigError(f"{refused}: each trial has its own; use folder=, trials= and evaluations=")
    for alternatives in examples(space):
        _fits_somewhere(overrides, alternatives)
    if find_spec("optuna") is None:
        raise ConfigError(f"tuning needs the package optuna, which comes with {extra('tune')}")
    import optuna

    from equipoise.scripts.tuning import confirm, report, worker

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = options.folder or Path("runs", "tune", options.study)
    if why := unwritable_folder(folder):
        raise ConfigError(f"folder = {folder}: {why}")
    plan = worker.Plan(
        folder, space, overrides, options.trials, options.evaluations, options.finalists, options.hung
    )
    study = worker.open_study(
        options.study, options.storage or str(folder / "journal.log"), plan, options.pruner
    )
    for trial in worker.work(study, plan):
        score = "" if trial.value is None else f" {trial.value:.4g}"
        why = f": {trial.user_attrs['error']}" if "error" in trial.user_attrs else ""
        print(f"trial {trial.number} {trial.state.name.lower()}{score}{why}", flush=True)
    complete = any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))
    for line in confirm.work(study, plan, options.confirm) if complete else ():
        print(line, flush=True)
    for line in report.write(study, plan, options.confirm):
        print(line)
    report.page(plan, typed("tune", *given), f"study {options.study}")


def _fits_somewhere(overrides: Sequence[str], alternatives: Sequence[Sequence[str]]) -> None:
    """Raises what is wrong with the first of `alternatives` if something is wrong with all."""
    errors = []
    for typical in alternatives:
        try:
            compose([*overrides, *typical])
            return
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


if __name__ == "__main__":
    sys.exit(main())
