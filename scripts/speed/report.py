"""What the benchmark shows: tables on the terminal, pictures on the disk."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import torch
from rich import box
from rich.table import Table

from equipoise.trainer.monitor.summary import git_revision, versions

MEBIBYTE = 2**20
Result = dict[str, Any]


def machine(device: str) -> Result:
    """Where and with what a figure was measured."""
    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(terse=True),
        "threads": 1,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "clock": "CPU time of the process" if device == "cpu" else "wall",
        "versions": versions(),
        "git_revision": git_revision(),
    }


def processor() -> str:
    """The model's name; Python does not know it on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def tables(result: Result) -> list[Any]:
    """What to print, one after the other."""
    found = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    about = (
        f"{found['processor']}, {found['cores']} cores (load {found['load']:.1f}), {found['instructions']}; "
        f"{found['threads']} thread, {found['clock']}; {found['system']}; {packages}; "
        f"commit {found['git_revision']}"
    )
    growth = [_growth_table(axis, points) for axis, points in result["growth"].items()]
    remarks = "\n".join(_remarks(result["tasks"]))
    return [about, _speed_table(result["tasks"]), _phase_table(result["tasks"]), *growth, remarks]


def _remarks(tasks: Result) -> list[str]:
    needed = ", ".join(f"{name} {_spread(task['needed_floor'])}" for name, task in tasks.items())
    lines = [f"Floor without the gradients of the observations, which nobody needs: {needed} of the floor"]
    for name, task in tasks.items():
        if "default" in task["fraction_of_floor"]:
            fraction = _spread(task["fraction_of_floor"]["default"])
            lines.append(f"Default run ({name}), fraction of the floor: {fraction}; wanted: 0.35 or more")
    compiled = {
        f"{name}, {arm}": what for name, task in tasks.items() for arm, what in task["compiled"].items()
    }
    return [*lines, *(f"{title}: {what}" for title, what in compiled.items())]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("task", "arm", "phase", "place") else "right", no_wrap=True
        )
    return table


def _speed_table(tasks: Result) -> Table:
    title = "Whole loop; floor: bare matrix products = 1.00; ±: half the interquartile range"
    table = _table(title, "task", "arm", "steps/s", "ms", "of floor", "against off")
    for name, task in tasks.items():
        for arm, steps in task["steps_per_second"].items():
            fraction, against = _spread(task["fraction_of_floor"][arm]), _spread(task["against_off"][arm])
            table.add_row(name, arm, f"{steps:,.0f}", _milliseconds(task, arm), fraction, against)
        table.add_section()
    return table


def _phase_table(tasks: Result) -> Table:
    table = _table("Share of an iteration, %", "phase", *tasks)
    for phase in _phases(tasks):
        shares = (f"{100 * task['phases'].get(phase, 0.0):.1f}" for task in tasks.values())
        table.add_row(phase, *shares)
    return table


def _phases(tasks: Result) -> list[str]:
    return list(dict.fromkeys(phase for task in tasks.values() for phase in task["phases"]))


def _growth_table(axis: str, points: Result) -> Table:
    table = _table(f"Growth with {axis}", axis, "steps/s", "ms", "of the floor", "exact against off")
    for value, point in points.items():
        steps = f"{point['steps_per_second']['exact']:,.0f}"
        fraction, against = point["fraction_of_floor"]["exact"], point["against_off"]["exact"]
        table.add_row(value, steps, _milliseconds(point, "exact"), _spread(fraction), _spread(against))
    return table


def _milliseconds(task: Result, arm: str) -> str:
    return f"{1e3 * median(task['seconds'][arm]):.0f}"


def _spread(numbers: dict[str, float]) -> str:
    return f"{numbers['median']:.2f} ± {(numbers['high'] - numbers['low']) / 2:.2f}"


