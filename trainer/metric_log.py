"""Collects the metrics of an iteration on the device and transfers them to the host all at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from equipoise.trainer.data import Metrics, Reduction
from equipoise.trainer.system import distributed


class MetricLog:
    """Takes device scalars and returns one number per tag and iteration.

    Args:
        spread: tags that also give the smallest and the largest value of the iteration, as `<tag>_min` and
            `<tag>_max` (a chart draws them as a band).
    """

    def __init__(self, spread: Collection[str] = ()) -> None:
        self._spread = frozenset(spread)
        self._reductions: dict[str, Reduction] = {}
        self._tags: list[str] = []
        self._rows: list[Tensor] = []

    @torch.no_grad()
    def add(self, metrics: Metrics) -> None:
        """Add metrics, without a host synchronisation. They are copied, so their tensors may be reused.

        Raises:
            ValueError: a metric is not a scalar, or has a different reduction than before.
        """
        if not metrics:
            return
        for tag, (value, reduction) in metrics.items():
            if value.dim() != 0:
                raise ValueError(f"metric {tag!r} has shape {tuple(value.shape)}; it must be a scalar")
            if self._reductions.setdefault(tag, reduction) != reduction:
                raise ValueError(
                    f"metric {tag!r} has reduction {reduction!r}, before it was {self._reductions[tag]!r}"
                )
        # Stack per dtype: stacking mixed dtypes would convert every scalar.
        for dtype in dict.fromkeys(metric.value.dtype for metric in metrics.values()):
            chosen = {tag: metric.value for tag, metric in metrics.items() if metric.value.dtype == dtype}
            self._tags.extend(chosen)
            self._rows.append(torch.stack(list(chosen.values())))

    def read(self) -> dict[str, float]:
        """Reduce and clear the metrics added since the last call; one transfer, float64.

        NaNs are left out, and so is a tag that has nothing else. With several processes, a metric is combined
        over those that have it, and all processes get the same result.
        """
        mine = self._read()
        everywhere = distributed.all_gather(mine)
        if len(everywhere) == 1:
            return {tag: metric for tag, (_, metric) in mine.items()}
        entries: dict[str, list[tuple[Across, float]]] = {}
        for one in everywhere:
            for tag, entry in one.items():
                entries.setdefault(tag, []).append(entry)
        return {tag: _ACROSS[found[0][0]]([metric for _, metric in found]) for tag, found in entries.items()}

    def _read(self) -> dict[str, tuple[Across, float]]:
        """This process's metrics, each with how to combine it with those of other processes."""
        if not self._rows:
            return {}
        # One transfer: on a GPU each of them waits for all queued work.
        numbers: list[float] = torch.cat(self._rows).tolist()
        entries: dict[str, list[float]] = {}
        for tag, number in zip(self._tags, numbers, strict=True):
            if not math.isnan(number):
                entries.setdefault(tag, []).append(number)
        self._tags.clear()
        self._rows.clear()
        metrics: dict[str, tuple[Across, float]] = {}
        for tag, values in entries.items():
            reduction = self._reductions[tag]
            across: Across = reduction if reduction in ("max", "geometric_mean") else "mean"
            metrics[tag] = across, _reduce(tag, values, reduction)
            if tag in self._spread:
                metrics[f"{tag}_min"], metrics[f"{tag}_max"] = ("min", min(values)), ("max", max(values))
        return metrics


def _reduce(tag: str, values: Sequence[float], reduction: Reduction) -> float:
    match reduction:
        case "mean":
            return sum(values) / len(values)
        case "last":
            return values[-1]
        case "sum":
            return sum(values)
        case "max":
            return max(values)
        case "geometric_mean":
            if min(values) < 0.0:
                raise ValueError(f"metric {tag!r} has a geometric mean, but a value of {min(values)}")
            return _geometric_mean(values)


def _geometric_mean(values: Sequence[float]) -> float:
    if min(values) == 0.0:
        return 0.0
    return math.exp(sum(math.log(value) for value in values) / len(values))


Across = Literal["mean", "min", "max", "geometric_mean"]
_ACROSS: dict[Across, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: sum(values) / len(values),
    "min": min,
    "max": max,
    "geometric_mean": _geometric_mean,
}
"""How the metrics of several processes become one. Sums over an iteration are averaged too: the processes
do what they count (updates, above all) together."""
