"""Pictures of flat worlds, in world coordinates with y pointing up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)
GREY: Color = (150, 150, 150)
BLACK: Color = (30, 30, 30)
BLUE: Color = (40, 90, 200)
RED: Color = (205, 60, 50)
GREEN: Color = (60, 150, 80)
ORANGE: Color = (235, 140, 40)


class Canvas:
    """The world rectangle `left..right × bottom..top` on a picture `width` pixels wide."""

    def __init__(
        self,
        left: float,
        right: float,
        bottom: float,
        top: float,
        width: int = 400,
        background: Color = WHITE,
    ) -> None:
        self._left, self._top = left, top
        self._scale = width / (right - left)
        self._image = Image.new("RGB", (width, round((top - bottom) * self._scale)), background)
        self._draw = ImageDraw.Draw(self._image)

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        return (x - self._left) * self._scale, (self._top - y) * self._scale

    def disc(self, x: float, y: float, radius: float, color: Color, filled: bool = True) -> None:
        px, py = self._pixel(x, y)
        r = max(radius * self._scale, 2.0)
        self._draw.ellipse((px - r, py - r, px + r, py + r), fill=color if filled else None, outline=color)

    def line(self, points: Sequence[tuple[float, float]], color: Color, width: int = 2) -> None:
        self._draw.line([self._pixel(x, y) for x, y in points], fill=color, width=width)

    def box(self, left: float, bottom: float, right: float, top: float, color: Color) -> None:
        self._draw.rectangle((*self._pixel(left, top), *self._pixel(right, bottom)), fill=color)

    def array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """`[height, width, 3]`."""
        return np.array(self._image, dtype=np.uint8)
