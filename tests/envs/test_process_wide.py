"""Streams of the generators of a process: each copy of an environment has its own, whoever draws in between."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
import torch

from equipoise.envs import process_wide
from equipoise.envs.process_wide import Streams


def draws() -> list[float]:
    """An odd number of normal ones, so that one of a pair is kept for the next draw."""
    numbers = [
        random.random(),
        random.gauss(),
        float(random.randrange(10**6)),
        random.gauss(),
        random.gauss(),
    ]
    return [*numbers, np.random.rand(), np.random.randn(), float(torch.rand(())), float(torch.randn(()))]


def drawn(streams: Streams, times: int) -> list[float]:
    with process_wide.preserved():
        streams.enter()
        numbers = list(chain.from_iterable(draws() for _ in range(times)))
        streams.leave()
    return numbers


@pytest.fixture(params=["memory", "setstate"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CPython allows it, and as every Python does."""
    if request.param == "setstate":
        monkeypatch.setattr(process_wide, "_TABLE", None)
    elif process_wide._TABLE is None:
        pytest.skip("this Python keeps its numbers elsewhere")


@pytest.mark.usefixtures("_both_ways")
def test_streams_that_take_turns_draw_what_each_would_alone() -> None:
    alone = [drawn(Streams(5, index), 400) for index in range(2)]
    assert (
        alone[0][0]
        == random.Random(int(np.random.SeedSequence((5, 0)).generate_state(3, np.uint64)[1])).random()
    )
    one, other = Streams(5, 0), Streams(5, 1)
    turns = [(drawn(one, 100), drawn(other, 100)) for _ in range(4)]
    assert [list(chain.from_iterable(mine)) for mine in zip(*turns, strict=True)] == alone


@pytest.mark.usefixtures("_both_ways")
def test_the_process_goes_on_where_it_was() -> None:
    random.seed(3)
    random.gauss()
    before = random.getstate()
    drawn(Streams(1), 100)
    assert random.getstate() == before


def test_either_way_reads_what_the_other_has_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Streams(7)
    drawn(first, 3)
    saved = first.state_dict()
    version, numbers, gauss = saved["python"]
    as_python_has_it = version, tuple(np.frombuffer(numbers, np.uint32).tolist()), gauss
    expected = drawn(first, 3)
    again = Streams()
    again.load_state_dict(saved)
    monkeypatch.setattr(process_wide, "_TABLE", None)
    other = Streams()
    other.load_state_dict(saved)
    assert drawn(again, 3) == drawn(other, 3) == expected
    generator = random.Random()
    generator.setstate(as_python_has_it)
    assert generator.random() == expected[0]
