"""A picture of one colony of TopologySpawn."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from equipoise.envs.topology_spawn.rules import DELETE, SPAWN, Colony, TopologyRules
from equipoise.envs.topology_spawn.substrate import Substrate

WIDTH, HEIGHT = 640, 360
_SMOOTH = 2  # drawn this much larger, then scaled down: smooth edges
_FIELD = (16, 40, WIDTH - 16, HEIGHT - 16)  # left, top, right, bottom of the domain in the picture

_PAPER = (16, 19, 28)
_DARK, _BRIGHT = np.array((22, 30, 52.0)), np.array((58, 128, 142.0))
_TEXT, _FAINT = (232, 236, 242), (150, 160, 176)
_LINK, _NODE, _BEST = (196, 206, 220), (244, 190, 88), (255, 240, 190)
_BORN, _GONE, _GOAL = (118, 226, 150), (240, 98, 98), (130, 220, 255)


class Plan(NamedTuple):
    """What the nodes of one colony are about to do."""

    choice: Tensor
    """`[M]`."""
    landing: Tensor
    """`[2, M]`: x, y of the child that each node would have."""
    roots: Tensor
    """`[M]` bool: that child would take root."""


def draw(
    rules: TopologyRules,
    substrate: Substrate,
    colony: Colony,
    decisions: tuple[Colony, Tensor] | None = None,
    plan: Plan | None = None,
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """`[360, 640, 3]`: the substrate, the goal column, links and nodes of `colony` (`N` is 1, on the CPU).

    `decisions` are the colony one step before and the choices `[M]` made there: nodes deleted get a cross,
    newborn ones a green rim. They are left out in the first state of an episode. With a `plan`, the nodes
    are numbered and what they are about to do is drawn instead.
    """
    image = Image.fromarray(_backdrop(rules, substrate, colony)).resize((WIDTH * _SMOOTH, HEIGHT * _SMOOTH))
    pen = ImageDraw.Draw(image)
    _goal(pen, rules)
    steps = int(colony.steps)
    _links(pen, rules, colony)
    newborn = torch.zeros_like(colony.alive)
    if decisions is not None and steps > 0:
        before, choice = decisions
        stayed = before.alive & (choice != DELETE)
        newborn = colony.alive & ~stayed
        for slot in torch.nonzero((before.alive & ~stayed)[0]).flatten().tolist():
            _cross(pen, _pixel(rules, before, slot), 5 * _SMOOTH)
    if plan is None:
        _nodes(pen, rules, colony, newborn)
        _caption(pen, rules, colony)
    else:
        _plan(pen, rules, colony, plan)
        _legend(pen)
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), dtype=np.uint8).copy()


def _backdrop(
    rules: TopologyRules, substrate: Substrate, colony: Colony
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    left, top, right, bottom = _FIELD
    x = (torch.arange(right - left) + 0.5) / (right - left) * rules.width
    y = (1 - (torch.arange(bottom - top) + 0.5) / (bottom - top)) * rules.height
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    level = substrate.intensity(colony.substrate, grid_x.reshape(1, -1), grid_y.reshape(1, -1))
    level = level.view(bottom - top, right - left)
    # Lines of equal intensity, `delta_intensity` apart: one good spawn leads from line to line.
    height = level / rules.delta_intensity
    line = (height[:, 1:].floor() != height[:, :-1].floor()).numpy()
    shade = ((level - level.min()) / (level.max() - level.min())).numpy()[..., None]
    field = _DARK + (_BRIGHT - _DARK) * shade
    field[:, 1:][line] += 16
    picture = np.full((HEIGHT, WIDTH, 3), _PAPER, np.uint8)
    picture[top:bottom, left:right] = field.clip(0, 255)
    return picture


def _pixel(rules: TopologyRules, colony: Colony, slot: int) -> tuple[float, float]:
    return _place(rules, float(colony.x[0, slot]), float(colony.y[0, slot]))


def _place(rules: TopologyRules, x: float, y: float) -> tuple[float, float]:
    left, top, right, bottom = _FIELD
    column = left + x / rules.width * (right - left)
    row = bottom - y / rules.height * (bottom - top)
    return column * _SMOOTH, row * _SMOOTH


def _goal(pen: ImageDraw.ImageDraw, rules: TopologyRules) -> None:
    column, top = _place(rules, rules.goal_x, rules.height)
    bottom = _FIELD[3] * _SMOOTH
    for start in range(int(top), bottom, 12 * _SMOOTH):
        end = min(start + 7 * _SMOOTH, bottom)
        pen.line((column, start, column, end), fill=_GOAL, width=2 * _SMOOTH)
    pen.text((column + 5 * _SMOOTH, top + 3 * _SMOOTH), "goal", fill=_GOAL, font=_font(12))


def _links(pen: ImageDraw.ImageDraw, rules: TopologyRules, colony: Colony) -> None:
    for slot, parent in enumerate(colony.parent[0].tolist()):
        if parent != slot:
            ends = (*_pixel(rules, colony, parent), *_pixel(rules, colony, slot))
            pen.line(ends, fill=_LINK, width=2 * _SMOOTH)


def _nodes(pen: ImageDraw.ImageDraw, rules: TopologyRules, colony: Colony, newborn: Tensor) -> None:
    best = float(colony.best_intensity())
    for slot in torch.nonzero(colony.alive[0]).flatten().tolist():
        behind = (best - float(colony.intensity[0, slot])) / rules.delta_intensity
        glow = math.exp(-behind)
        color = tuple(round(glow * b + (1 - glow) * n * 0.8) for b, n in zip(_BEST, _NODE, strict=True))
        radius = 6 * _SMOOTH
        column, row = _pixel(rules, colony, slot)
        rim = _BORN if newborn[0, slot] else _PAPER
        box = (column - radius, row - radius, column + radius, row + radius)
        pen.ellipse(box, fill=color, outline=rim, width=2 * _SMOOTH)


def _plan(pen: ImageDraw.ImageDraw, rules: TopologyRules, colony: Colony, plan: Plan) -> None:
    alive = torch.nonzero(colony.alive[0]).flatten().tolist()
    for slot in alive:
        if plan.choice[slot] == SPAWN:
            landing = _place(rules, *plan.landing[:, slot].tolist())
            _arrow(pen, _pixel(rules, colony, slot), landing, _BORN if plan.roots[slot] else _GONE)
    for slot in alive:
        place, radius, deleted = _pixel(rules, colony, slot), 9 * _SMOOTH, plan.choice[slot] == DELETE
        if deleted:
            _cross(pen, place, radius + 2 * _SMOOTH)
        _disc(pen, place, radius, fill=_GONE if deleted else _NODE, outline=_PAPER)
        pen.text(place, str(slot), fill=_PAPER, font=_font(13), anchor="mm")


def _arrow(
    pen: ImageDraw.ImageDraw,
    start: tuple[float, float],
    end: tuple[float, float],
    color: tuple[int, int, int],
) -> None:
    """With a ring at its end: the landing spot."""
    pen.line((*start, *end), fill=color, width=3 * _SMOOTH)
    radius, head = 5 * _SMOOTH, 9 * _SMOOTH
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    tip = (end[0] - radius * math.cos(angle), end[1] - radius * math.sin(angle))
    wings = [(tip[0] - head * math.cos(a), tip[1] - head * math.sin(a)) for a in (angle - 0.5, angle + 0.5)]
    pen.polygon([tip, *wings], fill=color)
    _disc(pen, end, radius, fill=_PAPER, outline=color)


def _disc(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    radius: float,
    fill: tuple[int, int, int],
    outline: tuple[int, int, int],
) -> None:
    column, row = place
    box = (column - radius, row - radius, column + radius, row + radius)
    pen.ellipse(box, fill=fill, outline=outline, width=2 * _SMOOTH)


def _cross(pen: ImageDraw.ImageDraw, place: tuple[float, float], size: float) -> None:
    column, row = place
    for slant in (-1, 1):
        ends = (column - size, row - slant * size, column + size, row + slant * size)
        pen.line(ends, fill=_GONE, width=2 * _SMOOTH)


def _caption(pen: ImageDraw.ImageDraw, rules: TopologyRules, colony: Colony) -> None:
    row = 11 * _SMOOTH
    parts = (
        (_FIELD[0], "TopologySpawn", _TEXT),
        (190, f"step {int(colony.steps)} / {rules.max_steps}", _FAINT),
        (320, f"nodes {int(colony.alive.sum())}", _FAINT),
        (430, f"return {float(colony.earned):.1f}", _TEXT),
    )
    for column, text, color in parts:
        pen.text((column * _SMOOTH, row), text, fill=color, font=_font(14))


def _legend(pen: ImageDraw.ImageDraw) -> None:
    row = 20 * _SMOOTH
    for start, color, text in (
        (_FIELD[0], _BORN, "spawn, takes root"),
        (210, _GONE, "spawn, too far or too near"),
    ):
        column = start * _SMOOTH
        _arrow(pen, (column, row), (column + 34 * _SMOOTH, row), color)
        pen.text((column + 48 * _SMOOTH, row), text, fill=_TEXT, font=_font(15), anchor="lm")
    column = 470 * _SMOOTH
    _cross(pen, (column, row), 11 * _SMOOTH)
    _disc(pen, (column, row), 9 * _SMOOTH, fill=_GONE, outline=_PAPER)
    pen.text((column + 18 * _SMOOTH, row), "deletes itself", fill=_TEXT, font=_font(15), anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SMOOTH)
