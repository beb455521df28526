"""The metrics of an iteration: reduced as declared, NaN left out, fetched at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.trainer.data import Metric, Reduction
from equipoise.trainer.metric_log import MetricLog


def metric(value: float, reduction: Reduction = "mean") -> Metric:
    return Metric(torch.tensor(value), reduction)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", 14 / 3), ("last", 4.0), ("sum", 14.0), ("max", 8.0), ("geometric_mean", 4.0)],
)
def test_each_reduction(reduction: Reduction, expected: float) -> None:
    log = MetricLog()
    for value in (2.0, 8.0, 4.0):
        log.add({"a": metric(value, reduction)})
    assert log.read() == {"a": pytest.approx(expected, rel=1e-12)}


@pytest.mark.parametrize("reduction", ["mean", "last", "sum", "max", "geometric_mean"])
def test_nan_is_nothing_to_report(reduction: Reduction) -> None:
    log = MetricLog()
    for value in (math.nan, 5.0, math.nan):
        log.add({"some": metric(value, reduction), "none": metric(math.nan, reduction)})
    assert log.read() == {"some": pytest.approx(5.0)}


def test_an_infinite_value_is_reported() -> None:
    log = MetricLog()
    log.add({"a": metric(math.inf), "b": metric(1.0)})
    log.add({"a": metric(1.0)})
    assert log.read() == {"a": math.inf, "b": 1.0}


def test_reading_clears() -> None:
    log = MetricLog()
    assert log.read() == {}
    log.add({})
    log.add({"a": metric(1.0)})
    log.read()
    log.add({"a": metric(3.0)})
    assert log.read() == {"a": 3.0}
    assert log.read() == {}


def test_a_figure_that_changes_in_place_is_noted_as_it_was() -> None:
    ema = torch.tensor(1.0)
    log = MetricLog()
    log.add({"ema": Metric(ema, "sum")})
    ema.mul_(10.0)
    log.add({"ema": Metric(ema, "sum")})
    assert log.read() == {"ema": 11.0}


def test_flags_and_counts_are_figures_too() -> None:
    log = MetricLog()
    log.add({"flag": Metric(torch.tensor(True)), "count": Metric(torch.tensor(3)), "loss": metric(0.5)})
    log.add({"flag": Metric(torch.tensor(False)), "count": Metric(torch.tensor(4))})
    assert log.read() == {"flag": 0.5, "count": 3.5, "loss": 0.5}


def test_the_mean_is_taken_in_double_precision() -> None:
    log = MetricLog()
    for value in (2.0**24, 1.0, 1.0, 2.0**24):  # float32 would lose both ones
        log.add({"a": metric(value, "sum")})
    assert log.read() == {"a": 2.0**25 + 2.0}


def test_the_spread_of_chosen_tags() -> None:
    log = MetricLog(spread=["norm"])
    for value in (3.0, math.nan, 1.0, 2.0):
        log.add({"norm": metric(value), "other": metric(value)})
    assert log.read() == {"norm": 2.0, "norm_min": 1.0, "norm_max": 3.0, "other": 2.0}


def test_geometric_mean_of_zero_and_of_a_negative() -> None:
    log = MetricLog()
    log.add({"a": metric(0.0, "geometric_mean")})
    log.add({"a": metric(4.0, "geometric_mean")})
    assert log.read() == {"a": 0.0}
    log.add({"a": metric(-4.0, "geometric_mean")})
    with pytest.raises(ValueError, match=r"'a' has a geometric mean, but a value of -4"):
        log.read()


def test_bad_figures_are_named() -> None:
    log = MetricLog()
    with pytest.raises(ValueError, match=r"'vector' has shape \(2,\)"):
        log.add({"vector": Metric(torch.zeros(2))})
    log.add({"a": metric(1.0, "sum")})
    with pytest.raises(ValueError, match="'a' has reduction 'max', before it was 'sum'"):
        log.add({"a": metric(1.0, "max")})


def test_nothing_is_read_before_the_end_and_then_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unreadable = torch.zeros((), device="meta")  # has no value: any attempt to read one raises
    with pytest.raises(RuntimeError, match="meta"):
        unreadable.item()
    MetricLog().add({"a": Metric(unreadable), "b": Metric(unreadable, "geometric_mean")})

    log = MetricLog()
    for value in range(10):
        log.add({"a": Metric(torch.tensor(float(value)).requires_grad_()), "b": metric(1.0)})
    transfers: list[int] = []
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> list[float]:
        transfers.append(tensor.numel())
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    assert log.read() == {"a": 4.5, "b": 1.0}
    assert transfers == [20]


@given(st.lists(st.floats(2.0**-20, 2.0**20, width=32), min_size=1, max_size=20))
def test_the_means_are_ordered(values: list[float]) -> None:
    log = MetricLog(spread=["mean"])
    for value in values:
        log.add({"mean": metric(value), "geometric": metric(value, "geometric_mean")})
    metrics = log.read()
    slack = 1 + 1e-9
    assert metrics["mean_min"] <= metrics["geometric"] * slack
    assert metrics["geometric"] <= metrics["mean"] * slack
    assert metrics["mean"] <= metrics["mean_max"] * slack
