"""`HybridSpace`: a Gymnasium action space as categorical heads and continuous parameters.

Accepted: `Discrete`, `MultiDiscrete` and bounded float `Box` leaves, alone or nested in any `Dict` or
`Tuple`. That covers the parameterised spaces `Tuple(Discrete(k), Tuple(Box, …))` and
`Tuple(Discrete(k), Box, Box, …)` (Masson, Ranchod, Konidaris, "Reinforcement learning with parameterized
actions", AAAI 2016) as well as purely discrete and purely continuous ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.protocol import NativeAction, Relevance
from equipoise.trainer.data import Actions

ACCEPTED = "Discrete, MultiDiscrete and bounded float Box, alone or nested in Dict and Tuple"
ADVICE = (
    "give every parameter bounds with low < high that float32 can hold, as it must their difference "
    "(gymnasium.wrappers.RescaleAction, or bounds in the environment)"
)

HEADS_SHOWN = 2
PARTS_SHOWN = 8
"""How much of a long relevance table people are shown."""


class UnsupportedSpaceError(ValueError):
    """An action space, or a relevance table, that a hybrid policy cannot serve."""


@dataclass(frozen=True)
class Leaf:
    """One leaf of the native space and where its numbers stand among the heads or the parameters."""

    path: str
    space: gymnasium.Space[Any]
    discrete: bool
    first: int
    count: int
    shape: tuple[int, ...]
    """Of the leaf in one environment's action."""
    start: int | Tensor = 0
    """The environment's number for choice 0; `[count]` for several heads, unless all begin at 0."""


Plan: TypeAlias = "Leaf | dict[str, Plan] | tuple[Plan, ...]"
"""The nesting of the native space, with a `Leaf` in place of each leaf space."""


