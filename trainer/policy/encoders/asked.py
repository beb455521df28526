"""What a configuration asks of the parts of an observation, and what their names say by themselves."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from equipoise.envs.observation_parts import ObservationPart
from equipoise.trainer.policy.protocol import Encoder

MASK = "_mask"
"""What the name of the part that says which things of a set exist ends in, after the name of the set."""


def by_name(
    asked: Mapping[Any, Any], named: Mapping[str, ObservationPart], before: str = ""
) -> Iterator[tuple[str, Any]]:
    """What is asked of parts, by their full names: `{arm: {camera: …}}` is of the part `arm.camera`."""
    for key, value in asked.items():
        name = f"{before}{key}"
        inside = name not in named and any(part.startswith(f"{name}.") for part in named)
        if inside and isinstance(value, Mapping):
            yield from by_name(value, named, f"{name}.")
        else:
            yield name, value


def masks_by_name(parts: Mapping[str, ObservationPart]) -> dict[str, str | None]:
    """The sets among `parts` whose masks are called like them."""
    return {
        name: name + MASK
        for name, part in parts.items()
        if len(part.shape) == 2
        and name + MASK in parts
        and parts[name + MASK].shape == part.shape[:1]
        and not parts[name + MASK].choices
    }


def bound(encoder: type[Encoder], keywords: Mapping[str, Any], key: str) -> Any:
    """The class with keywords from a configuration; raises ValueError for those that it does not take."""
    known = [name for name in inspect.signature(encoder).parameters if not name.startswith("observation_")]
    for name, value in keywords.items():
        if name not in known:
            raise ValueError(f"{key}.{name} = {value}: unknown key of {encoder.__name__}; its keys: {known}")
    return partial(encoder, **keywords)


def refuse_unknown(
    named: Mapping[str, ObservationPart], parts: Mapping[str, Any], masks: Mapping[str, str | None]
) -> None:
    def wrong() -> Iterator[tuple[str, str]]:
        yield from ((f"parts.{name}", name) for name in parts)
        yield from ((f"masks.{name}", name) for name in masks)
        yield from ((f"masks.{name}", mask) for name, mask in masks.items() if mask is not None)

    for key, name in wrong():
        if name not in named:
            raise ValueError(f"{key}: {name!r} is no part of the observation; there are {list(named)}")
    for name, mask in masks.items():
        if len(named[name].shape) < 2:
            raise ValueError(f"masks.{name}: a set has shape [things, features], not {named[name].shape}")
        if mask is not None and math.prod(named[mask].shape) != named[name].shape[0]:
            raise ValueError(
                f"masks.{name} = {mask}: must hold a number for each of {named[name].shape[0]} things; it "
                f"has shape {named[mask].shape}"
            )
