"""How the leaves of an action space are nested, and which parameters belong to which choices by its form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from equipoise.envs.action_leaves import ActionLeaf, Key, UnsupportedSpaceError, leaf_of
from equipoise.envs.older_gymnasium import OneOfSpace

MOST_COMBINATIONS = 4096
"""Of the options of a `OneOf` and the choices in them."""

Structure: TypeAlias = "int | dict[str, Structure] | tuple[Structure, ...] | OneOf"
"""The numbers of the leaves, nested as in the space."""
Options: TypeAlias = Mapping[int, tuple[tuple[int, ...], ...]]
"""Head -> the parameters that belong to each of its choices."""


@dataclass(frozen=True)
class OneOf:
    """Exactly one of several options, by one head; see `envs.action_table`."""

    index: int
    """The leaf that says which option."""
    options: tuple[Structure, ...]
    parts: tuple[Part, ...]
    """The options, each by itself."""
    combinations: tuple[tuple[int, tuple[int, ...]], ...]
    """What each choice of the head stands for: an option, and what each of the option's own heads takes."""


@dataclass(frozen=True)
class Part:
    """An action space, or a part of one. Leaves, heads and parameters are counted from 0."""

    leaves: tuple[ActionLeaf, ...]
    structure: Structure
    options: Options

    @property
    def choices(self) -> tuple[int, ...]:
        """Of each head."""
        return tuple(n for leaf in self.leaves for n in leaf.choices)

    @property
    def num_parameters(self) -> int:
        return sum(leaf.count for leaf in self.leaves if not leaf.discrete)


def read(space: gymnasium.Space[object], path: str = "action", keys: tuple[Key, ...] = ()) -> Part:
    """Raises UnsupportedSpaceError, which gives the path of the leaf that does not fit."""
    if isinstance(space, OneOfSpace):
        return _one_of(space, path, keys)
    if isinstance(space, spaces.Dict):
        whole = _joined([read(part, f"{path}[{key!r}]", (*keys, key)) for key, part in space.spaces.items()])
        assert isinstance(whole.structure, tuple)
        return replace(whole, structure=dict(zip(space.spaces, whole.structure, strict=True)))
    if isinstance(space, spaces.Tuple):
        parts = [read(part, f"{path}[{i}]", (*keys, i)) for i, part in enumerate(space.spaces)]
        whole = _joined(parts)
        return replace(whole, options={**whole.options, **_parameterised(space, parts)})
    return Part((leaf_of(path, keys, space),), 0, {})


def _joined(parts: Sequence[Part]) -> Part:
    """Several parts as one, in a tuple."""
    leaves: list[ActionLeaf] = []
    structure: list[Structure] = []
    options: dict[int, tuple[tuple[int, ...], ...]] = {}
    heads = parameters = 0
    for part in parts:
        structure.append(_shifted(part.structure, len(leaves)))
        for leaf in part.leaves:
            leaves.append(replace(leaf, first=leaf.first + (heads if leaf.discrete else parameters)))
        for head, table in part.options.items():
            options[heads + head] = tuple(tuple(parameters + p for p in listed) for listed in table)
        heads, parameters = heads + len(part.choices), parameters + part.num_parameters
    return Part(tuple(leaves), tuple(structure), options)


def _shifted(structure: Structure, by: int) -> Structure:
    if isinstance(structure, int):
        return structure + by
    if isinstance(structure, dict):
        return {key: _shifted(part, by) for key, part in structure.items()}
    if isinstance(structure, tuple):
        return tuple(_shifted(part, by) for part in structure)
    options = tuple(_shifted(part, by) for part in structure.options)
    return replace(structure, index=structure.index + by, options=options)


def _parameterised(space: spaces.Tuple[object], parts: Sequence[Part]) -> Options:
    """For `Tuple(Discrete(k), Tuple(k parts))` and `Tuple(Discrete(k), k parts)` of parameters alone
    (Masson, Ranchod, Konidaris, "Reinforcement learning with parameterized actions", AAAI 2016)."""
    first, rest = space.spaces[:1], space.spaces[1:]
    inner = rest[0] if len(rest) == 1 else None
    options = inner.spaces if isinstance(inner, spaces.Tuple) else rest
    if len(options) < 2 or not isinstance(first[0], spaces.Discrete) or first[0].n != len(options):
        return {}
    if any(leaf.discrete for part in parts[1:] for leaf in part.leaves):
        return {}
    counts = [read(option).num_parameters for option in options]
    starts = itertools.accumulate(counts, initial=0)
    return {0: tuple(tuple(range(start, start + n)) for start, n in zip(starts, counts, strict=False))}


def _one_of(space: OneOfSpace[object], path: str, keys: tuple[Key, ...]) -> Part:
    parts = tuple(read(option, f"{path}[option {i}]", (*keys, 1, i)) for i, option in enumerate(space.spaces))
    count = sum(math.prod(part.choices) for part in parts)
    if count > MOST_COMBINATIONS:
        raise UnsupportedSpaceError(
            f"{path}: the options of {space} and the choices in them have {count} combinations; allowed are "
            f"{MOST_COMBINATIONS}. A Tuple of a Discrete and the options has no limit"
        )
    combinations = tuple(
        (i, chosen)
        for i, part in enumerate(parts)
        for chosen in itertools.product(*(range(n) for n in part.choices))
    )
    which = tuple((i,) for i, _ in combinations)
    index = ActionLeaf(
        path, (*keys, 0), True, 0, 1, (), np.dtype(np.int64), (count,), (0,), outcomes=which, scalar=True
    )
    held = [
        replace(part, leaves=tuple(_held(leaf, i, combinations) for leaf in part.leaves), options={})
        for i, part in enumerate(parts)
    ]
    whole = _joined(held)
    assert isinstance(whole.structure, tuple)
    structure = OneOf(0, tuple(_shifted(part, 1) for part in whole.structure), parts, combinations)
    starts = list(itertools.accumulate((part.num_parameters for part in parts), initial=0))
    relevant = tuple(tuple(starts[i] + p for p in _relevant(parts[i], chosen)) for i, chosen in combinations)
    return Part((index, *whole.leaves), structure, {0: relevant})


def _held(leaf: ActionLeaf, option: int, combinations: Sequence[tuple[int, tuple[int, ...]]]) -> ActionLeaf:
    """A leaf of an option: a discrete one has no heads of its own any more, but an outcome of each choice."""
    if not leaf.discrete:
        return leaf

    def numbers(chosen: Sequence[int]) -> tuple[int, ...]:
        if leaf.outcomes:
            return leaf.outcomes[chosen[leaf.first]]
        heads = zip(leaf.start, chosen[leaf.first : leaf.first + leaf.count], strict=True)
        return tuple(start + choice for start, choice in heads)

    anything = next(chosen for i, chosen in combinations if i == option)  # where another option is taken
    outcomes = tuple(numbers(chosen if i == option else anything) for i, chosen in combinations)
    return replace(leaf, first=0, count=0, choices=(), start=(), outcomes=outcomes)


def _relevant(part: Part, chosen: Sequence[int]) -> list[int]:
    """The parameters of an option that matter where its own heads take `chosen`."""
    tied = [(head, {p for listed in table for p in listed}) for head, table in part.options.items()]
    return [
        p
        for p in range(part.num_parameters)
        if all(p in part.options[head][chosen[head]] for head, own in tied if p in own)
    ]
