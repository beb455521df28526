"""`init_from`: a new run starts from the weights of another one, as far as they fit.

Only tensors, and the description of the spaces that they are for, are read: nothing that the checkpoint
names is imported. Layers are matched by name; the rows of output layers by the head, parameter or reward that
each is for, so that the new policy may have more of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from equipoise.envs.action_table import ActionTable
from equipoise.envs.space_data import from_data
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.hub import local
from equipoise.trainer.data import critic_heads
from equipoise.trainer.policy.continuous import FAMILIES
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.system.checkpoint import CheckpointError
from equipoise.trainer.system.portable import find

SHOWN = 6
"""Most layers of a kind that the line names."""

_ROWS = {
    "discrete_head": ("choices", 0),
    "continuous_head": ("parameters", 0),
    "log_std_head": ("parameters", 0),
    "log_std": ("parameters", 0),
    "value_head": ("values", 0),
    "value_normalizer": ("values", -1),
}
"""Layers whose rows mean something: what, and the dimension of their tensors that counts them."""

Labels = Mapping[str, Sequence[object]]
"""What rows are for -> what each is for."""


class Source(NamedTuple):
    """The weights of a checkpoint."""

    path: Path
    weights: Mapping[str, Tensor]
    labels: Labels
    distribution: str
    """What the parameters' rows are for: the name of `policy.distribution`."""


class _Fit(NamedTuple):
    tensors: Mapping[str, Tensor]
    """The layer's new tensors; empty if it stays as it is."""
    remark: str = ""
    """Which part was taken, or why it stays; empty if all of it was taken."""


def read(location: str) -> Source:
    """The weights of a checkpoint, the newest one of a run, or an exported policy. Raises `ConfigError`."""
    try:
        path, state, _ = find(local(location))
        weights, interface = state["policy"], state["interface"]
        distribution = state.get("config", {}).get("policy", {}).get("distribution", "gaussian")
        if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise TypeError("its weights are no tensors")
        table = ActionTable(from_data(interface["action_space"]))
        labels = _labels(table, interface.get("reward_names", ()), len(weights["value_head.bias"]))
    except CheckpointError as error:
        raise ConfigError(f"init_from: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"init_from: {location} holds no policy: {type(error).__name__}: {error}") from None
    return Source(path, weights, labels, distribution)


def take(source: Source, policy: Policy, reward_names: Sequence[str]) -> str:
    """Give `policy` the weights that fit it; what does not fit stays as it is.

    A layer is taken with all of its tensors or not at all; one for continuous parameters only if both
    policies have the same distribution. The critic's values, in reward units, are those of the source, but
    the statistics of its targets start over.

    Returns:
        What was taken, what was not, and why: one line.

    Raises:
        ConfigError: nothing fits.
    """
    mine = policy.state_dict()
    labels = _labels(policy.space.table, reward_names, len(policy.value_head.bias))
    fits = {
        layer: _of_other_numbers(layer, policy, source)
        or _fit(layer, {name: mine[name] for name in names}, labels, source)
        for layer, names in groupby(mine, key=_layer)
    }
    tensors = {name: tensor for fit in fits.values() for name, tensor in fit.tensors.items()}
    anew = _listed((layer, fit.remark) for layer, fit in fits.items() if not fit.tensors)
    if not tensors.keys() & dict(policy.named_parameters()).keys():
        raise ConfigError(f"init_from: nothing in {source.path} fits this policy: {anew}")
    policy.load_state_dict({**mine, **tensors})
    policy.value_normalizer.weight.zero_()
    said = {
        "in part": _listed((layer, fit.remark) for layer, fit in fits.items() if fit.tensors and fit.remark),
        "begin anew": anew,
        "not in this policy": _listed(
            (layer, "") for layer in map(_layer, source.weights) if layer not in fits
        ),
    }
    taken = sum(bool(fit.tensors) for fit in fits.values())
    more = "".join(f"; {what}: {which}" for what, which in said.items() if which)
    return f"init_from: {source.path}: {taken} of {len(fits)} layers taken{more}"


def _of_other_numbers(layer: str, policy: Policy, source: Source) -> _Fit | None:
    """Why not, if a layer is for parameters of another distribution: its outputs mean something else."""
    here = next(name for name, family in FAMILIES.items() if type(policy.family) is family)
    if _ROWS.get(layer, ("",))[0] != "parameters" or source.distribution == here:
        return None
    return _Fit({}, f"policy.distribution is {source.distribution} there, {here} here")


def _fit(layer: str, mine: Mapping[str, Tensor], labels: Labels, source: Source) -> _Fit:
    """What becomes of a layer with the tensors `mine`."""
    if any(name not in source.weights for name in mine):
        return _Fit({}, "not in the checkpoint")
    theirs = {name: source.weights[name] for name in mine}
    kind, dim = _ROWS.get(layer, ("", 0))
    new, old = labels.get(kind, ()), source.labels.get(kind, ())
    remark = ""
    if kind and _counted(mine, new, dim) and _counted(theirs, old, dim):
        places = {label: row for row, label in enumerate(old)}
        pairs = [(row, places[label]) for row, label in enumerate(new) if label in places]
        if not pairs:
            return _Fit({}, f"none of its {kind} is in the checkpoint")
        theirs = {name: _merged(tensor, theirs[name], pairs, dim) for name, tensor in mine.items()}
        totals = {"here": len(new), "there": len(old)}
        fewer = [f"{total} {where}" for where, total in totals.items() if total > len(pairs)]
        remark = f"{len(pairs)} {kind} of {' and '.join(fewer)}" if fewer else ""
    for name, tensor in mine.items():
        if theirs[name].shape != tensor.shape:
            return _Fit({}, f"{list(theirs[name].shape)} there, {list(tensor.shape)} here")
    return _Fit(theirs, remark)


def _counted(tensors: Mapping[str, Tensor], labels: Sequence[object], dim: int) -> bool:
    """Whether each tensor has a row for each label; scalars have none."""
    return all(tensor.shape[dim] == len(labels) for tensor in tensors.values() if tensor.dim())


def _merged(mine: Tensor, theirs: Tensor, pairs: Sequence[tuple[int, int]], dim: int) -> Tensor:
    """`mine` with rows of `theirs`, which comes back as it is where the rows have another length."""
    same = mine.dim() == theirs.dim() > 0
    if not same or mine.movedim(dim, 0).shape[1:] != theirs.movedim(dim, 0).shape[1:]:
        return theirs
    merged = mine.clone()
    here, there = map(list, zip(*pairs, strict=True))
    merged.movedim(dim, 0)[here] = theirs.movedim(dim, 0)[there].to(mine)
    return merged


def _labels(table: ActionTable, reward_names: Sequence[str], num_values: int) -> Labels:
    """What the rows of the last layers are for: choices, parameters and values."""
    choices: list[object] = []
    parameters: list[object] = []
    for leaf in table.leaves:
        for number, index in enumerate(np.ndindex(leaf.shape) if leaf.count else ()):
            if leaf.discrete:
                choices += [(leaf.path, index, leaf.start[number] + c) for c in range(leaf.choices[number])]
            else:
                parameters.append((leaf.path, index))
    values = critic_heads(reward_names, num_values)
    return {"choices": choices, "parameters": parameters, "values": values}


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name


def _listed(layers: Iterable[tuple[str, str]]) -> str:
    """`layer (remark), layer (remark) and 3 more`."""
    named = [f"{layer} ({remark})" if remark else layer for layer, remark in dict(layers).items()]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f"{', '.join(named[:SHOWN])}{more}"
