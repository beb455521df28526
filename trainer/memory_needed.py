"""Estimates a run's memory before any is allocated: a system that runs out kills a process without a word.

Only what grows with the observation is counted, and only what is certainly held, so that no run is refused
that would have fitted: samples, and the first layers of multilayer perceptrons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import nn

from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.gymnasium_adapter.wrapping import OWN
from equipoise.envs.observation_parts import ObservationPart, parts_of
from equipoise.envs.protocol import BatchedEnv
from equipoise.trainer.configuration.constructors import TARGET, find_class
from equipoise.trainer.configuration.schema import ComponentConfig, Config
from equipoise.trainer.policy.encoders import MLP, Automatic, Entities, Parts
from equipoise.trainer.policy.storage import Storage
from equipoise.trainer.system.host_memory import available_memory

WIDE = 4_096
"""Size of an observation from which on a multilayer perceptron is called the wrong network."""
LARGE = 210 * 160 * 3
"""Numbers of a picture, more than a screen of Atari's has, from which on it is called large."""
SIDE = 64
"""Side, in pixels, to which the advice shrinks pictures."""
_FLOAT = 4
_COPIES_OF_SAMPLES = 4
"""Observations, final observations, the normalised ones and these shuffled for minibatches."""
_COPIES_OF_BYTES = 3
"""The same of pictures, which are not normalised."""
_COPIES_OF_LAYERS = 4
"""Copies of each: parameters, their gradient and Adam's two moments."""


class Needed(NamedTuple):
    """Bytes."""

    samples: int
    layers: int


def needed(config: Config, width: int, num_envs: int, parts: Sequence[ObservationPart] = ()) -> Needed:
    """Of a process that has `num_envs` environments with observations of `width` numbers in `parts`."""
    samples = config.trainer.batch.rollout_steps * num_envs
    each = _FLOAT * _COPIES_OF_SAMPLES * width
    classes = list(_classes(config.policy, parts))
    if classes and all(getattr(encoder, "packed", False) for encoder, _ in classes):
        each = _COPIES_OF_BYTES * Storage(parts).width
    units = sum(_first_layers(config.policy, parts))
    return Needed(each * samples, _FLOAT * _COPIES_OF_LAYERS * units * width)


def check_memory(config: Config, env: BatchedEnv) -> str | None:
    """A remark on observations that are wide for the network, or on large pictures, if they are.

    Raises:
        ValueError: the run needs more memory than there is.
    """
    width, parts = math.prod(env.observation_space.shape), parts_of(env)
    need, there = needed(config, width, env.num_envs, parts), _available(env.device)
    steps = config.trainer.batch.rollout_steps
    if there is not None and sum(need) > there:
        each = f"{_size(need.samples)} for rollouts of {steps} steps in {env.num_envs} environments"
        if need.layers:
            each += f" and {_size(need.layers)} for the first layers"
        smaller = f"{_smaller(env)}; " if width > WIDE else ""
        raise ValueError(
            f"{config.env.label}: observations of {width:,} numbers need {_size(sum(need))} of memory, "
            f"{each}, and {_size(there)} are available; {smaller}lower env.num_envs or "
            "trainer.batch.rollout_steps"
        )
    if width <= WIDE or not need.layers:
        return _large_picture(env, parts)
    units = max(_first_layers(config.policy, parts))
    pictures = any(part.picture for part in parts)
    better = "policy=auto has convolutions for pictures" if pictures else _smaller(env)
    return (
        f"observations of {width:,} numbers are wide for a multilayer perceptron: its first layer has "
        f"{units * width:,} weights; {better}, or policy.encoder._target_=module.Class names a network of "
        "your own"
    )


def _large_picture(env: BatchedEnv, parts: Sequence[ObservationPart]) -> str | None:
    pictures = (part for part in parts if part.picture)
    part = max(pictures, key=lambda each: each.stop - each.first, default=None)
    if part is None or part.stop - part.first <= LARGE:
        return None
    size, pixels = " x ".join(map(str, part.shape)), math.prod(sorted(part.shape)[-2:])
    return (
        f"{part.name or 'observation'}: pictures of {size} have {pixels / SIDE**2:.0f} times the pixels of "
        f"{SIDE} x {SIDE}, and convolutions cost as much more; {_smaller(env)}"
    )


def wide_part(policy: nn.Module, env: BatchedEnv) -> str | None:
    """A remark on the widest part of an observation that goes into a layer as it is, beside other parts."""
    modules = list(policy.modules())
    encoders = [module for module in modules if isinstance(module, Parts)]
    found = [(part.stop - part.first, units, part) for each in encoders for part, units in each.into_layers()]
    if not found or (widest := max(found, key=lambda one: one[0]))[0] <= WIDE:
        return None
    width, units, part = widest
    ways = [f"policy.encoder.parts.{part.name}._target_=module.Class names an encoder of your own"]
    if any(isinstance(module, Entities) for module in modules):  # what is beside entities has no such key
        ways = ["give smaller observations"]
    elif len(part.shape) > 1 and not part.choices:
        ways.append(f"policy.encoder.masks.{part.name}=null takes its rows for a set")
    if isinstance(ignored := getattr(env, "ignored", None), tuple):
        ways.append(f"env.ignore=[{','.join([*ignored, part.name])}] leaves it out")
    return (
        f"{part.name}, {width:,} numbers of the observation, is wide for a multilayer perceptron: its first "
        f"layer has {units * width:,} weights for it; {', or '.join(ways)}"
    )


def _first_layers(policy: ComponentConfig, parts: Sequence[ObservationPart]) -> list[int]:
    """Units of the first layer of each network that the section `policy` surely has."""
    return [
        int(section["hidden_sizes"][0])
        for encoder, section in _classes(policy, parts)
        if issubclass(encoder, MLP) and "hidden_sizes" in section
    ]


def _classes(
    policy: ComponentConfig, parts: Sequence[ObservationPart]
) -> Iterator[tuple[type[Any], Mapping[str, Any]]]:
    """The encoders that the section `policy` surely has, as classes, and their sections."""
    shared = policy.keywords.get("shared_critic", True)  # who has no such key may have no such network
    actor = policy.keywords.get("encoder")
    sections = [actor] if shared else [actor, policy.keywords.get("critic_encoder") or actor]
    for section in sections:
        if section:
            found = find_class(section[TARGET])
            yield found.chosen(parts, **section) if issubclass(found, Automatic) else found, section


def _smaller(env: BatchedEnv) -> str:
    """How to make observations of `env` smaller, ready to be typed."""
    native = getattr(env, "native_observation_space", None)
    if isinstance(native, spaces.Dict) and len(native) > 1:
        # Only parts that an observation still has.
        sizes = {
            name: spaces.flatdim(part)
            for name, part in native.items()
            if name not in getattr(env, "ignored", ()) and part.is_np_flattenable
        }
        if sizes:
            return f"env.ignore=[{max(sizes, key=lambda name: sizes[name])}] leaves out the largest part"
    if isinstance(env, GymnasiumEnv) and isinstance(native, spaces.Box) and len(native.shape) in (2, 3):
        if min(native.shape[:2]) > SIDE:
            wrapper = f"{{_target_: {OWN}ResizeObservation, shape: [{SIDE}, {SIDE}]}}"
            return f"env.wrappers=[{wrapper}] makes pictures smaller"
        if native.shape[2:] == (3,):
            return f"env.wrappers=[..., {OWN}GrayscaleObservation] leaves out the colours"
    return "give smaller observations"


def _available(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
