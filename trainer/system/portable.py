"""A trained policy as a folder that other programs read: its weights as safetensors, all else as JSON.

    model.safetensors   the weights, and the bounds of the spaces
    config.json         the configuration, the spaces, what was measured, and the SHA-256 of the weights
    README.md           a card

It acts, bit for bit, as the checkpoint that it was made of. A run goes on from a checkpoint alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.trainer.system.checkpoint import CheckpointError, Found, newest, plain
from equipoise.trainer.system.files import replace_file

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = "equipoise-policy"
VERSION = 1
_INTERFACE = "interface"


def write(folder: Path, state: Mapping[str, Any], about: Mapping[str, Any], card: str) -> None:
    """Make the folder of a checkpoint's `state`; `about`: what else `config.json` tells.

    Raises:
        CheckpointError: the configuration is none that JSON can hold, or the files cannot be written.
    """
    from safetensors.torch import save

    tensors = {f"policy.{name}": tensor for name, tensor in state["policy"].items()}
    interface = _taken_out(state[_INTERFACE], tensors, _INTERFACE)
    # Alone in its memory and in order, as safetensors wants it.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    weights = save(tensors, {"format": "pt"})
    document = {
        "format": FORMAT,
        "version": VERSION,
        **about,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "config": plain(state["config"], "config"),
        _INTERFACE: interface,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if json.loads(text) != _as_lists(document):
        raise CheckpointError("the configuration has keys that are no text, which JSON cannot hold")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((WEIGHTS, weights), (CARD, card.encode()), (CONFIG, text.encode())):
            replace_file(folder / name, content)
    except OSError as error:
        raise CheckpointError(f"could not write {folder}: {error.strerror or error}") from error


def find(location: Path, device: str | torch.device = "cpu") -> Found:
    """The policy of such a folder, or the newest checkpoint of a run (`checkpoint.newest`).

    Of a folder, the state holds what acting and `init_from` want: `policy`, `config` and `interface`.

    Raises:
        CheckpointError: there is neither, or it is damaged.
    """
    folder = location.parent if location.name in (WEIGHTS, CONFIG) else location
    return _read(folder, device) if (folder / CONFIG).exists() else newest(location, device)


def _read(folder: Path, device: str | torch.device) -> Found:
    try:
        from safetensors.torch import load
    except ModuleNotFoundError:
        raise CheckpointError(
            f"{folder} holds weights as safetensors: install them (pip install safetensors)"
        ) from None
    try:
        document = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is no exported policy that can be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{folder / CONFIG} is of another program: its format is not {FORMAT}")
    if document.get("version") != VERSION:
        raise CheckpointError(
            f"{folder} has version {document.get('version')}, this release reads {VERSION}; "
            "load it with the release that wrote it or a newer one"
        )
    if hashlib.sha256(weights).hexdigest() != document.get("sha256"):
        raise CheckpointError(
            f"{folder / WEIGHTS} is damaged, or of another policy: its SHA-256 is not the one in {CONFIG}"
        )
    tensors = {name: tensor.to(device) for name, tensor in load(weights).items()}
    policy = {
        name.removeprefix("policy."): tensor for name, tensor in tensors.items() if name.startswith("policy.")
    }
    try:
        state = {
            "policy": policy,
            "config": document["config"],
            _INTERFACE: _put_back(document[_INTERFACE], tensors),
        }
    except KeyError as error:
        raise CheckpointError(f"{folder} lacks {error}: it is not whole") from error
    return Found(folder / WEIGHTS, state, None)


def _taken_out(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """`value` with the name of each tensor in its place, under which it is in `tensors` then."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {key: _taken_out(part, tensors, f"{name}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_taken_out(part, tensors, f"{name}.{index}") for index, part in enumerate(value)]
    return value


def _put_back(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Mapping):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: _put_back(part, tensors) for key, part in value.items()}
    return [_put_back(part, tensors) for part in value] if isinstance(value, list) else value


def _as_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_lists(part) for key, part in value.items()}
    return [_as_lists(part) for part in value] if isinstance(value, list | tuple) else value
