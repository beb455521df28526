"""Every form of an action mask gives the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import Space, spaces
from hypothesis import given
from hypothesis import strategies as st

from equipoise.envs.action_table import ActionTable
from equipoise.envs.gymnasium_adapter.masks import read_mask

BOX = spaces.Box(-1, 1, (2,))
UNEVEN = spaces.Tuple((spaces.Discrete(9), spaces.MultiDiscrete([2, 1]), BOX))
ONE_OF = spaces.OneOf((BOX, spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))))
"""Combinations: the box; 00, 01, 10, 11."""
PAIR = spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2)))


def rows(given: Any, space: Space[Any]) -> list[list[int]]:
    """Without the padding."""
    table = ActionTable(space)
    mask = read_mask(given, table).own.astype(int)
    assert not mask[~table.every_choice].any()
    return [row[0].tolist() for row in table.by_head(mask[None])]


def bits(*values: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    return np.array(values, np.int8)


@pytest.mark.parametrize(
    ("space", "given", "expected"),
    [
        (spaces.Discrete(3), bits(1, 0, 1), [[1, 0, 1]]),
        (spaces.Discrete(3), [True, False, True], [[1, 0, 1]]),
        (spaces.Discrete(3), None, [[1, 1, 1]]),
        (spaces.Tuple((spaces.Discrete(2), BOX)), (bits(0, 1), None), [[0, 1]]),
        (spaces.Tuple((spaces.Discrete(2), spaces.Tuple((BOX, BOX)))), (bits(0, 1), None), [[0, 1]]),
        (spaces.Tuple((spaces.Discrete(2), spaces.Tuple((BOX, BOX)))), (bits(0, 1), (None, None)), [[0, 1]]),
        (PAIR, (bits(1, 0, 0), None), [[1, 0, 0], [1, 1]]),
        (PAIR, [1, 0, 0, 1, 1], [[1, 0, 0], [1, 1]]),
        (PAIR, np.array([[1, 0, 0], [1, 1, 0]]), [[1, 0, 0], [1, 1]]),  # padded to the widest head
        (spaces.MultiDiscrete([3, 2]), (bits(1, 0, 1), bits(0, 1)), [[1, 0, 1], [0, 1]]),
        (spaces.MultiDiscrete([3, 2]), [bits(1, 0, 1), None], [[1, 0, 1], [1, 1]]),
        (spaces.MultiDiscrete([3, 2]), bits(1, 0, 1, 0, 1), [[1, 0, 1], [0, 1]]),
        (
            spaces.MultiDiscrete([[2, 3], [2, 2]]),
            ((bits(1, 0), bits(0, 1, 1)), (bits(1, 1), bits(0, 1))),
            [[1, 0], [0, 1, 1], [1, 1], [0, 1]],
        ),
        (UNEVEN, (bits(*[0] * 8, 1), None, None), [[*[0] * 8, 1], [1, 1], [1]]),
        (UNEVEN, [bits(*[0] * 8, 1), bits(0, 1), None], [[*[0] * 8, 1], [0, 1], [1]]),
        (UNEVEN, bits(*[0] * 8, 1, 1, 0, 1), [[*[0] * 8, 1], [1, 0], [1]]),
        (UNEVEN, np.eye(3, 9, 0, np.int8)[[2, 1, 0]], [[0, 0, 1, *[0] * 6], [0, 1], [1]]),
        (spaces.MultiBinary(3), bits(0, 1, 2), [[1, 0], [0, 1], [1, 1]]),
        (ONE_OF, None, [[1, 1, 1, 1, 1]]),
        (ONE_OF, (None, None), [[1, 1, 1, 1, 1]]),
        (ONE_OF, (None, (bits(0, 1), None)), [[1, 0, 0, 1, 1]]),  # Gymnasium's form
        (ONE_OF, (None, (bits(0, 1), bits(0, 0))), [[1, 0, 0, 0, 0]]),  # nothing to choose: no such option
        (ONE_OF, bits(0, 1), [[0, 1, 1, 1, 1]]),
        (ONE_OF, (bits(0, 1), None), [[0, 1, 1, 1, 1]]),
        (ONE_OF, (bits(0, 1), (None, (None, bits(1, 0)))), [[0, 1, 0, 1, 0]]),
        (ONE_OF, bits(0, 1, 0, 0, 1), [[0, 1, 0, 0, 1]]),
        (spaces.Dict(a=ONE_OF, b=spaces.Discrete(2)), {"b": bits(0, 1), "a": None}, [[1] * 5, [0, 1]]),
        (spaces.Dict(a=ONE_OF, b=spaces.Discrete(2)), bits(1, 1, 0, 0, 0, 0, 1), [[1, 1, 0, 0, 0], [0, 1]]),
        (spaces.Dict(a=PAIR, b=BOX), {"a": None, "b": None}, [[1, 1, 1], [1, 1]]),
        (spaces.Dict(a=PAIR, b=BOX), {"a": (None, bits(1, 0))}, [[1, 1, 1], [1, 0]]),
        (spaces.Dict(a=PAIR, b=BOX), {"a": bits(0, 0, 1, 1, 0)}, [[0, 0, 1], [1, 0]]),
        (spaces.Dict(a=PAIR, b=BOX), bits(0, 0, 1, 1, 0), [[0, 0, 1], [1, 0]]),
    ],
)
def test_every_form_is_read(space: Space[Any], given: Any, expected: list[list[int]]) -> None:
    assert rows(given, space) == expected


@pytest.mark.parametrize(
    "given",
    [
        "10111",
        b"10111",
        np.int8(1),
        1,
        object(),
        [1, 0, 2, 1, 1],
        [1, 0, np.nan, 1, 1],
        [1, 0, 0, 1],
        (bits(1, 0, 0), "11"),
        (bits(1, 0, 0), bits(1, 1), bits(1, 1)),
        ([[1, 0]], bits(1, 1)),
        {"a": bits(1, 0, 0)},
        [[1, 0, 0], [1, 1, 1]],
        {},
        [],
    ],
)
def test_anything_else_is_refused_with_the_forms_there_are(given: Any) -> None:
    with pytest.raises(ValueError, match=r"must mask heads of \[3, 2\] choices with .*None where everything"):
        read_mask(given, ActionTable(PAIR))


def test_a_head_without_a_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves head 1 no valid choice"):
        read_mask((None, bits(0, 0)), ActionTable(PAIR))


def masks_of(space: Space[Any]) -> st.SearchStrategy[Any]:
    """Masks that `space.sample(mask=...)` takes."""
    match space:
        case spaces.Dict():
            parts: Any = st.fixed_dictionaries({key: masks_of(part) for key, part in space.items()})
        case spaces.Tuple():
            parts = st.tuples(*map(masks_of, space.spaces))
        case spaces.Discrete():
            parts = st.lists(st.integers(0, 1), min_size=int(space.n), max_size=int(space.n)).filter(any)
            parts = parts.map(lambda row: bits(*row))
        case spaces.MultiDiscrete():
            parts = st.tuples(*(masks_of(spaces.Discrete(n)) for n in space.nvec)).map(
                lambda given: tuple(
                    bits(1, 1, 1)[:n] if m is None else m for n, m in zip(space.nvec, given, strict=True)
                )
            )
        case spaces.MultiBinary():
            parts = st.lists(st.integers(0, 2), min_size=space.n, max_size=space.n).map(lambda e: bits(*e))
        case _:
            return st.none()
    return st.one_of(st.none(), parts)


SPACES = [
    spaces.Tuple((spaces.Discrete(3), BOX)),
    spaces.Tuple((spaces.Discrete(2), spaces.Tuple((BOX, BOX)), spaces.MultiDiscrete([3, 2]))),
    spaces.Dict(a=spaces.Tuple((spaces.Discrete(2), BOX)), b=spaces.MultiBinary(3), c=spaces.Discrete(1)),
    spaces.MultiDiscrete([2, 3]),
]


@given(st.sampled_from(SPACES).flatmap(lambda space: st.tuples(st.just(space), masks_of(space))))
def test_what_the_space_samples_is_what_the_mask_allows(case: tuple[Space[Any], Any]) -> None:
    space, mask = case
    table, allowed = ActionTable(space), rows(mask, space)
    seen = [[0] * n for n in table.choices]
    for _ in range(60):
        parts = table.take_apart(space.sample(mask=mask))
        taken = [int(v) for leaf, part in zip(table.leaves, parts, strict=True) if leaf.discrete
                 for v in np.reshape(part, -1)]  # fmt: skip
        for head, choice in enumerate(taken):
            seen[head][choice] = 1
    assert seen == allowed
