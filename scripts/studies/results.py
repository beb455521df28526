"""What finished runs say, read from their folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.scripts.studies.intervals import Floats, area_under_curve, interquartile_mean, steps_to
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.run_folder import SUMMARY

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
    "git_revision",
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
    """Push of the discrete over that of the continuous side, per unit of their base weights."""
    skipped: float
    """Updates whose gradient was not finite."""

    @property
    def final(self) -> float:
        """Score of the closing evaluation: normalised, or the return where there is no expert."""
        return self.summary.score

    @property
    def area(self) -> float:
        return area_under_curve(self.steps, self.scores)

    def time_to(self, threshold: float) -> float:
        return steps_to(threshold, self.steps, self.scores)


def load(folder: Path, arm: str, env: str | None = None) -> Result | None:
    """The run in `folder`; None where it has not finished."""
    if not (folder / SUMMARY).exists():
        return None
    summary = Summary.read(folder / SUMMARY)
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
    )


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


def strata(results: Sequence[Result], figure: str, envs: Sequence[str]) -> list[Floats]:
    """`final` or `area` of the runs, an array for each environment."""
    columns = ([getattr(result, figure) for result in results if result.env == env] for env in envs)
    return [np.array(column, dtype=float) for column in columns]


def ranked(results: Sequence[Result]) -> list[str]:
    """The arms, the one with the largest interquartile mean of the areas first."""
    areas = {
        name: float(interquartile_mean(np.array([run.area for run in runs])))
        for name, runs in by_arm(results).items()
    }
    return sorted(areas, key=lambda name: -areas[name])


def write_csv(path: Path, results: Sequence[Result], threshold: float = THRESHOLD) -> None:
    """The raw numbers, one line a run."""
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
                "steps_to_threshold": run.time_to(threshold),
                "skipped_updates": run.skipped,
            }
            values = [known[name] if name in known else getattr(run.summary, name) for name in CSV_COLUMNS]
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])
