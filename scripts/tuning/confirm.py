"""Which of the best trials is good and not only lucky, and how it does against the default.

The finalists are trained on two more seeds each, and the one with the best mean is named. Then it meets the
default on seeds that nothing was chosen by. The runs are shared as trials are: a worker takes one that nobody
is at, and one that was left goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from equipoise.scripts.studies import plots
from equipoise.scripts.studies.report import LEGEND, markdown_tables
from equipoise.scripts.studies.results import Result, load
from equipoise.scripts.tuning.space import overrides
from equipoise.scripts.tuning.worker import PAUSE, Plan, claimed, trained
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.session import run_errors
from equipoise.trainer.system.run_folder import RunFolder

CHOOSING = (51, 52)
"""Seeds of the finalists, beside that of their trials, which is the study's or 1."""
FIRST_SEED = 101
DEFAULT, TUNED = "default", "tuned"
FOLDER, FINALISTS = "confirm", "finalists"
CURVES = "confirmed"
"""Name of the picture."""


class Pending(NamedTuple):
    """A run: what it is called, its settings beside the study's, and where it is."""

    arm: str
    values: dict[str, Any]
    seed: int
    folder: RunFolder


def finalists(study: optuna.Study, plan: Plan) -> list[FrozenTrial]:
    """The best complete trials; of equal ones the earlier."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return sorted(complete, key=lambda trial: -(trial.value or 0.0))[: plan.finalists]


def best(study: optuna.Study, plan: Plan) -> FrozenTrial:
    """The finalist with the best mean over the seeds of its trial and of `CHOOSING`."""
    return max(finalists(study, plan), key=lambda trial: mean(plan, trial))


def mean(plan: Plan, trial: FrozenTrial) -> float:
    """Over the seeds of a finalist; of a lone one its score, and -inf where a run has failed."""
    if plan.finalists == 1:
        return float(trial.value or 0.0)
    found = [load(run.folder.path, run.arm) for run in _of_finalist(plan, trial)]
    scores = [trial.value or 0.0, *(-math.inf if run is None else run.final for run in found)]
    return sum(scores) / len(scores)


def work(study: optuna.Study, plan: Plan, seeds: int) -> Iterator[str]:
    """Train finalists, then both arms, until all runs are done, by whomever; a line for each of its own."""
    if plan.finalists > 1:
        yield from _shared(plan, [r for trial in finalists(study, plan) for r in _of_finalist(plan, trial)])
    yield from _shared(plan, _runs(study, plan, seeds))


def _shared(plan: Plan, missing: Sequence[Pending]) -> Iterator[str]:
    while missing:
        busy: list[Pending] = []
        for run in missing:
            with ExitStack() as held:
                if not claimed(plan, run.folder, held):
                    busy.append(run)
                elif load(run.folder.path, run.arm) is None:
                    yield f"{run.arm}, seed {run.seed}: {_train(plan, run)}"
        missing = busy
        if busy:
            time.sleep(PAUSE)


def report(study: optuna.Study, plan: Plan, seeds: int) -> list[str]:
    """Markdown and a picture: both arms with intervals; empty where there is nothing to compare."""
    loaded = [load(run.folder.path, run.arm) for run in _runs(study, plan, seeds)]
    found: list[Result] = [result for result in loaded if result is not None]
    if {result.arm for result in found} != {DEFAULT, TUNED}:
        return []
    env = found[0].env
    settings = " ".join(f"`{override}`" for override in overrides(best(study, plan).params))
    tables = markdown_tables({env: found}, DEFAULT, {DEFAULT: "the study's own settings", TUNED: settings})
    plots.save(plots.curves(found, [env], "score"), plan.folder / CURVES)
    return [
        "## Confirmed on fresh seeds",
        "",
        f"Seeds {FIRST_SEED} to {FIRST_SEED + seeds - 1}, by which nothing was chosen.",
        "",
        LEGEND,
        tables[env],
        f"![learning curves of both]({CURVES}.png)",
        "",
    ]


def _of_finalist(plan: Plan, trial: FrozenTrial) -> list[Pending]:
    name = f"trial-{trial.number:05d}"
    return [
        Pending(f"trial {trial.number}", trial.params, seed, _folder(plan, FINALISTS, name, seed))
        for seed in CHOOSING
    ]


def _runs(study: optuna.Study, plan: Plan, seeds: int) -> list[Pending]:
    """Seed by seed, so that one can stop early."""
    if not seeds:
        return []
    chosen = best(study, plan)
    arms = [(DEFAULT, DEFAULT, {}), (TUNED, f"trial-{chosen.number:05d}", chosen.params)]
    return [
        Pending(arm, values, seed, _folder(plan, FOLDER, name, seed))
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for arm, name, values in arms
    ]


def _folder(plan: Plan, stage: str, name: str, seed: int) -> RunFolder:
    return RunFolder(plan.folder / stage / f"{name}-s{seed}")


def _train(plan: Plan, run: Pending) -> str:
    """The score, or why there is none."""
    try:
        return f"{trained(plan, plan.config({**run.values, 'seed': run.seed}), run.folder).score:.4g}"
    except Exception as error:
        if not isinstance(error, (ConfigError, *run_errors(error))):
            raise
        return str(error)
