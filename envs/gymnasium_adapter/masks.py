"""Action masks in all the forms that environments give them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from equipoise.envs.action_parts import OneOf, Structure
from equipoise.envs.action_table import ActionLeaf, ActionTable
from equipoise.envs.gymnasium_adapter.given_masks import MaskError, Tables, depends, take_tables

Rows = list[Any]
"""For each head, whether each of its choices is valid, bool `[choices]`; or a mapping that says how that
depends on other heads, see `given_masks`."""

FORMS = (
    "one 0/1 or bool array per head, all in a row, or what action_space.sample(mask=...) takes: "
    "nested as the action space, with None where everything is valid, and {'given': decision, 'mask': table} "
    "where that depends on another decision"
)


class Read(NamedTuple):
    """A mask of one environment."""

    own: NDArray[np.bool_]
    """`[H, C]` or `[S]`, see `ActionTable.padded`: which choices are valid, False where there is none."""
    tables: Tables
    """What depends on other heads, where anything does."""


def read_mask(given: Any, table: ActionTable, may_be_empty: bool = False) -> Read:
    """A mask in any form. Where it leaves a head no choice, and it `may_be_empty`, all of them are valid.

    Raises:
        MaskError: `given` has none of the forms that are understood, or leaves a head no choice.
    """
    rows = _split(given, table.structure, table.leaves)
    if rows is None:
        raise MaskError(
            f"must mask heads of {list(table.choices)} choices with {FORMS}; got {str(given)[:200]}"
        )
    tables, rows = take_tables(rows, table)
    for head, row in enumerate(rows):
        if not row.any() and may_be_empty:
            row[:] = True
        elif not row.any():
            raise MaskError(f"leaves head {head} no valid choice")
    mask = np.zeros_like(table.every_choice)
    mask[table.every_choice] = np.concatenate(rows)
    return Read(mask, tables)


def _split(given: Any, structure: Structure, leaves: Sequence[ActionLeaf]) -> Rows | None:
    """The rows of the heads under `structure`; None if `given` is in no form that fits them."""
    if isinstance(structure, int):
        return _split_leaf(given, leaves[structure])
    if isinstance(structure, OneOf):
        return _split_one_of(given, structure)
    parts = _pairs(given, structure)
    if parts is not None:
        split = [_split(mask, part, leaves) for mask, part in parts]
        if all(rows is not None for rows in split):
            return [row for rows in split for row in rows or ()]
    return _split_row(given, [n for leaf in _under(structure, leaves) for n in leaf.choices])


def _split_one_of(given: Any, node: OneOf) -> Rows | None:
    """Of a mask for each option (Gymnasium's form, which cannot forbid an option), of a pair of a mask of the
    options and those, of a mask of the options, or of all combinations in a row."""
    if given is None:
        return [np.ones(len(node.combinations), np.bool_)]
    every = np.ones(len(node.parts), np.bool_)
    rows = _combined(every, given, node)
    if rows is None and isinstance(given, tuple) and len(given) == 2:
        options = _split_row(given[0], [len(every)])
        rows = None if options is None else _combined(options[0], given[1], node)
    if rows is None and (options := _split_row(given, [len(every)])) is not None:
        rows = _combined(options[0], None, node)
    return _split_row(given, [len(node.combinations)]) if rows is None else rows


def _combined(options: NDArray[np.bool_], masks: Any, node: OneOf) -> Rows | None:
    """From the valid options and a mask for each of them; without valid choices an option is not valid."""
    masks = (None,) * len(options) if masks is None else masks
    if not isinstance(masks, tuple) or len(masks) != len(options):
        return None
    rows = [_split(mask, part.structure, part.leaves) for mask, part in zip(masks, node.parts, strict=True)]
    if None in rows or any(isinstance(row, Mapping) for part in rows for row in part or ()):
        return None

    def valid(option: int, chosen: tuple[int, ...]) -> bool:
        each = zip(rows[option] or (), chosen, strict=True)
        return bool(options[option]) and all(row[choice] for row, choice in each)

    return [np.array([valid(*combination) for combination in node.combinations])]


def _pairs(given: Any, structure: Structure) -> list[tuple[Any, Structure]] | None:
    """Each part of the structure with its mask, where `given` is nested in the same way."""
    if isinstance(structure, dict):
        if given is None:
            return [(None, part) for part in structure.values()]
        if not isinstance(given, Mapping) or not given.keys() <= structure.keys():
            return None
        return [(given.get(key, _MISSING), part) for key, part in structure.items()]
    assert isinstance(structure, tuple)
    if given is None:
        return [(None, part) for part in structure]
    if not isinstance(given, tuple | list) or len(given) != len(structure):
        return None
    return list(zip(given, structure, strict=True))


_MISSING = object()
"""In the place of a key that a dict of masks lacks, which is a fault only where there are heads."""


def _under(structure: Structure, leaves: Sequence[ActionLeaf]) -> list[ActionLeaf]:
    if isinstance(structure, int):
        return [leaves[structure]]
    if isinstance(structure, OneOf):
        return [leaves[structure.index]]
    parts = structure.values() if isinstance(structure, dict) else structure
    return [leaf for part in parts for leaf in _under(part, leaves)]


def _split_leaf(given: Any, leaf: ActionLeaf) -> Rows | None:
    if not leaf.count or not leaf.discrete:
        return [] if given is None or given is _MISSING else None
    if given is None:
        return [np.ones(n, np.bool_) for n in leaf.choices]
    if leaf.count == 1 and depends(given):
        return [given]
    if leaf.binary and isinstance(given, np.ndarray) and given.shape == leaf.shape:
        # Gymnasium's own form for MultiBinary: 0 or 1 is the only valid value, 2 leaves both.
        entries = given.reshape(-1)
        if entries.dtype.kind in "iu" and np.isin(entries, (0, 1, 2)).all():
            return [np.array([entry != 1, entry != 0]) for entry in entries]
    for _ in leaf.shape[1:]:  # nested as the leaf's own shape is
        if isinstance(given, tuple) and all(isinstance(part, tuple) for part in given):
            given = tuple(row for part in given for row in part)
    return _split_row(given, list(leaf.choices))


def _split_row(given: Any, choices: list[int]) -> Rows | None:
    """Of one array per head (None: everything is valid), or of all in a row."""
    if given is _MISSING or isinstance(given, str | bytes | Mapping):
        return None
    try:
        rows = [row if row is None or depends(row) else np.asarray(row) for row in given]
        if rows and all(isinstance(row, np.ndarray) and row.shape == () for row in rows):
            if len(rows) != sum(choices):
                return None
            rows = list(np.split(np.asarray(given), np.cumsum(choices)[:-1]))
    except (TypeError, ValueError):  # not iterable; ragged
        return None
    if len(rows) != len(choices):
        return None
    read = [_row(row, n, max(choices)) for row, n in zip(rows, choices, strict=True)]
    return None if any(row is None for row in read) else [row for row in read if row is not None]


def _row(row: Any, choices: int, widest: int) -> Any:
    """Of one head, which may be padded with zeros to the widest one; None where it is no mask."""
    if row is None:
        return np.ones(choices, np.bool_)
    if depends(row):
        return row
    if row.dtype.kind not in "iubf" or row.shape not in ((choices,), (widest,)):
        return None
    if ((row != 0) & (row != 1)).any() or row[choices:].any():
        return None
    return np.asarray(row[:choices].astype(np.bool_))
