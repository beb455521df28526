"""Plots of results as PNG and SVG, readable in black and white."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from equipoise.scripts.studies.intervals import Floats, iqm_interval, steps_to
from equipoise.scripts.studies.results import Measure, Result, by_arm, ranked, read_metric, strata

COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vXP"
_COLUMNS = 4


def save(figure: Figure, path: Path) -> list[Path]:
    """Write both formats to `path`, given without a suffix. Returns the two files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    for file in files:  # no date: the same results give the same picture
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, dpi=150, bbox_inches="tight", metadata=metadata)
    return files


def curves(results: Sequence[Result], envs: Sequence[str], score: str = "normalised score") -> Figure:
    """Learning curves: interquartile mean over the runs, in a band of its 95 % interval at each step (below
    six runs: their range)."""
    figure, axes = _panels(envs)
    for env, axis in axes.items():
        for index, arm, runs in _numbered(results, env):
            _band(axis, [(run.steps, run.scores) for run in runs], arm, index)
        axis.set(title=env, xlabel="environment steps", ylabel=score)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
    _legend(axes)
    return figure


def balance(results: Sequence[Result], envs: Sequence[str]) -> Figure:
    """Balance ratio over training, with its line at 1."""
    figure, axes = _panels(envs)
    for env, axis in axes.items():
        for index, arm, runs in _numbered(results, env):
            measured = [(run.balance_steps, run.balance) for run in runs if len(run.balance)]
            if measured:
                _band(axis, measured, arm, index, geometric=True)
        axis.axhline(1.0, color="0.5", linewidth=0.8)
        axis.set(title=env, xlabel="environment steps", ylabel="push, discrete ÷ continuous", yscale="log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # 0.5, not 5 × 10⁻¹
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3, which="both")
    _legend(axes)
    return figure


def sides(runs: Mapping[str, Sequence[Path]]) -> Figure:
    """Both sides over training, a column for each task: size of the gradient, how much of it is signal, and
    how far each part of the policy moves. `runs`: task -> folders of its runs."""
    figure = Figure(figsize=(2.7 * len(runs), 7.5), layout="constrained")
    grid = figure.subplots(len(_OF_SIDES), len(runs), squeeze=False)
    for column, (task, folders) in zip(grid.T, runs.items(), strict=True):
        for axis, (title, tag, geometric) in zip(column, _OF_SIDES, strict=True):
            for index, side in enumerate(("discrete", "continuous")):
                measured = [found for f in folders if len((found := read_metric(f, tag.format(side)))[0])]
                if measured:
                    _band(axis, measured, side, index, geometric)
            axis.set(yscale="log" if geometric else "linear")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.grid(alpha=0.3)
            if axis in grid[:, 0]:
                axis.set_ylabel(title)
        column[0].set_title(task)
        column[-1].set_xlabel("environment steps")
    grid[0, 0].legend(fontsize=8, title="side (runs)", title_fontsize=8)
    return figure


_OF_SIDES = (
    ("norm of the gradient", "gradient_scaling/{}_norm_raw", True),
    ("share of it that is signal", "gradient_scaling/{}_signal_share", False),
    ("KL divergence within an iteration", "loss/kl_{}", True),
)
"""Title, tag for each side, and whether the scale is logarithmic."""


