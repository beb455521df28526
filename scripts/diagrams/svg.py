"""Boxes, arrows and text as SVG, on a white ground so that they can be read on a dark page, too."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

FONT = "font-family='Helvetica, Arial, sans-serif'"
MONO = "font-family='Menlo, Consolas, monospace'"
FILLS = {
    "command": "#d7e8fb",
    "path": "#dff3df",
    "wing": "#fdeccb",
    "stage": "#fbdfe8",
    "data": "#ececec",
}
Point = tuple[float, float]


class Drawing:
    """Collects elements; `text()` is the file."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height
        self._parts = [f"<title>{escape(title)}</title>", "<rect width='100%' height='100%' fill='white'/>"]

    def box(self, centre: Point, size: Point, lines: Sequence[str], kind: str, note: str = "") -> None:
        """A rounded box with centred lines, and below them `note` in small letters."""
        (x, y), (width, height) = centre, size
        self._parts.append(
            f"<rect x='{x - width / 2:.1f}' y='{y - height / 2:.1f}' width='{width:.1f}' "
            f"height='{height:.1f}' rx='6' fill='{FILLS[kind]}' stroke='#555' stroke-width='1'/>"
        )
        step, count = 16.0, len(lines) + bool(note)
        top = y - (count - 1) * step / 2 + 4.5
        for index, line in enumerate(lines):
            self.write((x, top + index * step), line, size=13)
        if note:
            self.write((x, top + len(lines) * step), note, size=11, mono=True, fill="#555")

    def write(
        self,
        at: Point,
        text: str,
        *,
        size: int = 12,
        mono: bool = False,
        fill: str = "#111",
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        weight = " font-weight='bold'" if bold else ""
        self._parts.append(
            f"<text x='{at[0]:.1f}' y='{at[1]:.1f}' text-anchor='{anchor}' font-size='{size}' "
            f"fill='{fill}'{weight} {MONO if mono else FONT}>{escape(text)}</text>"
        )

    def arrow(self, points: Sequence[Point]) -> None:
        """A smooth line through `points` from top to bottom, with a head at the last one."""
        (x, y), *rest = points
        path = f"M {x:.1f} {y:.1f}"
        for to_x, to_y in rest:
            middle = (y + to_y) / 2
            path += f" C {x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
            x, y = to_x, to_y
        self._parts.append(f"<path d='{path}' {_LINE}/>")

    def straight(self, start: Point, end: Point) -> None:
        self._parts.append(f"<path d='M {start[0]:.1f} {start[1]:.1f} L {end[0]:.1f} {end[1]:.1f}' {_LINE}/>")

    def band(self, y: float, height: float, fill: str) -> None:
        self._parts.append(
            f"<rect x='8' y='{y:.1f}' width='{self.width - 16:.1f}' height='{height:.1f}' rx='10' "
            f"fill='{fill}' stroke='#ddd'/>"
        )

    def text(self) -> str:
        size = f"viewBox='0 0 {self.width:.0f} {self.height:.0f}' width='{self.width:.0f}'"
        head = (
            "<defs><marker id='head' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7' "
            "orient='auto-start-reverse'><path d='M 0 0 L 10 5 L 0 10 z' fill='#666'/></marker></defs>"
        )
        body = "\n".join([head, *self._parts])
        return f"<svg xmlns='http://www.w3.org/2000/svg' {size}>\n{body}\n</svg>\n"


_LINE = "fill='none' stroke='#666' stroke-width='1.2' marker-end='url(#head)'"
