"""Collects the figures of an iteration on the device and brings them to the host all at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from trainer.data import Metrics, Reduction


class MetricLog:
    """Device scalars in, one number per tag and iteration out.

    `spread`: tags whose smallest and largest value of the iteration are wanted too, as `<tag>_min` and
    `<tag>_max` (a chart draws them as a band).
    """

    def __init__(self, spread: Collection[str] = ()) -> None:
        self._spread = frozenset(spread)
        self._reductions: dict[str, Reduction] = {}
        self._tags: list[str] = []
        self._rows: list[Tensor] = []

    @torch.no_grad()
    def add(self, metrics: Metrics) -> None:
        """Note figures, without a host synchronisation. They are copied: the source may change in place.

        Raises `ValueError` for a figure that is no scalar, or whose reduction differs from before.
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
        # Each dtype by itself: stacked together every single figure would be converted.
        for dtype in dict.fromkeys(metric.value.dtype for metric in metrics.values()):
            chosen = {tag: metric.value for tag, metric in metrics.items() if metric.value.dtype == dtype}
            self._tags.extend(chosen)
            self._rows.append(torch.stack(list(chosen.values())))

    def read(self) -> dict[str, float]:
        """The figures since the last call, each by its reduction, in float64; then forget them.

        A NaN is left out; a tag with nothing else does not appear.
        """
        if not self._rows:
            return {}
        # Everything in one transfer: on a GPU each one waits for all work queued so far.
        numbers: list[float] = torch.cat(self._rows).tolist()
        entries: dict[str, list[float]] = {}
        for tag, number in zip(self._tags, numbers, strict=True):
            if not math.isnan(number):
                entries.setdefault(tag, []).append(number)
        self._tags.clear()
        self._rows.clear()
        figures: dict[str, float] = {}
        for tag, values in entries.items():
            figures[tag] = _reduce(tag, values, self._reductions[tag])
            if tag in self._spread:
                figures[f"{tag}_min"], figures[f"{tag}_max"] = min(values), max(values)
        return figures


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
            if min(values) == 0.0:
                return 0.0
            return math.exp(sum(math.log(value) for value in values) / len(values))
