"""Draws the distribution over hybrid actions in one state, for any `HybridSpace`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont

from equipoise.trainer.data import Actions
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.spaces import HybridSpace

PAPER, TEXT, FAINT = (16, 19, 28), (232, 236, 242), (150, 160, 176)
_TRACK, _BAND, _MEAN = (40, 46, 62), (150, 112, 48), (255, 214, 120)
_IDLE, _IDLE_BAND, _IDLE_MEAN = (30, 34, 46), (50, 56, 70), (84, 92, 108)
_CHOICES = (
    (128, 140, 164),
    (92, 200, 128),
    (236, 98, 98),
    (120, 170, 240),
    (244, 190, 88),
    (190, 140, 240),
    (100, 206, 206),
    (240, 150, 190),
)
_SMOOTH = 2  # drawn this much larger, then scaled down, which smooths the edges
_MARGIN, _HEADER, _LABEL, _GAP = 10, 22, 20, 6
_LOWEST, _HIGHEST, _PER_LINE = 14, 40, 4


class Names(NamedTuple):
    """What the choices of each head and its parameters are called.

    Where empty, they are numbered as in `HybridSpace.describe`.
    """

    choices: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()


class _Line(NamedTuple):
    """One line of the panel: some parameters of a head, on its first line with its choices."""

    head: int | None
    parameters: Sequence[int]


class _Shown(NamedTuple):
    """A parameter in the normalised space."""

    low: float
    high: float
    mode: float
    value: float
    """What was taken."""


def draw_panel(
    space: HybridSpace,
    names: Names,
    distribution: HybridDistribution,
    actions: Actions,
    width: int,
    height: int,
) -> Image.Image:
    """Draw sample 0 of a batch as `width` × `height` pixels, one line for each head with its parameters.

    The probabilities of the choices form one bar, with the choice taken underlined. A parameter is shown as
    its deterministic value with σ to both sides within its native range, with a dot at the value taken, and
    in grey if it does not matter under the choice taken. A head with one valid choice has an empty line. The
    last line counts those that do not fit.
    """
    sheet = _Sheet(width, height)
    lines = _lines(space)
    room = height - _HEADER - _MARGIN
    row = min(max(room // len(lines), _LOWEST), _HIGHEST)
    fits = len(lines) if len(lines) * row <= room else room // row - 1
    columns = max(len(line.parameters) for line in lines)
    left = _MARGIN + (_LABEL if space.num_heads else 0)
    bar = (width - _MARGIN - left) * (0.4 if columns else 1.0) if space.num_heads else 0.0
    cell = (width - _MARGIN - left - bar) / max(columns, 1)
    _header(sheet, names, left, left + bar, cell)

    by_width = space.by_width(distribution.log_probs[:1].exp())
    probabilities = [head for part in by_width for head in part[0].tolist()]
    deciding = distribution.discrete_active()[0].tolist()
    relevant = distribution.relevant(actions.discrete)[0].tolist()
    head_of = space.head_of.tolist()
    strips = _strips(distribution, actions)
    for number, (head, parameters) in enumerate(lines[:fits]):
        top = _HEADER + number * row
        if head is not None:
            sheet.text(
                left - 8, top + row / 2, str(head), TEXT if deciding[head] else _IDLE_MEAN, anchor="rm"
            )
            shown = probabilities[head] if deciding[head] else []
            _bar(sheet, (left, top, bar, row), shown, int(actions.discrete[0, head]), names.choices)
        for column, p in enumerate(parameters):
            place = (left + bar + column * cell + _GAP, top, cell - _GAP, row)
            if head_of[p] == space.num_heads or deciding[head_of[p]]:
                _strip(sheet, place, strips[p], relevant[p])
            if not names.parameters:
                sheet.text(place[0], top + 5, f"p{p}", FAINT, size=9)
    if fits < len(lines):
        more = f"… and {len(lines) - fits} lines more"
        sheet.text(left, _HEADER + (fits + 0.5) * row, more, FAINT)
    return sheet.image.resize((width, height), Image.Resampling.LANCZOS)


def _strips(distribution: HybridDistribution, actions: Actions) -> list[_Shown]:
    family, outputs = distribution.family, (distribution.mean, distribution.log_std)
    places = [*family.interval(*outputs)]
    places += [family.in_range(samples) for samples in (family.mode(*outputs), actions.continuous)]
    return [_Shown(*place) for place in torch.stack([part[0] for part in places], -1).tolist()]


def _lines(space: HybridSpace) -> list[_Line]:
    lines = []
    head_of = space.head_of.tolist()
    for decision in range(space.num_decisions):
        own = [p for p, of in enumerate(head_of) if of == decision]
        for start in range(0, max(len(own), 1), _PER_LINE):
            head = decision if decision < space.num_heads and start == 0 else None
            lines.append(_Line(head, own[start : start + _PER_LINE]))
    return lines


class _Sheet:
    """A canvas with coordinates in final pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * _SMOOTH, height * _SMOOTH), PAPER)
        self._pen = ImageDraw.Draw(self.image)

    def box(self, left: float, top: float, right: float, bottom: float, color: tuple[int, int, int]) -> None:
        if right > left:
            corners = [round(edge * _SMOOTH) for edge in (left, top, right, bottom)]
            self._pen.rounded_rectangle(corners, radius=_SMOOTH, fill=color)

    def dot(self, x: float, y: float, radius: float, color: tuple[int, int, int]) -> None:
        box = [edge * _SMOOTH for edge in (x - radius, y - radius, x + radius, y + radius)]
        self._pen.ellipse(box, fill=color, outline=PAPER, width=_SMOOTH)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        color: tuple[int, int, int],
        size: float = 11,
        anchor: str = "lm",
    ) -> None:
        font = ImageFont.load_default(size * _SMOOTH)
        self._pen.text((x * _SMOOTH, y * _SMOOTH), text, fill=color, font=font, anchor=anchor)


