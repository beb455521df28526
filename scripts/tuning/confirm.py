"""The best settings of a study against the default, on seeds that no trial had.

The runs are shared as trials are: a worker takes one that nobody is at, and one that was left goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import optuna

from equipoise.scripts.studies import plots
from equipoise.scripts.studies.report import LEGEND, markdown_tables
from equipoise.scripts.studies.results import Result, load
from equipoise.scripts.tuning.space import overrides
from equipoise.scripts.tuning.worker import PAUSE, Plan, claimed, trained
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.session import run_errors
from equipoise.trainer.system.run_folder import RunFolder

FIRST_SEED = 101
"""Trials have that of the study's settings, which is 1 where none is typed."""
DEFAULT, TUNED = "default", "tuned"
CURVES = "confirmed"
"""Name of the picture."""
Pending = tuple[str, int, RunFolder]
"""The arm, the seed, and where the run is."""


def work(study: optuna.Study, plan: Plan, seeds: int) -> Iterator[str]:
    """Train both arms until all runs are done, by whomever; yields a line for each of its own."""
    settings: dict[str, dict[str, Any]] = {DEFAULT: {}, TUNED: study.best_params}
    missing = _runs(study, plan, seeds)
    while missing:
        busy: list[Pending] = []
        for arm, seed, folder in missing:
            with ExitStack() as held:
                if not claimed(plan, folder, held):
                    busy.append((arm, seed, folder))
                elif load(folder.path, arm) is None:
                    yield f"{arm}, seed {seed}: {_train(plan, {**settings[arm], 'seed': seed}, folder)}"
        missing = busy
        if busy:
            time.sleep(PAUSE)


def report(study: optuna.Study, plan: Plan, seeds: int) -> list[str]:
    """Markdown and a picture: both arms with intervals; empty where there is nothing to compare."""
    loaded = [load(folder.path, arm) for arm, _, folder in _runs(study, plan, seeds)]
    found: list[Result] = [result for result in loaded if result is not None]
    if {result.arm for result in found} != {DEFAULT, TUNED}:
        return []
    env = found[0].env
    settings = " ".join(f"`{override}`" for override in overrides(study.best_params))
    tables = markdown_tables({env: found}, DEFAULT, {DEFAULT: "the study's own settings", TUNED: settings})
    plots.save(plots.curves(found, [env], "score"), plan.folder / CURVES)
    return [
        "## Confirmed on fresh seeds",
        "",
        f"Seeds {FIRST_SEED} to {FIRST_SEED + seeds - 1}, which no trial had.",
        "",
        LEGEND,
        tables[env],
        f"![learning curves of both]({CURVES}.png)",
        "",
    ]


def _runs(study: optuna.Study, plan: Plan, seeds: int) -> list[Pending]:
    """Seed by seed, so that one can stop early."""
    places = {DEFAULT: DEFAULT, TUNED: f"trial-{study.best_trial.number:05d}"}
    return [
        (arm, seed, RunFolder(plan.folder / "confirm" / f"{place}-s{seed}"))
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for arm, place in places.items()
    ]


def _train(plan: Plan, values: dict[str, Any], folder: RunFolder) -> str:
    """The score, or why there is none."""
    try:
        return f"{trained(plan, plan.config(values), folder).score:.4g}"
    except Exception as error:
        if not isinstance(error, (ConfigError, *run_errors(error))):
            raise
        return str(error)
