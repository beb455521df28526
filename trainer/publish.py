"""`trainer.export format=safetensors`: a checkpoint as a folder for others, with a card."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gymnasium
import torch

from equipoise import __version__
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.space_data import from_data
from equipoise.trainer.card import card
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.hub import local
from equipoise.trainer.configuration.imports import foreign
from equipoise.trainer.evaluate import measure, numbers
from equipoise.trainer.restore import load_policy, restore
from equipoise.trainer.system import portable
from equipoise.trainer.system.checkpoint import CheckpointError


def publish(
    checkpoint: Path,
    output: Path | None,
    episodes: int,
    seed: int = 0,
    allow: Collection[str] = (),
    place: str | None = None,
) -> Path:
    """Write the folder; returns it.

    Args:
        output: the folder; None: `<checkpoint>-policy` beside the checkpoint.
        episodes: of each policy, to be measured for the card; with 0 the environment is not made.
        place: what the card says to load it from; None: this folder.

    Raises:
        ConfigError: there is no checkpoint that can be used, its environment misbehaves, or no file can be
            written.
    """
    results: dict[str, Any] = {}
    if episodes:
        try:
            restored = restore(checkpoint, "cpu", allow)
            measured = numbers(measure(restored, episodes, seed))
        except EnvError as error:
            raise ConfigError(str(error)) from error
        results = {"episodes": episodes, "seed": seed, **measured}
    else:
        load_policy(checkpoint, "cpu", allow)  # says what is wrong with it
    found = portable.find(local(checkpoint))
    interface = found.state["interface"]
    spaces = {
        "sees": _inline(from_data(interface["observation_space"])),
        "does": _inline(from_data(interface["action_space"])),
        "masks": "yes" if interface["masked"] else "no",
    }
    output = output or found.path.with_name(f"{found.path.stem}-policy")
    made_with = f"equipoise {__version__}, torch {torch.__version__.partition('+')[0]}"
    names = [name for name in foreign(found.config) if not name.startswith("<")]
    modules = list(dict.fromkeys(re.split(r"[.:]", name)[0] for name in names))
    text = card(found.config, spaces, results, modules, made_with, place or output.name)
    try:
        portable.write(output, found.state, {"made_with": made_with, "results": results}, text)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    return output


def _inline(space: gymnasium.Space[Any]) -> str:
    """On one line, as far as one reads it."""
    text = " ".join(str(space).split())
    return text if len(text) <= 300 else f"{text[:299]}…"
