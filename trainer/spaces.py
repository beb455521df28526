"""`HybridSpace`: a Gymnasium action space as categorical heads and continuous parameters.

`equipoise.envs.action_table` decides which spaces are accepted, and which of their numbers become which heads
and parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from equipoise.envs.action_table import ActionLeaf, ActionTable, UnsupportedSpaceError, inner_float32
from equipoise.envs.protocol import NativeAction, Relevance, RelevanceTable
from equipoise.trainer.data import Actions

__all__ = ["HybridSpace", "UnsupportedSpaceError"]

HEADS_SHOWN = 2
PARTS_SHOWN = 8
"""How much of a long relevance table is shown."""


class HybridSpace:
    """H categorical heads, P continuous parameters, and which parameter matters under which choice.

    A parameter belongs to one head and matters under some of its choices, or it belongs to no head and always
    matters. The parameters of one head form one of the D continuous *decisions*; those that belong to no head
    form one more. A parameter whose bounds are equal is a constant and never matters.

    Args:
        space: of one environment.
        relevance: see `equipoise.envs.protocol.Relevance`.
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
        self.table = ActionTable(space)
        self.num_heads, self.num_continuous = self.table.num_heads, self.table.num_continuous
        self.choice_counts = self.table.choices
        self.max_choices = max(self.choice_counts, default=0)
        # A copy: torch.export cannot save the memory of an empty array of NumPy's.
        self.valid_choices = torch.tensor(self.table.every_choice, device=device)
        """`[H, C]` or `[S]` bool, see `ActionTable.padded`: the choices that exist."""
        counts = torch.tensor(self.choice_counts, dtype=torch.int64, device=device)
        self.first_choice = counts.cumsum(0) - counts
        """`[H]`: where each head's choices begin in a row of those of all heads."""
        self._alike = [(len(list(heads)), count) for count, heads in groupby(self.choice_counts)]
        low, high = inner_float32(
            [number for leaf in self.table.leaves for number in leaf.low],
            # Every whole number has an equal share of the range, the last one too.
            [number + leaf.rounded for leaf in self.table.leaves for number in leaf.high],
        )
        self._low, self._high = torch.tensor(low, device=device), torch.tensor(high, device=device)
        self._parts = [_Part(leaf, self.device) for leaf in self.table.leaves]
        if isinstance(relevance, str) and relevance != "all":
            raise UnsupportedSpaceError(f"relevance: {relevance!r}; allowed are a table and 'all'")
        self._assign_parameters(() if relevance == "all" else relevance or self._stated_by_space())

    def _stated_by_space(self) -> RelevanceTable:
        nothing = [[()] * choices for choices in self.choice_counts]
        return [self.table.options.get(head, empty) for head, empty in enumerate(nothing)]

    def _assign_parameters(self, relevance: RelevanceTable) -> None:
        head_of = [self.num_heads] * self.num_continuous
        table = torch.zeros(self.num_continuous, max(self.max_choices, 1), dtype=torch.bool)
        for head, choice, parameter in self._entries(relevance):
            if head_of[parameter] not in (self.num_heads, head):
                raise UnsupportedSpaceError(
                    f"relevance: parameter {parameter} is listed under head {head_of[parameter]} and under "
                    f"head {head}; a parameter belongs to one head"
                )
            head_of[parameter] = head
            table[parameter, choice] = True
        free = torch.tensor([head == self.num_heads for head in head_of], dtype=torch.bool)
        table[free] = True
        table[self._constant()] = False
        self.num_decisions = self.num_heads + int(free.any())
        self._same_for_all = not self.num_heads or bool(table.all())
        self.relevance = table.to(self.device)
        """`[P, C]` bool: parameter `p` matters when its head takes choice `c`."""
        self.head_of = torch.tensor(head_of, dtype=torch.int64, device=self.device)
        """`[P]`: the decision that each parameter is part of: its head, or `H` if it belongs to none."""
        # Parameters that belong to no head look up what is the same under every choice of any head.
        self._lookup_head = torch.where(free, 0, torch.tensor(head_of, dtype=torch.int64)).to(self.device)
        self._lookup_row = torch.arange(self.num_continuous, device=self.device) * table.shape[1]
        decisions = torch.arange(self.num_decisions, device=self.device)
        self._membership = (self.head_of[:, None] == decisions).to(torch.float32)

    def _constant(self) -> Tensor:
        """`[P]` bool."""
        bounds = [pair for leaf in self.table.leaves for pair in zip(leaf.low, leaf.high, strict=True)]
        return torch.tensor([low == high for low, high in bounds], dtype=torch.bool)

    def _entries(self, relevance: RelevanceTable) -> Iterator[tuple[int, int, int]]:
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

    def laid_out(self, numbers: Tensor) -> Tensor:
        """One number a choice, in the shape of `valid_choices`: `[B, H, C]` or `[B, S]`.

        They come in either shape or as `[B, H · C]`, with anything where no choice exists; padding is 0.
        """
        if numbers.shape[1:] == self.valid_choices.shape:
            return numbers
        numbers, padded = numbers.flatten(1), (self.num_heads, self.max_choices)
        if numbers.shape[1] != math.prod(padded):
            parts = self.by_width(numbers)
            return torch.cat([pad(part, (0, self.max_choices - part.shape[2])) for part in parts], 1)
        numbers = numbers.view(numbers.shape[0], *padded)
        if self.table.padded:
            return numbers
        return torch.cat([numbers[:, head, :count] for head, count in enumerate(self.choice_counts)], 1)

    def by_width(self, numbers: Tensor) -> list[Tensor]:
        """Views `[B, heads, choices]` of one number a choice: of `[B, S]` one view for each run of heads with
        equally many choices; `[B, H, C]` as it is."""
        if numbers.dim() == 3:
            return [numbers]
        parts = torch.split(numbers, [heads * count for heads, count in self._alike], 1)
        return [part.view(part.shape[0], *heads) for part, heads in zip(parts, self._alike, strict=True)]

    def first_choices(self, size: int) -> Tensor:
        """`[size, H]`: choice 0 of every head."""
        return torch.zeros(size, self.num_heads, dtype=torch.int64, device=self.device)

    def of_head(self, numbers: Tensor, head: int) -> Tensor:
        """A view `[B, choices]` of numbers of all choices, `[B, H, C]` or `[B, S]`."""
        return self.table.of_head(numbers, head)

    def relevant(self, choices: Tensor) -> Tensor:
        """`[B, P]` bool: the parameters that matter under `choices` `[B, H]`."""
        if self._same_for_all:
            return self.relevance[:, 0].expand(choices.shape[0], -1)
        return self.relevance.view(-1).take(choices.index_select(-1, self._lookup_head) + self._lookup_row)

    def sum_by_decision(self, values: Tensor) -> Tensor:
        """Sum the columns of `values` `[B, P]` over each decision: `[B, D]`."""
        return values @ self._membership.to(values.dtype)

    def to_native(self, actions: Actions) -> NativeAction:
        """Convert actions `[N, H]`, `[N, P]` to the units and the structure of the environment.

        Parameters outside [-1, 1] are clamped: the environment has no such action, and the raw sample is
        what the log-probability belongs to.
        """
        unit = (actions.continuous.clamp(-1.0, 1.0) + 1.0) * 0.5
        scaled = torch.lerp(self._low, self._high, unit)  # exact at both bounds
        return self.table.assemble([part.native(actions.discrete, scaled) for part in self._parts])

    def from_native(self, action: NativeAction) -> Actions:
        """The inverse of `to_native`: `[N, H]`, `[N, P]` in [-1, 1]. Constant numbers become 0.

        Raises:
            ValueError: the action has another structure; the message gives the path.
        """
        parts = self.table.take_apart(action)
        choices: dict[int, Tensor] = {}
        numbers = torch.zeros(len(parts[0]), self.num_continuous, device=self.device)
        for part, leaf in zip(parts, self.table.leaves, strict=True):
            columns = part.reshape(len(part), -1)
            if leaf.outcomes:  # of several leaves that one choice decides about
                each = torch.tensor(leaf.outcomes, device=self.device).view(1, len(leaf.outcomes), -1)
                same = (columns.unsqueeze(1) == each).all(-1)
                choices[leaf.first] = same & choices[leaf.first] if leaf.first in choices else same
            elif leaf.discrete:
                for head, column, start in zip(range(leaf.count), columns.unbind(1), leaf.start, strict=True):
                    choices[leaf.first + head] = column - start
            else:  # a whole number stands for the middle of its share
                numbers[:, leaf.first : leaf.first + leaf.count] = columns + 0.5 * leaf.rounded
        heads = [c.to(torch.int64).argmax(1) if c.dim() == 2 else c for _, c in sorted(choices.items())]
        discrete = torch.stack(heads, 1) if heads else self.first_choices(len(numbers))
        width = self._high - self._low
        unit = torch.where(width > 0, (numbers - self._low) / torch.where(width > 0, width, 1.0), 0.5)
        return Actions(discrete, 2.0 * unit.clamp(0.0, 1.0) - 1.0)

    def describe(self) -> str:
        """Where heads and parameters are in the action, and the relevance table: a few lines of ASCII."""
        parts = []
        for leaf in self.table.leaves:
            if leaf.outcomes and not leaf.count:
                continue  # said by the head of its OneOf
            kind = "head" if leaf.discrete else "parameter"
            numbers = range(leaf.first, leaf.first + leaf.count)
            parts.append(f"{leaf.path} = {kind}{'s' * (leaf.count > 1)} {_ranges(numbers) or 'none'}")
        lines = ["actions: " + shortened(parts)]
        head_of, table = self.head_of.tolist(), self.relevance.tolist()
        belonging = [[p for p, at in enumerate(head_of) if at == head] for head in range(self.num_heads + 1)]
        if constant := [p for p, row in enumerate(table) if not any(row)]:
            lines.append(f"constant: parameters {_ranges(constant)}")
        if always := [p for p in belonging[-1] if any(table[p])]:
            lines.append(f"always relevant: parameters {_ranges(always)}")
        heads = [head for head in range(self.num_heads) if belonging[head]]
        for head in heads[:HEADS_SHOWN]:
            relevant = [[p for p in belonging[head] if table[p][c]] for c in range(self.choice_counts[head])]
            shown = list(enumerate(relevant))
            if len(shown) > PARTS_SHOWN:  # the choices that have parameters must not be among those left out
                shown.sort(key=lambda part: not part[1])
            parts = [f"{choice} -> {_ranges(listed) or 'none'}" for choice, listed in shown]
            lines.append(f"relevant by choice of head {head}: {shortened(parts)}")
        if len(heads) > HEADS_SHOWN:
            lines.append(f"and so on for heads {_ranges(heads[HEADS_SHOWN:])}, each with its own")
        return "\n".join(lines)


