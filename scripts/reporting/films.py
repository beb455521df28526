"""Films for a page: small enough to travel inside of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageSequence

from equipoise.scripts.reporting.groups import Environment, Group
from equipoise.scripts.reporting.runs import Run

BUDGET = 4_000_000
"""Bytes of all films of a page."""
_WIDEST, _MOST = 400, 300
"""Pixels; frames."""


class Film(NamedTuple):
    run: Run
    group: Group
    data: bytes | None
    """A WebP; None: there was no room for it."""
    width: int = 0
    height: int = 0

    @property
    def url(self) -> str:
        return f"data:image/webp;base64,{base64.b64encode(self.data or b'').decode()}"


def choose(environments: Sequence[Environment], most: int = 4) -> dict[str, list[Film]]:
    """Of the best groups of each environment the film of a typical run: its score is the nearest to the
    group's middle."""
    left = BUDGET
    films: dict[str, list[Film]] = {}
    for environment in environments:
        found = [(group, run) for group in environment.groups if (run := _typical(environment, group))]
        films[environment.name] = []
        for group, run in found[:most]:
            film = _small(group, run, left)
            left -= len(film.data or b"")
            films[environment.name].append(film)
    return films


def _typical(environment: Environment, group: Group) -> Run | None:
    middle = environment.interval(group)
    runs = [run for run in group.runs if run.film is not None]
    if middle is None or not any(run.finished for run in runs):
        return runs[0] if runs else None
    return min(
        (r for r in runs if r.finished),
        key=lambda r: abs(getattr(r.summary, environment.score) - middle.value),
    )


def _small(group: Group, run: Run, left: int) -> Film:
    assert run.film is not None
    try:
        frames, durations, size = _read(run.film)
    except (OSError, ValueError):  # torn, or as it is being written
        return Film(run, group, None)
    content = io.BytesIO()
    frames[0].save(
        content,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=60,
        method=3,
    )
    data = content.getvalue()
    return Film(run, group, data if len(data) <= left else None, *size)


def _read(path: Path) -> tuple[list[Image.Image], list[int], tuple[int, int]]:
    frames: list[Image.Image] = []
    durations: list[int] = []
    with Image.open(path) as film:
        for frame in ImageSequence.Iterator(film):
            if len(frames) == _MOST:
                break
            durations.append(int(frame.info.get("duration", 125)))
            picture = frame.convert("RGB")
            picture.thumbnail((_WIDEST, _WIDEST))
            frames.append(picture)
    return frames, durations, frames[0].size
