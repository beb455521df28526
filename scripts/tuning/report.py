"""What a study has found: a page, and the best settings as an `experiment` file."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import optuna
import yaml
from optuna.trial import TrialState

from equipoise.commands import typed
from equipoise.scripts.studies.report import table
from equipoise.scripts.tuning.space import overrides
from equipoise.trainer.system.files import replace_file

_LISTED = 10


def write(study: optuna.Study, folder: Path) -> list[str]:
    """Write `report.md` and `experiment/<study>.yaml`; returns lines for the terminal."""
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name.lower() for trial in trials)
    counted = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return [f"{len(trials)} trials: {counted}; none is complete, so there is nothing to recommend"]
    ranked = sorted(complete, key=lambda trial: -(trial.value or 0.0))
    best = ranked[0]
    experiment = folder / "experiment" / f"{study.study_name}.yaml"
    experiment.parent.mkdir(exist_ok=True)
    replace_file(experiment, _experiment(study, best).encode())
    own = study.user_attrs["overrides"]
    use = typed("train", f"--config-dir={folder}", *own, f"experiment={study.study_name}")
    others = [override for override in own if not override.startswith(("env=", "trainer.total_env_steps="))]
    arms = [",".join([*others, *more]) for more in ([], overrides(best.params))]
    confirm = typed(
        "compare",
        *(f"--env={override[4:]}" for override in own if override.startswith("env=")),
        f"--arm=default={arms[0]}" if arms[0] else "--arm=default=preset=balanced",
        f"--arm=tuned={arms[1]}",
        "--seeds=101-110",
    )
    lines = [
        f"# Study {study.study_name}",
        "",
        f"{len(trials)} trials: {counted}. Best: trial {best.number} with {best.value:.4g}.",
        "",
        "The best of many trials was lucky as well as good: confirm it on fresh seeds before you rely on it.",
        "",
        "```bash",
        use,
        confirm,
        "```",
        "",
        "## The best trials",
        "",
        _table(ranked[:_LISTED], list(best.params)),
        "",
        "## Which settings matter",
        "",
        *_importance(study),
        "",
        *(f"- trial {t.number} failed: {t.user_attrs['error']}" for t in trials if "error" in t.user_attrs),
    ]
    replace_file(folder / "report.md", "\n".join(lines).encode())
    return [lines[2], f"report: {folder / 'report.md'}", "the best settings:", f"  {use}"]


def _experiment(study: optuna.Study, best: optuna.trial.FrozenTrial) -> str:
    settings: dict[str, object] = {"experiment": study.study_name}
    for key, value in best.params.items():
        section = settings
        *path, name = key.split(".")
        for part in path:
            section = section.setdefault(part, {})  # type: ignore[assignment]
        section[name] = yaml.safe_load(value) if isinstance(value, str) else value
    head = f"# @package _global_\n# Trial {best.number}: {best.value:.4g}\n"
    return f"{head}{yaml.safe_dump(settings, sort_keys=False)}"


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
