"""What the comparison with other libraries shows: tables on the terminal, and the same in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from equipoise.scripts.speed.timing import ratios, spread

OURS = "equipoise"
NAMES = {
    "equipoise": "Equipoise",
    "equipoise_compiled": "Equipoise, compiled",
    "equipoise_debug": "Equipoise, fixed weights",
    "cleanrl": "CleanRL's structure, by hand",
    "cleanrl_compiled": "the same, compiled as LeanRL does",
    "jax_loop": "JAX, a whole iteration in one jit",
    "torchrl": "TorchRL",
    "rllib": "RLlib",
    "sb3": "Stable-Baselines3",
    "skrl": "skrl",
}
Result = dict[str, Any]


class Sheet(NamedTuple):
    """A table, wherever it is shown. A row shorter than the head ends with an error."""

    title: str
    head: list[str]
    rows: list[list[str]]


def sheets(result: Result) -> Iterator[Sheet]:
    for name, measured in result["tasks"].items():
        yield _speed(name, measured["peers"])
    if any("error" in found or found["runs"] for found in result["reach"].values()):
        yield _race(result)


def _speed(name: str, peers: Result) -> Sheet:
    head = ["peer", "steps per CPU second", "quartiles", "steps/s, wall", "CPU time against ours"]
    ours = peers.get(OURS, {}).get("cpu")
    rows = []
    for peer, found in peers.items():
        if "error" in found:
            rows.append([NAMES.get(peer, peer), f"n/a: {found['error']}"])
            continue
        rates = spread([found["steps"] / seconds for seconds in found["cpu"]])
        wall = found["steps"] / median(found["wall"])
        against = "–"
        if ours:
            ratio = ratios(found["cpu"], ours)
            against = f"{ratio.median:.2f} ({ratio.low:.2f} – {ratio.high:.2f})"
        quartiles = f"{rates.low:,.0f} – {rates.high:,.0f}"
        rows.append([NAMES.get(peer, peer), f"{rates.median:,.0f}", quartiles, f"{wall:,.0f}", against])
    return Sheet(name, head, rows)


def _race(result: Result) -> Sheet:
    goal = result["goal"]
    title = (
        f"CartPole-v1 to a mean return of {goal['mean_return']:g} over {goal['episodes']} training episodes"
    )
    head = ["peer", "seed", "steps", "CPU s", "with imports and building", "wall s"]
    rows = []
    for peer, found in result["reach"].items():
        name = NAMES.get(peer, peer)
        if "error" in found:
            rows.append([name, f"n/a: {found['error']}"])
            continue
        for run in found["runs"]:
            steps = "not reached" if run["steps"] is None else f"{run['steps']:,}"
            seconds = [f"{run[clock]:.1f}" for clock in ("cpu", "process", "wall")]
            rows.append([name, str(run["seed"]), steps, *seconds])
        rows.append(_middle(name, found["runs"]))
    return Sheet(title, head, rows)


def _middle(name: str, runs: list[Result]) -> list[str]:
    """Medians; a run that did not reach the goal took longer than all that did."""
    reached = [run["steps"] for run in runs if run["steps"] is not None]
    steps = median([*reached, *[float("inf")] * (len(runs) - len(reached))])
    shown = "not reached" if steps == float("inf") else f"{steps:,.0f}"
    seconds = [f"{median(run[clock] for run in runs):.1f}" for clock in ("cpu", "process", "wall")]
    return [name, f"median, {len(reached)} of {len(runs)} reached it", shown, *seconds]


def versions(result: Result) -> str:
    """Of all packages that took part."""
    measured = [task["peers"] for task in result["tasks"].values()] + [result["reach"]]
    found: dict[str, str] = {}
    for peers in measured:
        for peer in peers.values():
            found |= peer.get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def about(result: Result) -> str:
    place = result["machine"]
    return (
        f"{place['processor']}, {place['cores']} cores (load {place['load']:.1f}), {place['system']}; one "
        f"thread for each peer; {versions(result)}; commit {place['git_revision']}"
    )


def tables(result: Result) -> list[Any]:
    """What to print, one after the other."""
    return [about(result), *map(as_table, sheets(result))]


def as_table(sheet: Sheet) -> Table:
    table = Table(title=sheet.title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in sheet.head:
        table.add_column(column, justify="left" if column in ("peer", "seed") else "right")
    for row in sheet.rows:
        table.add_row(*row)
    return table


def markdown(result: Result, shown: Iterable[Sheet] | None = None) -> str:
    """`shown`: other sheets than those that `result` has by itself."""
    lines = [f"{about(result)}.", "", "```", result["command"], "```"]
    for sheet in sheets(result) if shown is None else shown:
        lines += [
            "",
            f"**{sheet.title}**",
            "",
            *(_line(row) for row in (sheet.head, ["---"] * len(sheet.head))),
        ]
        lines += [_line([*row, *[""] * (len(sheet.head) - len(row))]) for row in sheet.rows]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
