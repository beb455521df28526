"""Arguments of environments that differ from copy to copy: ports, seeds, levels."""

from __future__ import annotations

import difflib
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_INDEX = re.compile(r"\{index(?:\s*\+\s*(\d+))?\}")
_BRACED = re.compile(r"\{\s*([A-Za-z_]+)\s*(?:[-+*:][^{}]*)?\}")
_LIKE_INDEX = {"i", "idx", "ix", "rank", "seed", "env_index", "worker"}
"""What others call it."""
_in_use = set[int]()


@dataclass(frozen=True)
class EachKwargs:
    """Keywords of each environment of a batch.

    Args:
        kwargs: for all; in texts, at any depth, `{index}` and `{index+5000}` stand for a number that no other
            environment of this run has. A text that is nothing else becomes the number.
        each: a list for a keyword: copy `i` gets the `i`-th of its values, from the first on again where the
            list is shorter.
        numbers: the number of each copy, see `take_numbers`.
    """

    kwargs: Mapping[str, Any]
    each: Mapping[str, Any] = field(default_factory=dict)
    numbers: range = range(1)

    def __post_init__(self) -> None:
        for name, values in self.each.items():
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(f"kwargs_each.{name} is {values!r}; allowed is a list with a value per copy")
            if name in self.kwargs:
                raise ValueError(f"{name} is in kwargs and in kwargs_each; give one of them")

        for name, values in {**self.kwargs, **self.each}.items():
            for text in _mistaken(values):
                raise ValueError(
                    f"kwargs.{name} holds {text}, which stands for nothing; what differs from copy to copy "
                    "is {index} or {index+5000}"
                )

    def of(self, index: int) -> dict[str, Any]:
        each = {name: values[index % len(values)] for name, values in self.each.items()}
        return {name: _filled(value, self.numbers[index]) for name, value in {**self.kwargs, **each}.items()}


def take_numbers(owner: object, count: int) -> tuple[range, Callable[[], object]]:
    """`count` numbers for the copies that `owner` is going to have: the lowest that are free in all
    processes of this run (a process takes every `n`-th number if there are `n` of them), and what gives them
    back, at the latest when `owner` is gone."""
    world, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    first = 0
    while any(first + offset in _in_use for offset in range(count)):
        first += 1
    taken = range(first, first + count)
    _in_use.update(taken)
    numbers = range(first * world + rank, (first + count) * world + rank, world)
    return numbers, weakref.finalize(owner, _in_use.difference_update, taken)


@contextmanager
def given_back_on_failure(give_back: Callable[[], object]) -> Iterator[None]:
    """Numbers are free again when what was to have them could not be made: whoever keeps the error, such as a
    notebook, would keep them taken."""
    try:
        yield
    except BaseException:
        give_back()
        raise


def _mistaken(value: Any) -> Iterator[str]:
    """What is meant as `{index}` and is not written so."""
    if type(value) is dict:
        value = list(value.values())
    if type(value) in (list, tuple):
        for part in value:
            yield from _mistaken(part)
    elif isinstance(value, str):
        for found in _BRACED.finditer(value):
            word = found[1].lower()
            meant = word in _LIKE_INDEX or difflib.get_close_matches(word, ["index"], cutoff=0.7)
            if meant and not _INDEX.fullmatch(found[0]):
                yield found[0]


def _filled(value: Any, number: int) -> Any:
    if type(value) is dict:  # spaces are mappings, too
        return {key: _filled(part, number) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_filled(part, number) for part in value)
    if not isinstance(value, str):
        return value
    if whole := _INDEX.fullmatch(value):
        return number + int(whole[1] or 0)
    return _INDEX.sub(lambda found: str(number + int(found[1] or 0)), value)
