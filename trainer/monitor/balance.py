"""Aggregates the balance of both sides over a run, for `summary.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from equipoise.trainer.stages.protocol import SIDES

_PREFIX = "gradient_scaling/"
LAST_QUARTER = 0.75


class BalanceRecord:
    """Accumulates the gradient stage's metrics of every iteration."""

    def __init__(self) -> None:
        self._late: list[dict[str, float]] = []
        self._clamped = {side: [0.0, 0] for side in SIDES}

    def add(self, env_steps: int, total_env_steps: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an iteration that ended after `env_steps` of `total_env_steps`."""
        for side, clamped in self._clamped.items():
            if (fraction := metrics.get(f"{_PREFIX}{side}_clamped")) is not None:
                clamped[0] += fraction
                clamped[1] += 1
        if env_steps > LAST_QUARTER * total_env_steps:
            names = ("balance_ratio", "balance_ratio_before", *(f"{side}_weight_used" for side in SIDES))
            kept = {name: metrics[_PREFIX + name] for name in names if _PREFIX + name in metrics}
            self._late.append({"env_steps": env_steps, **kept})

    def summary(self, total_env_steps: int) -> dict[str, float | None]:
        """Means over the last quarter of the run (geometric for ratios), and how often scales were clamped.

        `clamped_fraction` is the fraction of all updates in which a side's scale was at a bound: that of the
        side with more of them. A number that was never measured is None.
        """
        late = [entry for entry in self._late if entry["env_steps"] > LAST_QUARTER * total_env_steps]

        def column(name: str) -> list[float]:
            return [entry[name] for entry in late if name in entry]

        clamped = {side: total / count if count else None for side, (total, count) in self._clamped.items()}
        known = [fraction for fraction in clamped.values() if fraction is not None]
        return {
            "balance_ratio_before": _geometric_mean(column("balance_ratio_before")),
            "balance_ratio": _geometric_mean(column("balance_ratio")),
            **{f"{side}_weight_used": _mean(column(f"{side}_weight_used")) for side in SIDES},
            "clamped_fraction": max(known, default=None),
            **{f"{side}_clamped_fraction": fraction for side, fraction in clamped.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        return {"late": self._late, "clamped": self._clamped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._late = [dict(entry) for entry in state["late"]]
        self._clamped = {side: list(clamped) for side, clamped in state["clamped"].items()}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _geometric_mean(values: list[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None
