"""Draws the diagrams of the documentation: `python -m scripts.draw_diagrams [--out docs/images]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from equipoise.scripts.diagrams.data_flow import data_flow
from equipoise.scripts.diagrams.imports import importable_at, reduced, rooms
from equipoise.scripts.diagrams.layered import layout
from equipoise.scripts.diagrams.policies import PICTURES, policy_picture
from equipoise.scripts.diagrams.svg import Drawing

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "eda9316"
"""Version 0.1.0."""
COMMANDS = ("run", "evaluate", "play", "export")
GAP, ROW, HEIGHT = 18.0, 74.0, 34.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the diagrams of the documentation.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "images", help="folder (default: docs/images)"
    )
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    (out / "data-flow.svg").write_text(data_flow())
    for name in PICTURES:
        (out / f"{name}.svg").write_text(policy_picture(name))
    (out / "imports-after.svg").write_text(imports("equipoise.trainer", "Imports in trainer/"))
    try:
        with importable_at(BEFORE, ROOT, "trainer", "envs"):
            (out / "imports-before.svg").write_text(imports("trainer", "Imports in trainer/, version 0.1.0"))
    except subprocess.CalledProcessError as error:
        print(f"imports-before.svg is left as it is: {error.stderr.decode().strip()}")
    print(f"drawn in {out}")
    return 0


def imports(package: str, title: str) -> str:
    """The rooms of `package` as SVG: commands at the top, what everything uses at the bottom."""
    graph, sizes = rooms(package)
    graph = {
        room: targets for room, targets in graph.items() if targets or any(room in t for t in graph.values())
    }
    return draw(reduced(graph), sizes, title)


def draw(graph: dict[str, set[str]], sizes: dict[str, int], title: str) -> str:
    """`graph` as SVG; rooms in `sizes` are folders with that many files."""

    def width(room: str) -> float:
        return 7.6 * max(len(room), 9) + 18

    placed = layout(graph, width, GAP)
    right = max(x + (width(name) / 2 if name in graph else 0.0) for name, x in placed.x.items())
    drawing = Drawing(right + 40, len(placed.layers) * ROW + 30, title)
    at = {
        name: (placed.x[name] + 20, 20 + HEIGHT / 2 + row * ROW)
        for row, layer in enumerate(placed.layers)
        for name in layer
    }
    for path in placed.paths:
        (x, y), *bends, (to_x, to_y) = (at[name] for name in path)
        drawing.arrow([(x, y + HEIGHT / 2), *bends, (to_x, to_y - HEIGHT / 2)])
    for room in sorted(graph):
        folder = room in sizes
        kind = "wing" if folder else "command" if room in COMMANDS else "path"
        note = f"{sizes[room]} files" if folder else ""
        drawing.box(at[room], (width(room), HEIGHT), [f"{room}/" if folder else room], kind, note)
    legend = "blue: commands · green: one file · yellow: a folder · an arrow means: imports"
    drawing.write((20, drawing.height - 12), legend, anchor="start", fill="#555")
    return drawing.text()


if __name__ == "__main__":
    sys.exit(main())
