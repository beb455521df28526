"""Masks of choices that depend on what other heads have chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor


class MaskTable(NamedTuple):
    """Which choices of a head are valid, given those of others."""

    head: int
    given: tuple[int, ...]
    """Heads that decide before it."""
    valid: Tensor | Callable[[Tensor], Tensor]
    """`[N, C of each of given …, C of head]` bool; or a function from the choices `[N, H]`, of which only
    those of `given` may be looked at, to `[N, C of head]`. At least one is valid, whatever was chosen."""

    def row(self, taken: Mapping[int, Tensor], num_heads: int) -> Tensor:
        """`[N, C of head]`, for the choices `[N]` of the heads in `given`."""
        if not isinstance(self.valid, Tensor):
            zeros = torch.zeros_like(taken[self.given[0]])
            choices = [taken[head] if head in self.given else zeros for head in range(num_heads)]
            return self.valid(torch.stack(choices, 1))
        index = taken[self.given[0]]
        for head, size in zip(self.given[1:], self.valid.shape[2:-1], strict=True):
            index = index * size + taken[head]
        rows = self.valid.flatten(1, -2)
        return rows.gather(1, index[:, None, None].expand(-1, 1, rows.shape[2])).squeeze(1)

    def tabulated(self, choice_counts: Sequence[int], num_envs: int, device: torch.device) -> Tensor:
        """`valid` as a tensor, whatever it is."""
        if isinstance(self.valid, Tensor):
            return self.valid
        counts = [choice_counts[head] for head in self.given]
        rows = []
        for choices in product(*map(range, counts)):
            taken = {
                head: torch.full((num_envs,), choice, device=device)
                for head, choice in zip(self.given, choices, strict=True)
            }
            rows.append(self.row(taken, len(choice_counts)))
        return torch.stack(rows, 1).view(num_envs, *counts, choice_counts[self.head])


class DependentMask(NamedTuple):
    """What is valid in itself, and beside it for some heads what others leave."""

    own: Tensor
    """`[N, H, C]` or `[N, S]` bool, as every mask: what may be valid at all."""
    tables: tuple[MaskTable, ...]
    """At most one for each head."""

    def map(self, function: Callable[[Tensor], Tensor]) -> DependentMask:
        """`function` of each tensor."""
        tables = (
            t._replace(valid=function(t.valid)) if isinstance(t.valid, Tensor) else t for t in self.tables
        )
        return DependentMask(function(self.own), tuple(tables))

    def table_of(self, head: int) -> MaskTable | None:
        return next((table for table in self.tables if table.head == head), None)


ActionMask: TypeAlias = Tensor | DependentMask
"""`[N, H, C]` or `[N, S]` bool, or one that depends on choices, too."""


@runtime_checkable
class MaskingEnv(Protocol):
    """An environment whose masks depend on choices by a function, where a table would be too large."""

    mask_depends_on: Mapping[int, Sequence[int]]
    """Head -> the heads that its mask depends on."""

    def mask_given(self, head: int, choices: Tensor) -> Tensor:
        """`[N, C]` bool: the valid choices of `head` in the present state, see `MaskTable.valid`."""
        ...


def complete(env: object, mask: ActionMask | None, every_choice: Tensor) -> ActionMask | None:
    """The mask that `env` gave, together with the functions of a `MaskingEnv`.

    `every_choice`: `[N, …]` all True where there is a choice, the own mask where none was given.
    """
    if not isinstance(env, MaskingEnv):
        return mask
    if not isinstance(mask, DependentMask):
        mask = DependentMask(every_choice if mask is None else mask, ())
    missing = (
        MaskTable(head, tuple(given), partial(env.mask_given, head))
        for head, given in env.mask_depends_on.items()
        if mask.table_of(head) is None
    )
    return DependentMask(mask.own, (*mask.tables, *missing))


def in_order(tables: Iterable[MaskTable], num_heads: int) -> list[int]:
    """The heads, each after those that its mask depends on. Raises ValueError where that cannot be."""
    given = {table.head: table.given for table in tables}
    order: list[int] = []
    while len(order) < num_heads:
        ready = [h for h in range(num_heads) if h not in order and set(given.get(h, ())) <= set(order)]
        if not ready:
            raise ValueError(f"masks of decisions depend on each other in a circle: {given}")
        order += ready
    return order


def to_plain(mask: ActionMask | None) -> Any:
    """As a checkpoint can hold it, without functions: `complete` adds these again."""
    if not isinstance(mask, DependentMask):
        return None if mask is None else mask.clone()
    tables = [[t.head, list(t.given), t.valid.clone()] for t in mask.tables if isinstance(t.valid, Tensor)]
    return {"own": mask.own.clone(), "tables": tables}


def from_plain(state: Any, device: torch.device) -> ActionMask | None:
    """The inverse of `to_plain`."""
    if not isinstance(state, Mapping):
        return None if state is None else state.to(device)
    tables = (MaskTable(head, tuple(given), valid.to(device)) for head, given, valid in state["tables"])
    return DependentMask(state["own"].to(device), tuple(tables))
