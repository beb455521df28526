"""Results of finished runs, read from their folders or from a CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from equipoise.scripts.studies.intervals import Floats, area_under_curve, interquartile_mean, steps_to
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.run_folder import SUMMARY

Measure = Literal["final", "area"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
N = TypeVar("N", float, float | None)
THRESHOLD = 0.8
CSV_COLUMNS = (
    "env",
    "arm",
    "seed",
    "final_score",
    "area",
    "steps_to_threshold",
    "return_mean",
    "success_rate",
    "decision_accuracy",
    "spawn_parameter_error",
    "balance_ratio_before",
    "balance_ratio",
    "discrete_weight_used",
    "continuous_weight_used",
    "skipped_updates",
    "seconds",
    "cpu_seconds",
    "git_revision",
    "env_steps",
)

_SUMMARY_NUMBERS = (
    "return_mean",
    "success_rate",
    "decision_accuracy",
    "spawn_parameter_error",
    "balance_ratio_before",
    "balance_ratio",
    "discrete_weight_used",
    "continuous_weight_used",
    "seconds",
    "cpu_seconds",
)


@dataclass(frozen=True)
class Result:
    """A finished run."""

    env: str
    arm: str
    seed: int
    summary: Summary
    steps: Floats
    scores: Floats
    """The learning curve: environment steps at the evaluations, and the score there."""
    balance_steps: Floats
    balance: Floats
    """Push of the discrete side divided by that of the continuous side, per unit of their base weights."""
    skipped: float
    """Number of updates whose gradient was not finite."""
    area: float
    """Mean height of the learning curve."""
    time_to_threshold: float
    """Environment steps until the score first reached the study's threshold; infinite if it never did."""

    @property
    def final(self) -> float:
        """Score of the closing evaluation: normalised, or the return where there is no expert."""
        return self.summary.score


def load(folder: Path, arm: str, env: str | None = None, threshold: float = THRESHOLD) -> Result | None:
    """The run in `folder`; None if it has not finished."""
    if not (folder / SUMMARY).exists():
        return None
    summary = Summary.read(folder / SUMMARY)
    score, returned = as_written(summary.normalized_score), as_written(summary.return_mean)
    summary = replace(summary, normalized_score=score, return_mean=returned)
    if summary.status != "finished" or summary.env_steps is None or summary.seed is None:
        return None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tag = "evaluation/score" if summary.normalized_score is not None else "evaluation/return"
    end = {"env_steps": summary.env_steps, tag: summary.score}
    steps, scores = _column(tag, lines)
    if len(steps) == 0 or steps[-1] < summary.env_steps:
        steps, scores = _column(tag, [*lines, end])
    balance_steps, balance = _column("gradient_scaling/balance_ratio", lines)
    return Result(
        env=env or summary.env or "",
        arm=arm,
        seed=summary.seed,
        summary=summary,
        steps=steps,
        scores=scores,
        balance_steps=balance_steps,
        balance=balance,
        skipped=sum(line.get("optimizer/skipped") or 0.0 for line in lines),
        area=as_written(area_under_curve(steps, scores)),
        time_to_threshold=steps_to(threshold, steps, scores),
    )


def as_written(number: N) -> N:
    """To the digits of a CSV: ranks would tell 0.9999999 from the 1 that another such run became there."""
    return number if number is None else float(f"{number:.6g}")


def read_metric(folder: Path, tag: str) -> tuple[Floats, Floats]:
    """Environment steps at which a run logged `tag`, and its values there."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return _column(tag, lines)


def _column(tag: str, lines: Sequence[dict[str, Any]]) -> tuple[Floats, Floats]:
    pairs = [(line["env_steps"], line[tag]) for line in lines if line.get(tag) is not None]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def by_arm(results: Sequence[Result], env: str | None = None) -> dict[str, list[Result]]:
    """Name of the arm -> its runs, in the order in which the arms first appear."""
    arms: dict[str, list[Result]] = {}
    for result in results:
        if env is None or result.env == env:
            arms.setdefault(result.arm, []).append(result)
    return arms


def strata(results: Sequence[Result], measure: Measure, envs: Sequence[str]) -> list[Floats]:
    """`measure` of the runs, one array for each environment."""
    columns = ([getattr(result, measure) for result in results if result.env == env] for env in envs)
    return [np.array(column, dtype=float) for column in columns]


def ranked(results: Sequence[Result]) -> list[str]:
    """The arms, the largest area first: interquartile means, averaged over the environments."""

    def area(runs: Sequence[Result]) -> float:
        envs = sorted({run.env for run in runs})
        return float(np.mean([interquartile_mean(scores) for scores in strata(runs, "area", envs)]))

    areas = {name: area(runs) for name, runs in by_arm(results).items()}
    return sorted(areas, key=lambda name: -areas[name])


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Write the raw numbers, one line per run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for run in sorted(results, key=lambda r: (r.env, r.arm, r.seed)):
            known = {
                "env": run.env,
                "arm": run.arm,
                "seed": run.seed,
                "final_score": run.final,
                "area": run.area,
                "steps_to_threshold": run.time_to_threshold,
                "skipped_updates": run.skipped,
            }
            values = [known[name] if name in known else getattr(run.summary, name) for name in CSV_COLUMNS]
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])


def read_csv(path: Path) -> list[Result]:
    """Read what `write_csv` wrote: results without curves. Raises `OSError` or `ValueError`."""
    with path.open(newline="") as file:
        return [_from_csv(row) for row in csv.DictReader(file)]


def _from_csv(row: Mapping[str, str]) -> Result:
    known = {name: float(text) for name, text in row.items() if text and name in _SUMMARY_NUMBERS}
    final, returned = float(row["final_score"]), known.get("return_mean")
    # Where there is no expert the final score is the return.
    normalized = None if returned is not None and math.isclose(final, returned, rel_tol=1e-5) else final
    known_text = {name: row[name] for name in ("env", "git_revision") if row.get(name)}
    numbers = {"seed": int(row["seed"]), "normalized_score": normalized, **known, **known_text}
    if row.get("env_steps"):
        numbers["env_steps"] = int(row["env_steps"])
    summary = Summary.of({"status": "finished", **numbers})
    nothing = np.array([])
    return Result(
        env=row["env"],
        arm=row["arm"],
        seed=int(row["seed"]),
        summary=summary,
        steps=nothing,
        scores=nothing,
        balance_steps=nothing,
        balance=nothing,
        skipped=float(row["skipped_updates"]),
        area=float(row["area"]),
        time_to_threshold=float(row["steps_to_threshold"]),
    )
