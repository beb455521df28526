"""Curves with bands as SVG: coloured by the page's style sheet, and told apart by dashes and labels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from equipoise.scripts.studies.intervals import Floats, iqm_interval

STYLES = 8
"""How many groups have a colour and a dash of their own."""
POINTS = 80
"""Most points of a curve: more cannot be told apart at this size."""
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 560, 300, 54, 12, 40
_ROOM = 14
"""Between the baselines of two labels."""
_LETTER = 7.3
"""Width of a letter, about."""
_LONGEST = 20


class Line(NamedTuple):
    """A group's curve: interquartile mean over its runs, in a band of the interval or of the range."""

    name: str
    style: int
    steps: Floats
    middle: Floats
    low: Floats
    high: Floats


class Level(NamedTuple):
    """A constant to compare with."""

    name: str
    value: float


def band(name: str, style: int, curves: Sequence[tuple[Floats, Floats]], log: bool = False) -> Line | None:
    """The runs of a group together: at each step those that got that far. None: there is nothing to draw."""
    curves = [
        _thinned(steps[keep], values[keep])
        for steps, values in curves
        if (keep := _usable(values, log)).any()
    ]
    if not curves:
        return None
    steps = max((steps for steps, _ in curves), key=lambda steps: (steps[-1], len(steps)))
    to, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    found = []
    for step in steps:
        there = [float(np.interp(step, s, v)) for s, v in curves if s[0] <= step <= s[-1]]
        found.append(back(np.array(iqm_interval([to(np.array(there))])[:3])))
    middle, low, high = np.array(found).T
    return Line(name, style, steps, middle, low, high)


def _usable(values: Floats, log: bool) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values) & (values > (0.0 if log else -np.inf)))


