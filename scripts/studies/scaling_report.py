"""The report of `scripts.scaling`: fixed against adaptive weights in every cell, as tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equipoise.scripts.studies.experiments import Failure
from equipoise.scripts.studies.intervals import Floats, iqm_interval
from equipoise.scripts.studies.report import INTERVALS, Comparison, compare, failed, shown, table
from equipoise.scripts.studies.results import MEASURES, Measure, Result

_ARM = re.compile(
    r"(?P<optimizer>adam|sgd)_(?P<kind>[xw])(?P<size>[\d.]+)(?P<bonus>_no_entropy)?(?P<trunks>_own_trunks)?_"
    r"(?P<weights>fixed|adaptive|control)"
)
LEGEND = f"""\
Score: 0 = uniformly random actions, 1 = the scripted expert; interquartile means over the runs. *Area*: mean
height of the learning curve. *Final*: the closing evaluation.
{INTERVALS}*Correct*: decisions as the expert's, *error*: of the parameters, in half ranges; medians, fixed →
adaptive. *Push*: of the discrete over that of the continuous side per unit of base weight, geometric mean
over the last quarter, fixed → adaptive. *Skipped*: updates whose gradient was not finite, in all runs
together, likewise.
"""
STYLES = {
    "fixed": ("fixed weights", "o", "--", "#d55e00"),
    "adaptive": ("adaptive weights", "s", "-", "#000000"),
    "control": ("fixed where adaptive ended", "^", ":", "#0072b2"),
}


@dataclass(frozen=True)
class Condition:
    """What all cells of a table have in common."""

    optimizer: str
    bonus: bool
    own_trunks: bool

    @property
    def title(self) -> str:
        name = {"adam": "Adam", "sgd": "SGD"}[self.optimizer]
        return f"{name}, {'with' if self.bonus else 'without'} entropy bonus" + (
            ", a trunk for each side" if self.own_trunks else ""
        )


Runs = Mapping[str, list[Result]]
"""Kind of weights -> its runs."""
Cells = dict[tuple[str, float], dict[str, list[Result]]]
"""`("x", factor)` or `("w", base weight)` -> runs."""


def arranged(results: Sequence[Result]) -> dict[Condition, Cells]:
    """The runs by condition, cell and kind of weights, without those that tuned SGD."""
    found: dict[Condition, Cells] = {}
    for result in results:
        if match := _ARM.fullmatch(result.arm):
            condition = Condition(match["optimizer"], match["bonus"] is None, match["trunks"] is not None)
            cell = match["kind"], float(match["size"])
            runs = found.setdefault(condition, {}).setdefault(cell, {})
            runs.setdefault(match["weights"], []).append(result)
    order = sorted(found, key=lambda c: (c.own_trunks, c.optimizer, not c.bonus))
    return {condition: dict(sorted(found[condition].items(), key=_place)) for condition in order}


def _place(item: tuple[tuple[str, float], object]) -> tuple[bool, float]:
    (kind, size), _ = item
    return kind == "w", size


def body(results: Sequence[Result], failures: Sequence[Failure], stem: str) -> str:
    """The report in Markdown, below its title and origin. The picture and the raw numbers are `stem`.png and
    .csv beside it."""
    parts = [f"{LEGEND}\n![scores]({stem}.png)\n"]
    found = arranged(results)
    compared = _compared(found)
    for condition, cells in found.items():
        parts.append(f"\n## {condition.title}\n\n{_table(condition, cells, compared)}")
    return "".join(parts) + f"\nEvery run: [{stem}.csv]({stem}.csv)\n{failed(failures)}"


Place = tuple[Condition, tuple[str, float], Measure]


def _compared(found: Mapping[Condition, Cells]) -> dict[Place, Comparison]:
    """Adaptive against fixed weights in every cell, by area and by final score."""
    pairs = {
        (condition, cell, measure): (
            [_values(runs, "adaptive", measure)],
            [_values(runs, "fixed", measure)],
        )
        for condition, cells in found.items()
        for cell, runs in cells.items()
        for measure in MEASURES
    }
    return compare(pairs)


def _table(condition: Condition, cells: Cells, compared: Mapping[Place, Comparison]) -> str:
    with_control = any("control" in runs for runs in cells.values())
    head = ["what is wrong", "area, fixed", "area, adaptive", "P(adaptive > fixed), area"]
    head += ["final, fixed", "final, adaptive", "P(adaptive > fixed), final"]
    head += [*(["final, control"] if with_control else []), "correct", "error", "push", "skipped"]
    rows = [head]
    for cell, runs in cells.items():
        row = [_wrong(*cell)]
        for measure in MEASURES[::-1]:
            row += [_mean(runs, weights, measure) for weights in ("fixed", "adaptive")]
            row.append(str(compared.get((condition, cell, measure), "")))
        row += [_mean(runs, "control", "final")] if with_control else []
        row += [_change(runs, f, 2, np.median) for f in ("decision_accuracy", "spawn_parameter_error")]
        row.append(_change(runs, "balance_ratio", 2, lambda values: np.exp(np.mean(np.log(values)))))
        skipped = (sum(run.skipped for run in runs.get(w, ())) for w in ("fixed", "adaptive"))
        row.append(" → ".join(f"{number:g}" for number in skipped))
        rows.append(row)
    return table(rows)


def _wrong(kind: str, size: float) -> str:
    if kind == "w":
        return f"base weight {size:g}"
    return f"loss × {size:g}" if size != 1.0 else "nothing (× 1, base weight 0.7)"


def _values(runs: Runs, weights: str, measure: Measure) -> Floats:
    return np.array([getattr(run, measure) for run in runs.get(weights, ())], dtype=float)


def _mean(runs: Runs, weights: str, measure: Measure) -> str:
    values = _values(runs, weights, measure)
    return shown(iqm_interval([values])) if len(values) else ""


def _change(runs: Runs, metric: str, digits: int, middle: Callable[[Floats], float]) -> str:
    """A metric of the summaries, fixed → adaptive."""
    sides = []
    for weights in ("fixed", "adaptive"):
        known = [x for run in runs.get(weights, ()) if (x := getattr(run.summary, metric))]
        sides.append(f"{middle(np.array(known)):.{digits}f}" if known else "n/a")
    return " → ".join(sides)


def picture(results: Sequence[Result]) -> Figure:
    """Area under the learning curve against the loss's factor and the base weight, for each condition."""
    found = arranged(results)
    conditions = {c: cells for c, cells in found.items() if not c.own_trunks} or found
    figure = Figure(figsize=(9, 0.4 + 2.7 * len(conditions)), layout="constrained")
    axes = figure.subplots(len(conditions), 2, sharey=True, squeeze=False)
    for row, (condition, cells) in zip(axes, conditions.items(), strict=True):
        factors = {f"× {size:g}": runs for (kind, size), runs in cells.items() if kind == "x"}
        weights = {size: runs for (kind, size), runs in cells.items() if kind == "w"}
        if ("x", 1.0) in cells:
            weights[0.7] = cells["x", 1.0]
        _panel(row[0], factors, "discrete loss")
        by_weight = {f"{size:g}": weights[size] for size in sorted(weights)}
        _panel(row[1], by_weight, "base weight of the discrete side")
        row[0].set_ylabel(f"{condition.title}\narea under the curve", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    return figure


def headline(results: Sequence[Result]) -> Figure:
    """The same against the loss's factor alone, with the entropy bonus: a panel for each optimizer."""
    found = {c: cells for c, cells in arranged(results).items() if c.bonus and not c.own_trunks}
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, max(len(found), 1), sharey=True, squeeze=False)[0]
    for axis, (condition, cells) in zip(panels, found.items(), strict=False):
        factors = {f"× {size:g}": runs for (kind, size), runs in cells.items() if kind == "x"}
        _panel(axis, factors, "discrete loss multiplied by")
        axis.set_title(condition.title.partition(",")[0], fontsize=10)
    panels[0].set_ylabel("area under the learning curve")
    if found:
        panels[0].legend(fontsize=8)
    return figure


def _panel(axis: Axes, places: Mapping[str, Runs], label: str) -> None:
    for index, (weights, (name, marker, dash, colour)) in enumerate(STYLES.items()):
        found = [
            (x + 0.08 * (index - 1), iqm_interval([values]))
            for x, runs in enumerate(places.values())
            if len(values := _values(runs, weights, "area"))
        ]
        if not found:
            continue
        xs, means = zip(*found, strict=True)
        for x, mean in found:
            style = ":" if mean.is_range else "-"
            axis.plot([x, x], [mean.low, mean.high], color=colour, linewidth=1.5, linestyle=style)
        axis.plot(xs, [mean.value for mean in means], color=colour, marker=marker, linestyle=dash, label=name)
    axis.set_xticks(range(len(places)), list(places))
    axis.set_xlabel(label)
    axis.grid(alpha=0.3)