class HybridSpace:
    """H categorical heads, P continuous parameters and which parameter matters under which choice.

    A parameter hangs on one head and is relevant under some of its choices, or it hangs on no head and is
    always relevant. Parameters that hang together on one head form one of the D continuous *decisions*;
    all that hang on no head form one more.

    Args:
        space: of one environment.
        relevance: `relevance[head][choice]` lists parameters. None or empty: with one head and as many
            Boxes as it has choices, Box `i` belongs to choice `i`; else everything is always relevant.
        device: where the tables live.

    Raises:
        UnsupportedSpaceError: names the path of the leaf that does not fit and what is accepted.
    """

    def __init__(
        self,
        space: gymnasium.Space[Any],
        relevance: Relevance | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.native = space
        self.device = torch.device(device)
        self.leaves: list[Leaf] = []
        counts = {True: 0, False: 0}
        for path, leaf in _walk("action", space):
            count = _check_leaf(path, leaf)
            discrete = not isinstance(leaf, spaces.Box)
            shape, start = tuple(map(int, leaf.shape or ())), _start(leaf, self.device)
            self.leaves.append(Leaf(path, leaf, discrete, counts[discrete], count, shape, start))
            counts[discrete] += count
        self.num_heads, self.num_continuous = counts[True], counts[False]
        if not self.leaves:
            raise UnsupportedSpaceError(f"action: {space} holds no action at all; accepted are {ACCEPTED}")
        self.choice_counts = tuple(
            n for leaf in self.leaves if leaf.discrete for n in _choice_counts(leaf.space)
        )
        self.max_choices = max(self.choice_counts, default=0)
        self.valid_choices = torch.tensor(
            [[c < n for c in range(self.max_choices)] for n in self.choice_counts],
            dtype=torch.bool,
            device=device,
        ).view(self.num_heads, self.max_choices)
        bounds = [leaf.space for leaf in self.leaves if isinstance(leaf.space, spaces.Box)]
        self.low = _concatenate([box.low for box in bounds], device)
        self.high = _concatenate([box.high for box in bounds], device)
        self._plan = _plan(space, iter(self.leaves))
        self._hang_parameters(relevance or self._default_relevance())

    def _default_relevance(self) -> Relevance:
        boxes = [leaf for leaf in self.leaves if not leaf.discrete]
        if self.num_heads != 1 or len(boxes) != self.choice_counts[0]:
            return ()
        return [[list(range(box.first, box.first + box.count)) for box in boxes]]

    def _hang_parameters(self, relevance: Relevance) -> None:
        owner = [self.num_heads] * self.num_continuous
        table = torch.zeros(self.num_continuous, max(self.max_choices, 1), dtype=torch.bool)
        for head, choice, parameter in self._entries(relevance):
            if owner[parameter] not in (self.num_heads, head):
                raise UnsupportedSpaceError(
                    f"relevance: parameter {parameter} is listed under head {owner[parameter]} and under "
                    f"head {head}; a parameter hangs on one head"
                )
            owner[parameter] = head
            table[parameter, choice] = True
        free = torch.tensor([head == self.num_heads for head in owner], dtype=torch.bool)
        table[free] = True
        self.num_decisions = self.num_heads + int(free.any())
        self._all_always_relevant = bool(table.all())
        self.relevance = table.to(self.device)
        """`[P, C]` bool: parameter `p` matters when the head it hangs on takes choice `c`."""
        self.owner = torch.tensor(owner, dtype=torch.int64, device=self.device)
        """`[P]`: the decision that each parameter belongs to; `H` for those that hang on no head."""
        # Parameters that hang on no head look their (always true) relevance up under any head's choice.
        self._lookup_head = torch.where(free, 0, torch.tensor(owner, dtype=torch.int64)).to(self.device)
        self._lookup_row = torch.arange(self.num_continuous, device=self.device) * table.shape[1]
        decisions = torch.arange(self.num_decisions, device=self.device)
        self._membership = (self.owner[:, None] == decisions).to(torch.float32)

    def _entries(self, relevance: Relevance) -> Iterator[tuple[int, int, int]]:
        if relevance and len(relevance) != self.num_heads:
            raise UnsupportedSpaceError(
                f"relevance: lists {len(relevance)} heads, the action space has {self.num_heads}; "
                "give relevance[head][choice] = parameters"
            )
        for head, by_choice in enumerate(relevance):
            if len(by_choice) != self.choice_counts[head]:
                raise UnsupportedSpaceError(
                    f"relevance[{head}]: lists {len(by_choice)} choices, "
                    f"the head has {self.choice_counts[head]}"
                )
            for choice, parameters in enumerate(by_choice):
                for parameter in parameters:
                    if not (isinstance(parameter, int | np.integer) and 0 <= parameter < self.num_continuous):
                        raise UnsupportedSpaceError(
                            f"relevance[{head}][{choice}]: parameter {parameter} is not one of "
                            f"0 … {self.num_continuous - 1}"
                        )
                    yield head, choice, parameter

    def relevant(self, choices: Tensor) -> Tensor:
        """`[B, P]` bool: the parameters that matter under `choices` `[B, H]`."""
        if self._all_always_relevant:
            return self.relevance[:, 0].expand(choices.shape[0], -1)
        return self.relevance.view(-1).take(choices.index_select(-1, self._lookup_head) + self._lookup_row)

    def sum_by_decision(self, values: Tensor) -> Tensor:
        """Add the columns of `values` `[B, P]` that belong to one decision: `[B, D]`."""
        return values @ self._membership.to(values.dtype)

    def to_native(self, actions: Actions) -> NativeAction:
        """Actions `[N, H]`, `[N, P]` in the units and the structure of the environment.

        Parameters outside [-1, 1] are clamped: the environment has no such action, and the raw sample is
        what the log-probability belongs to.
        """
        unit = (actions.continuous.clamp(-1.0, 1.0) + 1.0) * 0.5
        scaled = torch.lerp(self.low, self.high, unit)  # exact at both bounds

        def build(plan: Plan) -> NativeAction:
            if isinstance(plan, dict):
                return {key: build(part) for key, part in plan.items()}
            if isinstance(plan, tuple):
                return tuple(build(part) for part in plan)
            source = actions.discrete if plan.discrete else scaled
            part = source[:, plan.first : plan.first + plan.count]
            if isinstance(plan.start, Tensor) or plan.start:
                part = part + plan.start
            return part.reshape(part.shape[0], *plan.shape)

        return build(self._plan)

    def describe(self) -> str:
        """Where heads and parameters stand in the action, and the relevance table: a few lines of ASCII."""
        parts = []
        for leaf in self.leaves:
            kind = "head" if leaf.discrete else "parameter"
            numbers = range(leaf.first, leaf.first + leaf.count)
            parts.append(f"{leaf.path} = {kind}{'s' * (leaf.count > 1)} {_ranges(numbers)}")
        lines = ["actions: " + _shortened(parts)]
        owner, table = self.owner.tolist(), self.relevance.tolist()
        hanging = [[p for p, at in enumerate(owner) if at == head] for head in range(self.num_heads + 1)]
        if hanging[-1]:
            lines.append(f"always relevant: parameters {_ranges(hanging[-1])}")
        heads = [head for head in range(self.num_heads) if hanging[head]]
        for head in heads[:HEADS_SHOWN]:
            relevant = [[p for p in hanging[head] if table[p][c]] for c in range(self.choice_counts[head])]
            parts = [f"{choice} -> {_ranges(listed) or 'none'}" for choice, listed in enumerate(relevant)]
            lines.append(f"relevant by choice of head {head}: {_shortened(parts)}")
        if len(heads) > HEADS_SHOWN:
            lines.append(f"and so on for heads {_ranges(heads[HEADS_SHOWN:])}, each with its own")
        return "\n".join(lines)


def _walk(path: str, space: gymnasium.Space[Any]) -> Iterator[tuple[str, gymnasium.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(f"{path}[{key!r}]", part)
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _walk(f"{path}[{index}]", part)
    else:
        yield path, space


def _plan(space: gymnasium.Space[Any], leaves: Iterator[Leaf]) -> Plan:
    """The nesting of `space`, with `leaves` (in order) in it.

    Made once: acting reads plain numbers only, which is quick and which torch.compile can trace."""
    if isinstance(space, spaces.Dict):
        return {key: _plan(part, leaves) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_plan(part, leaves) for part in space.spaces)
    return next(leaves)


def _start(space: gymnasium.Space[Any], device: torch.device) -> int | Tensor:
    if isinstance(space, spaces.Discrete):
        return int(space.start)
    if isinstance(space, spaces.MultiDiscrete) and space.start.any():
        return torch.as_tensor(space.start.reshape(-1), dtype=torch.int64, device=device)
    return 0


def _check_leaf(path: str, space: gymnasium.Space[Any]) -> int:
    """How many heads or parameters the leaf holds; refuses what a policy cannot act on."""
    if isinstance(space, spaces.Discrete):
        return 1
    if not isinstance(space, spaces.MultiDiscrete | spaces.Box):
        raise UnsupportedSpaceError(f"{path}: {space} is not supported; accepted are {ACCEPTED}")
    count = int(np.prod(space.shape))
    if count == 0:
        raise UnsupportedSpaceError(
            f"{path}: {space} is empty; accepted are {ACCEPTED}, of one number or more"
        )
    if isinstance(space, spaces.Box) and (fault := _fault_of_box(space)) is not None:
        raise UnsupportedSpaceError(f"{path}: {space} {fault}; accepted are {ACCEPTED}: {ADVICE}")
    return count


def _fault_of_box(box: spaces.Box) -> str | None:
    if not np.issubdtype(box.dtype, np.floating):
        return f"has dtype {box.dtype}, not floats"
    if not np.isfinite(box.low).all() or not np.isfinite(box.high).all():
        return "is unbounded"
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = box.low.astype(np.float32), box.high.astype(np.float32)
        width = high - low
    if not np.isfinite(width).all():
        return "is so wide that high - low is infinite as float32"
    if not (width > 0).all():
        return "has a bound with low >= high as float32"
    return None


def _choice_counts(space: gymnasium.Space[Any]) -> list[int]:
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    assert isinstance(space, spaces.MultiDiscrete)
    return [int(n) for n in space.nvec.reshape(-1)]


def _concatenate(parts: Sequence[np.ndarray[Any, Any]], device: torch.device | str) -> Tensor:
    flat = [torch.as_tensor(part.reshape(-1), dtype=torch.float32) for part in parts]
    return torch.cat([torch.zeros(0), *flat]).to(device)


def _ranges(numbers: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` as `0-2, 5`."""
    parts: list[str] = []
    start = previous = None
    for number in [*numbers, None]:
        if previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None:
            parts.append(f"{start}" if start == previous else f"{start}-{previous}")
        start = previous = number
    return ", ".join(parts)


def _shortened(parts: Sequence[str]) -> str:
    more = f"; ... ({len(parts)} in all)" if len(parts) > PARTS_SHOWN else ""
    return "; ".join(parts[:PARTS_SHOWN]) + more
