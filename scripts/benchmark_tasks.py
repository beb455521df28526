"""The benchmarks of the field: how each is trained here, and what others have published for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["success_rate", "return_mean"]

HYAR = "HyAR (Li et al., ICLR 2022, table 2)"
HPPO = "HPPO as run for HyAR's table 2"
CHDP = "CHDP (AAAI 2026)"
H_PPO = "H-PPO (DI-engine), 5 M steps"


@dataclass(frozen=True)
class Published:
    value: float
    source: str


@dataclass(frozen=True)
class Task:
    """`env` and `overrides` compose its configuration; the experiment's file holds the number of steps."""

    name: str
    env: str
    overrides: tuple[str, ...]
    measure: Measure
    ppo: Published | None = None
    """The best published result of a PPO-based method."""
    best: Published | None = None
    """The best published result of any method; None where that is `ppo`."""


def _hard_move(n: int, ppo: float, best: Published) -> tuple[Task, Task]:
    """The published form, one parameter for each of 2ⁿ options, and ours of n independent actuators."""
    overrides = ("experiment=hard_move", f"env.n={n}")
    published = (Published(ppo, HPPO), best)
    return (
        Task(f"hard_move_{n}", "hard_move", (*overrides, "env.form=option"), "success_rate", *published),
        Task(
            f"hard_move_{n}_actuator",
            "hard_move",
            (*overrides, "env.form=actuator"),
            "success_rate",
            *published,
        ),
    )


def _plain(name: str, measure: Measure, ppo: Published, best: Published | None = None) -> Task:
    return Task(name, name, (f"experiment={name}",), measure, ppo, best)


TASKS = (
    Task("cartpole", "gymnasium", ("experiment=cartpole",), "return_mean"),
    Task("pendulum", "gymnasium", ("experiment=pendulum",), "return_mean"),
    _plain("catch_point", "success_rate", Published(0.69, HPPO), Published(0.938, CHDP)),
    *_hard_move(4, 0.09, Published(0.942, CHDP)),
    _plain("moving", "return_mean", Published(1.85, H_PPO)),
    _plain("sliding", "return_mean", Published(1.50, H_PPO)),
    *_hard_move(6, 0.05, Published(0.939, CHDP)),
    _plain("platform", "return_mean", Published(0.80, HPPO), Published(0.997, CHDP)),
    *_hard_move(8, 0.04, Published(0.906, CHDP)),
    _plain("goal", "success_rate", Published(0.0, HPPO), Published(0.809, CHDP)),
    *_hard_move(10, 0.05, Published(0.82, HYAR)),
)
"""The cheapest first."""
