"""What a study has found: a page, and the best settings as an `experiment` file."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import yaml
from matplotlib.figure import Figure
from optuna.trial import TrialState

from equipoise.commands import typed
from equipoise.scripts.reporting.ending import PAGE, publish
from equipoise.scripts.reporting.groups import environments
from equipoise.scripts.reporting.runs import find
from equipoise.scripts.studies import plots
from equipoise.scripts.studies.report import table
from equipoise.scripts.tuning import confirm
from equipoise.scripts.tuning.worker import Plan
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.run_folder import is_run

_LISTED = 10


def write(study: optuna.Study, plan: Plan, seeds: int) -> list[str]:
    """Write `report.md`, its pictures and `experiment/<study>.yaml`; returns lines for the terminal.

    `seeds`: on which the best settings have been confirmed, or 0.
    """
    folder = plan.folder
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name.lower() for trial in trials)
    counted = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return [f"{len(trials)} trials: {counted}; none is complete, so there is nothing to recommend"]
    ranked = sorted(complete, key=lambda trial: -(trial.value or 0.0))
    best = confirm.best(study, plan)
    experiment = folder / "experiment" / f"{study.study_name}.yaml"
    experiment.parent.mkdir(exist_ok=True)
    replace_file(experiment, _experiment(study, best).encode())
    own = study.user_attrs["overrides"]
    use = typed("train", f"--config-dir={folder}", *own, f"experiment={study.study_name}")
    plots.save(_curves(complete), folder / "trials")
    confirmed = confirm.report(study, plan, seeds) if seeds else []
    lines = [
        f"# Study {study.study_name}",
        "",
        f"{len(trials)} trials: {counted}. Best: trial {best.number} with {confirm.mean(plan, best):.4g}.",
        "",
        "```bash",
        use,
        "```",
        "",
        *(
            confirmed
            or [
                "The best of many trials was lucky as well as good: `confirm=10` tries it on fresh seeds.",
                "",
            ]
        ),
        *_finalists(study, plan),
        "## The best trials",
        "",
        _table(ranked[:_LISTED], list(best.params)),
        "",
        "![score of each trial on its way](trials.png)",
        "",
        "## Which settings matter",
        "",
        *_importance(study),
        "",
        *(f"- trial {t.number} failed: {t.user_attrs['error']}" for t in trials if "error" in t.user_attrs),
    ]
    replace_file(folder / "report.md", "\n".join(lines).encode())
    return [lines[2], f"report: {folder / 'report.md'}", "the best settings:", f"  {use}"]


def page(plan: Plan, command: str, title: str) -> None:
    """Write the page of all runs, if there are any, by the numbers of their trials, and against the default.

    Raises `ConfigError` where it cannot be written.
    """
    if not any(is_run(path.parent) for path in plan.folder.rglob("config.yaml")):
        return
    runs = [replace(run, group=_arm(run.folder)) for run in find([plan.folder])]
    there = any(run.group == confirm.DEFAULT for run in runs)
    publish(environments(runs, confirm.DEFAULT if there else None), plan.folder / PAGE, command, title)


def _arm(folder: Path) -> str:
    """Of a run. A trial is named for its scores: the seeds by which nothing was chosen are kept apart."""
    found = re.match(r"trial-(\d+)", folder.name)
    if not found:
        return confirm.DEFAULT
    return f"trial {int(found[1])}{' on fresh seeds' if folder.parent.name == confirm.FOLDER else ''}"


def _finalists(study: optuna.Study, plan: Plan) -> list[str]:
    """A table; empty where the best trial is named for its score alone."""
    if plan.finalists == 1:
        return []
    rows = [
        [str(trial.number), f"{trial.value:.4g}", f"{confirm.mean(plan, trial):.4g}"]
        for trial in confirm.finalists(study, plan)
    ]
    seeds = " and ".join(map(str, confirm.CHOOSING))
    about = f"A trial has one seed, and its score is luck as well: these had the seeds {seeds}, too."
    return ["## Finalists", "", about, "", table([["trial", "its score", "mean of three"], *rows])]


def _experiment(study: optuna.Study, best: optuna.trial.FrozenTrial) -> str:
    settings: dict[str, object] = {"experiment": study.study_name}
    for key, value in best.params.items():
        section = settings
        *path, name = key.split(".")
        for part in path:
            section = section.setdefault(part, {})  # type: ignore[assignment]
        section[name] = yaml.safe_load(value) if isinstance(value, str) else value
    head = f"# @package _global_\n# Trial {best.number}\n"
    return f"{head}{yaml.safe_dump(settings, sort_keys=False)}"


def _curves(trials: list[optuna.trial.FrozenTrial]) -> Figure:
    """How the complete trials came to their scores, and the best score so far."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for trial in trials:
        left.plot(*zip(*sorted(trial.intermediate_values.items()), strict=True), color="0.6", linewidth=0.8)
    best = max(trials, key=lambda trial: trial.value or -math.inf)
    left.plot(*zip(*sorted(best.intermediate_values.items()), strict=True), color="black", linewidth=2)
    left.set(
        xlabel="part of the run", ylabel="score at the evaluation", title="complete trials; black: the best"
    )
    numbers = [trial.number for trial in trials]
    scores = np.array([trial.value for trial in trials], float)
    right.plot(numbers, scores, "o", color="0.6", markersize=4)
    right.step(numbers, np.maximum.accumulate(scores), color="black", where="post")
    right.set(xlabel="trial", ylabel="score", title="line: the best so far")
    return figure


def _table(trials: list[optuna.trial.FrozenTrial], keys: list[str]) -> str:
    def shown(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    head = ["trial", "score", *(key.rpartition(".")[2] for key in keys)]
    rows = [[str(t.number), shown(t.value), *(shown(t.params.get(key)) for key in keys)] for t in trials]
    return table([head, *rows]).rstrip()


def _importance(study: optuna.Study) -> list[str]:
    """Of each key, the share that Optuna's PED-ANOVA gives it."""
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    try:
        with warnings.catch_warnings(category=UserWarning, action="error"):  # of too few trials
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError, ImportError, UserWarning) as error:
        return [f"Not to be told from these trials: {error}"]
    return [table([["setting", "share"], *([key, f"{share:.2f}"] for key, share in found.items())]).rstrip()]