def _header(sheet: _Sheet, names: Names, left: float, right: float, cell: float) -> None:
    if names.choices:
        step = (right - left) / len(names.choices)
        for choice, name in enumerate(names.choices):
            sheet.text(left + choice * step, _HEADER / 2, name, _color(choice))
    elif right > left:
        sheet.text(left, _HEADER / 2, "choices", FAINT)
    for column, name in enumerate(names.parameters):
        sheet.text(right + column * cell + _GAP, _HEADER / 2, name, _MEAN)
    if not names.parameters and cell > 0:
        sheet.text(right + _GAP, _HEADER / 2, "parameters", _MEAN)


def _bar(
    sheet: _Sheet,
    place: tuple[float, float, float, float],
    probabilities: Sequence[float],
    taken: int,
    names: tuple[str, ...],
) -> None:
    """Draw the probabilities of a head's choices; none of them if there is nothing to decide."""
    left, top, width, row = place
    upper, lower = top + 0.2 * row, top + 0.72 * row
    if not probabilities:
        sheet.box(left, upper, left + width, lower, _IDLE)
        return
    start = left
    for choice, probability in enumerate(probabilities):
        end = start + width * probability
        sheet.box(start, upper, max(end - 0.5, start), lower, _color(choice))
        if choice == taken:
            sheet.box(start, lower + 1.5, max(end - 0.5, start + 3), lower + 3.5, TEXT)
            label = str(choice) if not names else ""
            if label and end - start > 14:
                sheet.text((start + end) / 2, (upper + lower) / 2, label, PAPER, anchor="mm")
        start = end


def _strip(
    sheet: _Sheet,
    place: tuple[float, float, float, float],
    shown: _Shown,
    matters: bool,
) -> None:
    left, top, width, row = place
    middle = top + 0.5 * row

    def at(normalised: float) -> float:
        return left + width * (min(max(normalised, -1.0), 1.0) + 1.0) / 2.0

    sheet.box(left, middle - 4, left + width, middle + 4, _TRACK if matters else _IDLE)
    mode = at(shown.mode)
    sheet.box(at(shown.low), middle - 4, at(shown.high), middle + 4, _BAND if matters else _IDLE_BAND)
    sheet.box(mode - 1, middle - 4, mode + 1, middle + 4, _MEAN if matters else _IDLE_MEAN)
    if matters:
        sheet.dot(at(shown.value), middle, 3.5, TEXT)


def _color(choice: int) -> tuple[int, int, int]:
    return _CHOICES[choice % len(_CHOICES)]