class _Part:
    """A leaf as `to_native` needs it: plain numbers and tensors only, so that it can be compiled."""

    def __init__(self, leaf: ActionLeaf, device: torch.device) -> None:
        self._discrete, self._rounded, self._shape = leaf.discrete, leaf.rounded, leaf.shape
        self._columns = leaf.first, leaf.first + leaf.count
        self._outcomes: Tensor | None = None
        if leaf.outcomes:
            self._outcomes = torch.tensor(leaf.outcomes, dtype=torch.int64, device=device)
        self._start = torch.tensor(leaf.start, device=device) if any(leaf.start) else None
        self._most = torch.tensor(leaf.high, device=device)

    def native(self, choices: Tensor, scaled: Tensor) -> Tensor:
        """`[N, *shape]`: int64 choices as the environment counts them, or numbers in its units."""
        if self._outcomes is not None:
            part = self._outcomes.index_select(0, choices[:, self._columns[0]])
            return part.reshape(part.shape[0], *self._shape)
        part = (choices if self._discrete else scaled)[:, self._columns[0] : self._columns[1]]
        if self._rounded:
            part = part.floor().minimum(self._most).to(torch.int64)
        if self._start is not None:
            part = part + self._start
        return part.reshape(part.shape[0], *self._shape)


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


def shortened(parts: Sequence[str]) -> str:
    """A line with the first few of many parts."""
    more = f"; ... ({len(parts)} in all)" if len(parts) > PARTS_SHOWN else ""
    return "; ".join(parts[:PARTS_SHOWN]) + more
