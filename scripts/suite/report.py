"""The report of the first-try study."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from equipoise.scripts.studies.intervals import Floats, iqm_interval
from equipoise.scripts.studies.report import INTERVALS, Comparison, compare, shown, table
from equipoise.scripts.suite.episodes import Found

OURS = "equipoise"
COLUMNS = (
    "task",
    "learner",
    "seed",
    "steps",
    "sampled",
    "deterministic",
    "random",
    "seconds",
    "commit",
    "curve",
)
Runs = Mapping[tuple[str, str, int], Found]
"""(task, learner, seed) -> what was found."""
LEGEND = f"""\
Score: 0 = uniformly random actions, 1 = the best mean return that any run of the table reached at its end,
sampled or deterministic. *Area*: mean score of the training episodes over the whole run. *Sampled*,
*deterministic*: of the trained policy, the same starts for all. {INTERVALS}"""


def brief(found: Found) -> str:
    sampled, fixed, low = (float(np.mean(x)) for x in (found.sampled, found.deterministic, found.random))
    means = f"sampled {sampled:.4g}, deterministic {fixed:.4g}, random {low:.4g}"
    return f"return in training {np.mean(found.curve):.4g}, {means}, {found.seconds:.0f} s CPU"


def body(runs: Runs, failed: Sequence[str]) -> str:
    """Tables in Markdown: every task and learner, and all tasks together."""
    scores = {task: _scores(runs, task) for task in dict.fromkeys(task for task, _, _ in runs)}
    pairs = {}
    for task, found in scores.items():
        for other in found.keys() - {OURS}:
            if OURS in found:
                pairs[task, other] = ([found[OURS]["area"]], [found[other]["area"]])
    compared = compare(pairs)
    rows = [["task", "learner", "area, IQM", "sampled", "deterministic", "P(area of ours > theirs)", "CPU s"]]
    for task, found in scores.items():
        for learner, measures in found.items():
            cells = [shown(iqm_interval([measures[name]])) for name in ("area", "sampled", "deterministic")]
            verdict = str(compared.get((task, learner), ""))
            rows.append([task, learner, *cells, verdict, f"{np.median(measures['seconds']):.0f}"])
    text = f"{LEGEND}\n{table(rows)}\n{_together(scores, compared)}"
    return text + "".join(["\n## Failed\n\n", *(f"- {message}\n" for message in failed)] if failed else "")


def write_rows(path: Path, runs: Runs, steps: Mapping[str, int]) -> None:
    """Every run as a line of CSV, its learning curve included. `steps`: of each task's runs."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (task, learner, seed), found in sorted(runs.items()):
            means = [f"{np.mean(x):.6g}" for x in (found.sampled, found.deterministic, found.random)]
            curve = " ".join(f"{value:.5g}" for value in found.curve)
            seconds = f"{found.seconds:.1f}"
            writer.writerow([task, learner, seed, steps[task], *means, seconds, found.commit, curve])


def read_rows(path: Path, steps: Mapping[str, int]) -> dict[tuple[str, str, int], Found]:
    """The runs in `path` that are as long as `steps` says, with means in place of single episodes; none if
    there is no such file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if steps.get(row["task"]) == int(row["steps"])]
    return {(row["task"], row["learner"], int(row["seed"])): _found(row) for row in rows}


def _found(row: Mapping[str, str]) -> Found:
    curve = [float(value) for value in row["curve"].split()]
    sampled, deterministic, untrained = ([float(row[name])] for name in COLUMNS[4:7])
    return Found(curve, sampled, deterministic, untrained, float(row["seconds"]), row["commit"])


def _scores(runs: Runs, task: str) -> dict[str, dict[str, Floats]]:
    """Learner -> measure -> `[seeds]`."""
    ours = {key: found for key, found in runs.items() if key[0] == task}
    low = float(np.mean([np.mean(found.random) for found in ours.values()]))
    ends = [np.mean(part) for found in ours.values() for part in (found.sampled, found.deterministic)]
    span = max(float(max(ends)) - low, 1e-9)
    result: dict[str, dict[str, Floats]] = {}
    for learner in dict.fromkeys(learner for _, learner, _ in ours):
        mine = [found for (_, name, _), found in ours.items() if name == learner]
        columns = {
            "area": [np.mean(found.curve) for found in mine],
            "sampled": [np.mean(found.sampled) for found in mine],
            "deterministic": [np.mean(found.deterministic) for found in mine],
        }
        result[learner] = {
            name: (np.array(values, np.float64) - low) / span for name, values in columns.items()
        }
        result[learner]["seconds"] = np.array([found.seconds for found in mine])
    return result


def _together(
    scores: Mapping[str, Mapping[str, Mapping[str, Floats]]], compared: Mapping[tuple[str, str], Comparison]
) -> str:
    """How the areas compare over all tasks that somebody else learns too."""
    both = [task for task in scores if any(name == task for name, _ in compared)]
    if not both:
        return ""
    ours = np.mean([iqm_interval([scores[task][OURS]["area"]]).value for task in both])
    best = [
        max(iqm_interval([found["area"]]).value for name, found in scores[task].items() if name != OURS)
        for task in both
    ]
    lower = [task for (task, _), c in compared.items() if c.shows_a_difference and c.probability.value < 0.5]
    higher = [task for (task, _), c in compared.items() if c.shows_a_difference and c.probability.value > 0.5]
    return (
        f"Over {len(both)} tasks the mean of the interquartile means of the area is {ours:.3f} for ours and "
        f"{np.mean(best):.3f} for the others. Ours is shown to be better on {', '.join(higher) or 'none'}; "
        f"worse on {', '.join(lower) or 'none'}.\n"
    )