def _thinned(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Means of neighbours where there are more than `POINTS`; the last step stays."""
    if len(steps) <= POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), POINTS)
    means = np.array([values[part].mean() for part in parts])
    return np.array([steps[part[-1]] for part in parts]), means


def chart(
    title: str, note: str, lines: Sequence[Line], levels: Sequence[Level] = (), log: bool = False
) -> str:
    """A figure of HTML: the title, the curves, a label at the end of each, numbers for the tooltip."""
    own = [line for line in lines if line.style < STYLES]
    rest = [line for line in lines if line.style >= STYLES]
    axes = _Axes(lines, levels, log, [line.name for line in own])
    drawn = [
        *axes.grid(),
        *(axes.level(level) for level in levels),
        *(axes.line(line) for line in rest),
        *(axes.area(line) for line in own),
        *(axes.line(line) for line in own),
        *axes.labels(own, levels),
    ]
    if rest:
        note += f" Grey: the {len(rest)} other groups."
    numbers, spoken = escape(axes.numbers(lines)), escape(f"{title}: {_spoken(own)}")
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> <span>{escape(note)}</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" tabindex="0" role="img" data-numbers="{numbers}" '
        f'aria-label="{spoken}">{"".join(drawn)}'
        '<line class="cursor" y1="12" y2="260" hidden></line></svg>'
        '<div class="tip" aria-live="polite" hidden></div></figure>'
    )


def sample(style: int) -> str:
    """A short piece of a group's line, for tables."""
    kind = f"s{style}" if style < STYLES else "rest"
    return (
        f'<svg class="sample" viewBox="0 0 34 12" aria-hidden="true"><path class="line {kind}" d="M1 6H33"/>'
        f"{_mark(style, 17.0, 6.0) if style < STYLES else ''}</svg>"
    )


class _Axes:
    def __init__(
        self, lines: Sequence[Line], levels: Sequence[Level], log: bool, names: Sequence[str]
    ) -> None:
        self.common = _common(names)
        labels = [*(name.removeprefix(self.common) for name in names), *(level.name for level in levels)]
        longest = max((len(_shortened(label)) for label in labels), default=0)
        self.log, self.right = log, _WIDTH - 24 - _LETTER * longest
        self.last = max((float(line.steps[-1]) for line in lines), default=1.0) or 1.0
        values = [x for line in lines for x in (line.low, line.high)] + [
            np.array([level.value]) for level in levels
        ]
        found = np.concatenate(values) if values else np.array([0.0, 1.0])
        self.ticks = (
            _log_ticks(found.min(), found.max()) if log else _ticks(float(found.min()), float(found.max()))
        )
        to: Callable[[float], float] = math.log if log else float
        low, high = min(to(found.min()), to(self.ticks[0])), max(to(found.max()), to(self.ticks[-1]))
        self.low, self.high, self._to = low, high if high > low else low + 1.0, to

    def x(self, step: float) -> float:
        return _LEFT + (self.right - _LEFT) * step / self.last

    def y(self, value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (self.high - self._to(value)) / (self.high - self.low)

    def grid(self) -> Iterator[str]:
        for tick in self.ticks:
            y = self.y(tick)
            yield (
                f'<path class="grid" d="M{_LEFT} {y:.1f}H{self.right}"/>'
                f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
            )
        for tick in _ticks(0.0, self.last, 4):
            if tick <= self.last:
                yield (
                    f'<text class="tick" x="{self.x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 17}" '
                    f'text-anchor="middle">{steps(tick)}</text>'
                )
        yield (
            f'<text class="tick" x="{(_LEFT + self.right) / 2:.0f}" y="{_HEIGHT - 6}" '
            'text-anchor="middle">environment steps</text>'
        )

    def level(self, level: Level) -> str:
        return f'<path class="level" d="M{_LEFT} {self.y(level.value):.1f}H{self.right}"/>'

    def area(self, line: Line) -> str:
        there = self._points(line.steps, line.high) + self._points(line.steps, line.low)[::-1]
        return f'<path class="band s{line.style}" d="M{"L".join(there)}Z"/>'

    def line(self, line: Line) -> str:
        points = self._points(line.steps, line.middle)
        if line.style >= STYLES:
            return f'<path class="line rest" d="M{"L".join(points)}"/>'
        every = max(len(points) // 6, 1)
        at = range(line.style % every, len(points), every)
        marks = (_mark(line.style, self.x(line.steps[i]), self.y(line.middle[i])) for i in at)
        return f'<path class="line s{line.style}" d="M{"L".join(points)}"/>{"".join(marks)}'

    def labels(self, lines: Sequence[Line], levels: Sequence[Level]) -> Iterator[str]:
        """Beside the ends of their lines, moved apart where these are close."""
        wanted = [(self.y(level.value), self.right, "level", level.name) for level in levels]
        for line in lines:
            end = self.x(float(line.steps[-1]))
            wanted.append((self.y(float(line.middle[-1])), end, f"s{line.style}", line.name))
        wanted.sort()
        places = _apart([y for y, *_ in wanted], _TOP + 4.0, float(_HEIGHT - _BOTTOM))
        for place, (y, end, kind, name) in zip(places, wanted, strict=True):
            label = _shortened(name.removeprefix(self.common))
            yield (
                f'<path class="leader" d="M{end + 3:.1f} {y:.1f}L{self.right + 10} {place:.1f}"/>'
                f'<text class="label {kind}" x="{self.right + 13}" y="{place + 4:.1f}">'
                f"{escape(label)}</text>"
            )

    def numbers(self, lines: Sequence[Line]) -> str:
        """For the script: where the points are, and what is said of them."""
        told = [
            {
                "name": line.name,
                "style": min(line.style, STYLES),
                "x": [round(self.x(step), 1) for step in line.steps],
                "steps": [steps(step) for step in line.steps],
                "values": [
                    number(m) if m == low == high else f"{number(m)} [{number(low)}, {number(high)}]"
                    for m, low, high in zip(line.middle, line.low, line.high, strict=True)
                ],
            }
            for line in sorted(lines, key=lambda line: line.style)
        ]
        return json.dumps(told, separators=(",", ":"))

    def _points(self, steps: Floats, values: Floats) -> list[str]:
        return [f"{self.x(s):.1f} {self.y(v):.1f}" for s, v in zip(steps, values, strict=True)]


def _mark(style: int, x: float, y: float) -> str:
    """A disc, square, triangle or diamond, filled for the first four styles, hollow for the others."""
    r = 3.4
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {2 * r}h{-2 * r - 2}z",
        f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l{-r - 1} {r + 1}l{-r - 1} {-r - 1}z",
    )
    return f'<path class="mark s{style}{" hollow" if style >= len(shapes) else ""}" d="{shapes[style % 4]}"/>'


def _common(names: Sequence[str]) -> str:
    """What all of several names begin with, up to an equals sign: their labels need not repeat it."""
    if len(names) < 2:
        return ""
    length = next((i for i, letters in enumerate(zip(*names, strict=False)) if len({*letters}) > 1), 0)
    return names[0][: names[0].rfind("=", 0, length) + 1]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _apart(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """The sorted `places` of labels, moved as little as keeps each from the one above it and inside."""
    moved = list(places)
    for i in range(len(moved)):
        moved[i] = max(moved[i], top if i == 0 else moved[i - 1] + _ROOM)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], bottom if i == len(moved) - 1 else moved[i + 1] - _ROOM)
    return moved


def _spoken(lines: Sequence[Line]) -> str:
    return "; ".join(f"{line.name} ends at {number(line.middle[-1])}" for line in lines) or "no values"


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from just below `low` to just above `high`."""
    if high <= low:
        low, high = (0.0, 1.0) if low == 0.0 else (low - abs(low) / 2.0, high + abs(high) / 2.0)
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    subs = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [sub * 10.0**power for power in powers for sub in subs]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    below, above = [t for t in ticks if t < low], [t for t in ticks if t > high]
    return inside if len(inside) >= 2 else [*below[-1:], *inside, *above[:1]]


def number(value: float) -> str:
    """With four significant digits."""
    return _plain(f"{value:.4g}")


def rounded(value: float) -> str:
    """With three significant digits, zeros at the end among them: numbers below each other line up."""
    if abs(value) >= 1000.0 or value == 0.0:
        return _plain(f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}")
    return _plain(f"{value:#.3g}".rstrip("."))


def _plain(text: str) -> str:
    """`−0.01` for `-0.01`, `1e−6` for `1e-06`."""
    text = re.sub(r"e([+-])0*", r"e\1", text).replace("e+", "e").replace("-", "−")
    return "0" if text == "−0" else text


def steps(value: float) -> str:
    """As `150k`, `1.5M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
