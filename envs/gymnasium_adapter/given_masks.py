"""Masks that say what is valid for each choice of another decision: `{"given": decision, "mask": table}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.envs.action_table import ActionTable
from equipoise.envs.dependent_masks import ActionMask, DependentMask, MaskTable

Tables: TypeAlias = "dict[int, tuple[tuple[int, ...], NDArray[np.bool_]]]"
"""Head -> the heads that its mask depends on, and whether a choice is valid, `[C of each of them …, C]`."""


Joined: TypeAlias = "list[tuple[int, tuple[int, ...], NDArray[np.bool_]]]"
"""The same of all copies, `[N, C of each of them …, C]`, for each head."""


class MaskError(ValueError):
    """A mask has no form that is understood, or leaves a head no choice."""


def depends(row: Any) -> bool:
    """Whether that is what stands in the place of a head's mask."""
    return isinstance(row, Mapping) and row.keys() == {"given", "mask"}


def take_tables(rows: Sequence[Any], table: ActionTable) -> tuple[Tables, list[NDArray[np.bool_]]]:
    """The tables among the rows of the heads; and the rows, all True in their places.

    Raises:
        MaskError: a table does not fit, or leaves a head no choice.
    """
    own = [np.ones(n, np.bool_) if depends(row) else row for row, n in zip(rows, table.choices, strict=True)]
    tables = {head: _read(head, row, table) for head, row in enumerate(rows) if depends(row)}
    for head, (given, valid) in tables.items():
        if any(other in tables for other in given):
            continue  # not every combination can come up; found when one does
        possible: NDArray[np.bool_] = reduce(np.multiply.outer, (own[other] for other in given))
        if (empty := possible & ~valid.any(-1)).any():
            chosen = zip(given, np.argwhere(empty)[0].tolist(), strict=True)
            when = ", ".join(f"{table.head_name(other)} = {choice}" for other, choice in chosen)
            raise MaskError(f"leaves {_called(head, table)} no valid choice once {when}")
    return tables, own


def _read(head: int, row: Mapping[str, Any], table: ActionTable) -> tuple[tuple[int, ...], NDArray[np.bool_]]:
    names = row["given"] if isinstance(row["given"], list | tuple) else [row["given"]]
    try:
        found = [table.heads_of(int(name) if isinstance(name, np.integer) else name) for name in names]
    except (KeyError, TypeError):
        found = []
    given = tuple(heads[0] for heads in found if len(heads) == 1 and heads[0] != head)
    if not given or len(set(given)) != len(names):
        others = ", ".join(str(table.head_name(n)) for n in range(table.num_heads) if n != head)
        raise MaskError(
            f"of {_called(head, table)} has 'given': {row['given']!r}; allowed are other decisions: {others}"
        )
    valid = np.asarray(row["mask"])
    shape = tuple(table.choices[other] for other in (*given, head))
    if valid.shape != shape or valid.dtype.kind not in "iubf" or ((valid != 0) & (valid != 1)).any():
        raise MaskError(
            f"of {_called(head, table)} must be 0/1 or bool of shape {list(shape)}, the choices of "
            f"{' and '.join(_called(other, table) for other in given)} first; got {str(row['mask'])[:200]}"
        )
    return given, valid.astype(np.bool_)


def _called(head: int, table: ActionTable) -> str:
    name = table.head_name(head)
    return f"head {name}" if isinstance(name, int) else name


class TablesOfCopies:
    """Puts together what the copies of an environment say. The first of all decides which heads have tables.

    Args:
        table: of the actions.
        num_envs: `N`.
    """

    def __init__(self, table: ActionTable, num_envs: int) -> None:
        self._table, self._num_envs = table, num_envs
        self._given: dict[int, tuple[int, ...]] | None = None

    def join(self, tables: Mapping[int, Tables]) -> Joined:
        """Of each copy that has any -> one `[N, …]` for each head, all True for who has none.

        Raises:
            MaskError: there are tables that there were not at first.
        """
        found = {head: given for each in tables.values() for head, (given, _) in each.items()}
        if self._given is None:
            self._given = found
        joined = {
            head: np.ones((self._num_envs, *(self._table.choices[n] for n in (*given, head))), np.bool_)
            for head, given in self._given.items()
        }
        for index, each in tables.items():
            for head, (given, valid) in each.items():
                if self._given.get(head) != given:
                    before = list(self._given.get(head, ())) or "none"
                    raise MaskError(
                        f"of {_called(head, self._table)} depends on {list(given)} in copy {index}; must "
                        f"always be on the same decisions, which after the first reset were {before}"
                    )
                joined[head][index] = valid
        return [(head, self._given[head], valid) for head, valid in joined.items()]


def as_action_mask(own: Tensor, joined: Joined) -> ActionMask:
    """`own` `[N, H, C]` or `[N, S]` and what `TablesOfCopies.join` gives."""
    if not joined:
        return own
    tables = (MaskTable(head, given, torch.from_numpy(valid).to(own.device)) for head, given, valid in joined)
    return DependentMask(own, tuple(tables))
