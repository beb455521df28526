"""A layered drawing of a graph without circles (Sugiyama, Tagawa, Toda, 1981): every arrow points down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

SWEEPS = 40
SETTLING = 400
"""Sweeps of `_positions`: a chain of boxes straightens slowly."""


@dataclass(frozen=True)
class Layout:
    layers: list[list[str]]
    """Names from top to bottom, each layer from left to right, bends of long arrows among them."""
    x: dict[str, float]
    """Centre of every name."""
    paths: list[list[str]]
    """An arrow each: where it starts, its bends, where it ends."""


def layout(graph: Mapping[str, set[str]], width: Callable[[str], float], gap: float) -> Layout:
    """Place `graph`; `width(name)` of a box, `gap` between neighbours. Bends have the width 0."""
    depth = _depths(graph)
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in sorted(graph):
        layers[depth[name]].append(name)
    above: dict[str, list[str]] = {name: [] for name in graph}
    below: dict[str, list[str]] = {name: [] for name in graph}
    paths = []
    for source in sorted(graph):
        for target in sorted(graph[source]):
            path = [source]
            for layer in range(depth[source] + 1, depth[target]):
                bend = f"{source}>{target}@{layer}"
                layers[layer].append(bend)
                above[bend], below[bend] = [], []
                path.append(bend)
            path.append(target)
            for upper, lower in pairwise(path):
                below[upper].append(lower)
                above[lower].append(upper)
            paths.append(path)
    widths = {name: width(name) if name in graph else 0.0 for layer in layers for name in layer}
    layers = _fewest_crossings(layers, above, below)
    return Layout(layers, _positions(layers, above, below, widths, gap), paths)


def _depths(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """The layer of each name: just below the lowest of those that have an arrow to it."""
    above: dict[str, list[str]] = {name: [] for name in graph}
    for source, targets in graph.items():
        for target in targets:
            above[target].append(source)
    depth: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((of(source) for source in above[name]), default=-1)
        return depth[name]

    return {name: of(name) for name in graph}


def _fewest_crossings(
    layers: list[list[str]], above: dict[str, list[str]], below: dict[str, list[str]]
) -> list[list[str]]:
    best, fewest = layers, _crossings(layers, below)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        layers = [list(layer) for layer in layers]
        for index in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            beside = layers[index - 1 if down else index + 1]
            place = {name: position for position, name in enumerate(beside)}
            now = {name: position for position, name in enumerate(layers[index])}

            means = {n: fmean([place[m] for m in neighbours[n]] or [now[n]]) for n in layers[index]}
            layers[index].sort(key=means.__getitem__)
        crossings = _crossings(layers, below)
        if crossings < fewest:
            best, fewest = layers, crossings
    return best


def _crossings(layers: list[list[str]], below: dict[str, list[str]]) -> int:
    total = 0
    for upper, lower in pairwise(layers):
        place = {name: position for position, name in enumerate(lower)}
        ends = [place[n] for name in upper for n in sorted(below[name], key=place.__getitem__)]
        total += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return total


def _positions(
    layers: list[list[str]],
    above: dict[str, list[str]],
    below: dict[str, list[str]],
    widths: dict[str, float],
    gap: float,
) -> dict[str, float]:
    """Near the middle of a name's neighbours, without changing the order or coming too close."""
    x: dict[str, float] = {}
    for layer in layers:
        edge = 0.0
        for name in layer:
            x[name] = edge + widths[name] / 2
            edge += widths[name] + gap
        x.update({name: x[name] - edge / 2 for name in layer})
    for sweep in range(SETTLING):
        for layer in layers if sweep % 2 else reversed(layers):
            sides = {name: [s for s in (above[name], below[name]) if s] or [[name]] for name in layer}
            wanted = {name: fmean([fmean([x[n] for n in side]) for side in sides[name]]) for name in layer}
            x.update(_apart(layer, wanted, widths, gap))
    left = min(x[name] - widths[name] / 2 for name in x)
    return {name: centre - left for name, centre in x.items()}


def _apart(
    layer: list[str], wanted: dict[str, float], widths: dict[str, float], gap: float
) -> dict[str, float]:
    """The mean of the leftmost and the rightmost placement that keeps everything apart."""
    right: dict[str, float] = {}
    left: dict[str, float] = {}
    for previous, name in zip([None, *layer], layer, strict=False):
        least = right[previous] + (widths[previous] + widths[name]) / 2 + gap if previous else wanted[name]
        right[name] = max(wanted[name], least)
    backwards = layer[::-1]
    for previous, name in zip([None, *backwards], backwards, strict=False):
        most = left[previous] - (widths[previous] + widths[name]) / 2 - gap if previous else wanted[name]
        left[name] = min(wanted[name], most)
    return {name: (left[name] + right[name]) / 2 for name in layer}