def memory_tables(result: Result) -> list[Any]:
    title = "Peak memory against the size of the rollout"
    table = _table(title, "T × N", "MiB above the start", "bytes a sample", "buffers in place")
    for peak in result["growth"]["peaks"]:
        share = f"{peak['bytes'] / peak['samples']:.0f}"
        in_place = "yes" if peak["buffers_in_place"] else "NO"
        table.add_row(f"{peak['samples']:,}", f"{peak['bytes'] / MEBIBYTE:.0f}", share, in_place)
    growth, flatness = result["growth"], result["flatness"]
    lines = [
        f"straight line: {growth['bytes_per_sample']:.0f} bytes a sample, off by at most "
        f"{100 * growth['largest_error']:.1f} % of the largest"
    ]
    if flatness:
        peak, more = flatness["peak_bytes"] / MEBIBYTE, flatness["growth_bytes"] / MEBIBYTE
        lines.append(
            f"{flatness['minutes']:g} minutes of the default run, {flatness['iterations']:,} iterations: "
            f"peak {peak:.0f} MiB, {more:+.1f} MiB in the last nine tenths"
        )
    return [table, "\n".join(lines)]


def profile_tables(result: Result) -> list[Any]:
    return [_profile_table(arm, tasks) for arm, tasks in result.items() if arm not in ("command", "machine")]


def _profile_table(arm: str, tasks: Result) -> Table:
    table = _table(f"Where the time of an iteration goes, ms: {arm}", "place", *tasks)
    for place in next(iter(tasks.values()))["places"]:
        times = [task["places"][place] for task in tasks.values()]
        if any(times):
            table.add_row(place, *(f"{time:.1f}" for time in times))
    table.add_section()
    for name, title in (("iteration", "an iteration"), ("needed_floor", "floor, needed products alone")):
        table.add_row(title, *(f"{task[name]:.1f}" for task in tasks.values()))
    return table


def plot(result: Result, path: Path) -> None:
    """Fractions of the floor, phases, and one panel for each axis of growth."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 8), layout="constrained")
    _plot_fractions(axes.flat[0], result["tasks"])
    _plot_phases(axes.flat[1], result["tasks"])
    for panel, (axis, points) in zip(list(axes.flat)[2:], result["growth"].items(), strict=False):
        numbers = [int(value) for value in points]
        for arm in ("floor", "off", "exact"):
            panel.plot(numbers, [1e3 * median(p["seconds"][arm]) for p in points.values()], "o-", label=arm)
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="ms an iteration")
        panel.set_xticks(numbers, [str(n) for n in numbers])
        panel.minorticks_off()
        panel.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _plot_fractions(panel: Any, tasks: Result) -> None:
    arms = list(dict.fromkeys(arm for task in tasks.values() for arm in task["fraction_of_floor"]))
    width = 1 / (len(arms) + 1)
    for index, arm in enumerate(arms):
        found = [(i, task["fraction_of_floor"].get(arm)) for i, task in enumerate(tasks.values())]
        bars = [(i + index * width, s) for i, s in found if s is not None]
        errors = [[s["median"] - s["low"] for _, s in bars], [s["high"] - s["median"] for _, s in bars]]
        heights = [s["median"] for _, s in bars]
        panel.bar([place for place, _ in bars], heights, width, yerr=errors, label=arm)
    panel.set_xticks([i + 0.4 for i in range(len(tasks))], list(tasks))
    panel.set(title="fraction of the floor", ylim=(0, 1))
    panel.legend(fontsize="small")


def _plot_phases(panel: Any, tasks: Result) -> None:
    bottom = [0.0] * len(tasks)
    for phase in _phases(tasks):
        shares = [task["phases"].get(phase, 0.0) for task in tasks.values()]
        panel.bar(list(tasks), shares, bottom=bottom, label=phase)
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    panel.set(title="share of an iteration", ylim=(0, 1))
    panel.legend(fontsize="small")


def plot_memory(result: Result, path: Path) -> None:
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    peaks = result["growth"]["peaks"]
    left.plot([p["samples"] for p in peaks], [p["bytes"] / MEBIBYTE for p in peaks], marker="o")
    left.set(xlabel="T × N", ylabel="MiB above the start", xlim=(0, None), ylim=(0, None))
    if result["flatness"]:
        series = result["flatness"]["series"]
        right.plot([seconds / 60 for seconds, _ in series], [peak / MEBIBYTE for _, peak in series])
        right.set(xlabel="minutes", ylabel="peak MiB", ylim=(0, None))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _pyplot() -> Any:
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot  # only once the backend is chosen

    return pyplot
