"""The kinds of policies, a picture each, drawn from tables: docs/policies.md."""

from __future__ import annotations

from typing import NamedTuple

from equipoise.scripts.diagrams.svg import Drawing

Box = tuple[float, float, str, str]
"""Column, row, text, and kind: of `FILLS`."""


class Picture(NamedTuple):
    title: str
    boxes: tuple[Box, ...]
    arrows: str
    """`from>to` by the places of the boxes, with spaces in between."""
    notes: tuple[tuple[float, float, str], ...] = ()
    """Text at a column and row."""


PICTURES: dict[str, Picture] = {
    "policy-parts": Picture(
        "A policy is made of parts",
        (
            (0, 0, "camera", "data"),
            (0, 1, "units, mask", "data"),
            (0, 2, "speed", "data"),
            (1, 0, "convolutions", "wing"),
            (1, 1, "deep sets", "wing"),
            (2, 1, "perceptron", "wing"),
            (3, 1, "memory", "path"),
            (4, 0.5, "choices", "command"),
            (4, 1.5, "numbers", "command"),
            (5, 1, "action", "data"),
        ),
        "0>3 1>4 2>5 3>5 4>5 5>6 6>7 6>8 7>9 8>9",
        ((1, 2.55, "encoders"), (3, 2.55, "memory (if any)"), (4, 2.55, "heads")),
    ),
    "policy-entities": Picture(
        "One choice for each of many things",
        (
            (0, 0, "unit 1", "data"),
            (0, 1, "unit 2", "data"),
            (0, 2, "unit N", "data"),
            (1, 1, "one network", "wing"),
            (2, 0, "mean of all", "path"),
            (2, 2, "edges, the rest", "path"),
            (3, 1, "one layer", "wing"),
            (4, 0, "its action", "command"),
            (4, 1, "its action", "command"),
            (4, 2, "its action", "command"),
        ),
        "0>3 1>3 2>3 3>4 3>5 3>6 4>6 5>6 6>7 6>8 6>9",
    ),
    "policy-memory": Picture(
        "What was seen before is remembered",
        (
            (0, 0, "observation 1", "data"),
            (1.2, 0, "observation 2", "data"),
            (2.4, 0, "observation 3", "data"),
            (0, 1, "memory", "path"),
            (1.2, 1, "memory", "path"),
            (2.4, 1, "memory", "path"),
            (0, 2, "action 1", "command"),
            (1.2, 2, "action 2", "command"),
            (2.4, 2, "action 3", "command"),
            (3.6, 1, "empty again", "data"),
        ),
        "0>3 1>4 2>5 3>4 4>5 3>6 4>7 5>8 5>9",
        ((3.6, 1.55, "an episode has ended"),),
    ),
    "policy-conditioning": Picture(
        "What sees the choices: nothing, numbers, or later choices and numbers",
        (
            (0, 1, "features", "wing"),
            (1, 0, "unit", "command"),
            (1, 1, "target", "command"),
            (1, 2, "where", "command"),
            (2.2, 2, "features", "wing"),
            (3.2, 0, "unit", "command"),
            (3.2, 1, "target", "command"),
            (4.3, 2, "where", "command"),
            (5.6, 1, "features", "wing"),
            (6.6, 0, "unit", "command"),
            (7.7, 1, "target", "command"),
            (8.8, 2, "where", "command"),
        ),
        "0>1 0>2 0>3 4>5 4>6 4>7 5>7 6>7 8>9 8>10 8>11 9>10 9>11 10>11",
        ((0.5, 2.7, "none"), (3.2, 2.7, "choices"), (7.2, 2.7, "autoregressive")),
    ),
    "policy-teachers": Picture(
        "What somebody else can do already",
        (
            (0, 0, "scripted expert", "data"),
            (0, 1, "trained policy", "data"),
            (0, 2, "recorded data", "data"),
            (1.2, 1, "demonstrations", "path"),
            (2.4, 0, "clone", "wing"),
            (3.6, 0, "train on", "command"),
            (3.6, 2, "stage: imitation", "command"),
        ),
        "0>3 1>3 2>3 3>4 4>5 3>6",
    ),
}
STEP, ROW, BOX = 150.0, 54.0, (122.0, 32.0)


def policy_picture(name: str) -> str:
    """The SVG of `PICTURES[name]`."""
    picture = PICTURES[name]
    rows = max([row for _, row, *_ in picture.boxes] + [row for _, row, _ in picture.notes])
    columns = max(column for column, *_ in picture.boxes)
    drawing = Drawing(columns * STEP + BOX[0] + 32, rows * ROW + BOX[1] + 32, picture.title)

    def at(column: float, row: float) -> tuple[float, float]:
        return 16 + BOX[0] / 2 + column * STEP, 16 + BOX[1] / 2 + row * ROW

    for arrow in picture.arrows.split():
        (from_column, from_row), (to_column, to_row) = (
            picture.boxes[int(end)][:2] for end in arrow.split(">")
        )
        (x, y), (to_x, to_y) = at(from_column, from_row), at(to_column, to_row)
        if from_column == to_column:
            drawing.straight((x, y + BOX[1] / 2), (to_x, to_y - BOX[1] / 2))
        else:
            drawing.straight((x + BOX[0] / 2, y), (to_x - BOX[0] / 2, to_y))
    for column, row, text, kind in picture.boxes:
        drawing.box(at(column, row), BOX, [text], kind)
    for column, row, text in picture.notes:
        drawing.write(at(column, row), text, fill="#555")
    return drawing.text()