def intervals(
    results: Sequence[Result], envs: Sequence[str], baseline: str, score: str = "normalised score"
) -> Figure:
    """Final score and area under the curve of each arm, the largest area on top.

    A tick for each run, the interquartile mean with its 95 % interval (below six runs their range, dotted),
    and the baseline's interval as a band.
    """
    names = ranked(results)
    figure = Figure(figsize=(10, 1.2 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles: dict[Measure, str] = {"final": f"final {score}", "area": f"mean {score} over the run"}
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        for row, name in enumerate(names):
            per_env = [s for s in strata(by_arm(results)[name], measure, envs) if len(s)]
            found = iqm_interval(per_env)
            if name == baseline:
                axis.axvspan(found.low, found.high, color="0.85", zorder=0)
            values = np.concatenate(per_env)
            axis.plot(values, np.full(len(values), row + 0.25), "|", color="0.4", markersize=5)
            axis.plot(
                [found.low, found.high],
                [row, row],
                color="black",
                linewidth=1 if found.is_range else 2,
                linestyle=":" if found.is_range else "-",
            )
            axis.plot(found.value, row, "o" if name != baseline else "D", color="black", markersize=6)
        axis.set(title=title, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        axis.grid(axis="x", alpha=0.3)
    return figure


def against_baseline(
    results: Sequence[Result], env: str, baseline: str, score: str = "normalised score"
) -> Figure:
    """A panel for each arm: its learning curve over that of the baseline."""
    arms = by_arm(results, env)
    names = [name for name in arms if name != baseline]
    columns = min(_COLUMNS, max(len(names), 1))
    rows = max(-(-len(names) // columns), 1)
    figure = Figure(figsize=(3 * columns, 0.6 + 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        for index, arm in enumerate((baseline, name)):
            if arm in arms:
                _band(axis, [(run.steps, run.scores) for run in arms[arm]], arm, 1 - index)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel(score, fontsize=9)
    figure.suptitle(f"{env}: each arm (black) over {baseline} (dashed)", fontsize=10)
    return figure


def efficiency(results: Sequence[Result], envs: Sequence[str], score: str = "normalised score") -> Figure:
    """Sample efficiency: for each score, the steps at which half of the runs have reached it."""
    figure, axes = _panels(envs)
    for env, axis in axes.items():
        for index, arm, runs in _numbered(results, env):
            best = max(float(run.scores.max()) for run in runs)
            thresholds = np.linspace(min(float(run.scores.min()) for run in runs), best, 60)
            steps = [
                float(np.median([steps_to(t, run.steps, run.scores) for run in runs])) for t in thresholds
            ]
            axis.plot(
                thresholds, steps, color=_colour(index), linestyle=_dash(index), label=f"{arm} ({len(runs)})"
            )
        axis.set(title=env, xlabel=score, ylabel="environment steps, median run")
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
    _legend(axes)
    return figure


def _panels(envs: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    columns = min(len(envs), _COLUMNS)
    rows = math.ceil(len(envs) / columns)
    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis in axes[len(envs) :]:
        axis.set_visible(False)
    return figure, dict(zip(envs, axes, strict=False))


def _band(
    axis: Axes, measured: Sequence[tuple[Floats, Floats]], label: str, index: int, geometric: bool = False
) -> None:
    steps, values = on_common_steps(measured)
    to, back = _scales(geometric)
    found = [iqm_interval([to(column)])[:3] for column in values.T]
    middle, low, high = (back(np.array(column)) for column in zip(*found, strict=True))
    colour = _colour(index)
    axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    every = max(len(steps) // 8, 1)
    axis.plot(
        steps,
        middle,
        color=colour,
        linestyle=_dash(index),
        marker=MARKERS[index % len(MARKERS)],
        markevery=(index % every, every),
        markersize=4,
        label=f"{label} ({len(values)})",
    )


def on_common_steps(measured: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """`[E]` steps at which all runs were measured, and their values there, `[runs, E]`.

    Runs measured at different steps are interpolated linearly, within the range that all of them cover.
    """
    steps = measured[0][0]
    if all(np.array_equal(other, steps) for other, _ in measured):
        return steps, np.stack([values for _, values in measured])
    first, last = max(s[0] for s, _ in measured), min(s[-1] for s, _ in measured)
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.stack([np.interp(steps, s, values) for s, values in measured])


def _scales(geometric: bool) -> tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]:
    return (np.log, np.exp) if geometric else (np.asarray, np.asarray)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _dash(index: int) -> str | tuple[int, tuple[int, ...]]:
    return DASHES[index % len(DASHES)]


def _numbered(results: Sequence[Result], env: str) -> Iterator[tuple[int, str, list[Result]]]:
    """The arms of `env`, each with a number that it has in all environments, whichever others are there."""
    numbers = {arm: index for index, arm in enumerate(by_arm(results))}
    for arm, runs in by_arm(results, env).items():
        yield numbers[arm], arm, runs


def _legend(axes: Mapping[str, Axes]) -> None:
    """In the first panel, and in those that show something else."""
    shown = [axis.get_legend_handles_labels()[1] for axis in axes.values()]
    for index, axis in enumerate(axes.values()):
        if shown[index] and (index == 0 or shown[index] != shown[0]):
            axis.legend(fontsize=8, title="arm (runs)", title_fontsize=8)
