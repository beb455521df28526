"""The field's benchmarks: how each is trained here, and published results."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from equipoise.scripts.studies.experiments import Arm, Job, chosen, plan
from equipoise.scripts.studies.published import CHDP, H_PPO, HPPO, HYAR, Published
from equipoise.trainer.configuration.compose import compose

Measure = Literal["success_rate", "return_mean"]


@dataclass(frozen=True)
class Task:
    """A benchmark. `env` and `overrides` compose its configuration, number of steps included."""

    name: str
    env: str
    overrides: tuple[str, ...]
    measure: Measure
    ppo: Published | None = None
    """The best published result of a PPO-based method."""
    best: Published | None = None
    """The best published result of any method; None where that is `ppo`."""


def _hard_move(n: int, ppo: float, best: Published) -> tuple[Task, Task]:
    """The published form, one parameter for each of 2ⁿ options, and ours with n independent actuators,
    for which there are no published numbers."""
    overrides = ("experiment=hard_move", f"env.n={n}")
    option, actuator = ((*overrides, f"env.form={form}") for form in ("option", "actuator"))
    return (
        Task(f"hard_move_{n}", "hard_move", option, "success_rate", Published(ppo, HPPO), best),
        Task(f"hard_move_{n}_actuator", "hard_move", actuator, "success_rate"),
    )


def _plain(name: str, measure: Measure, ppo: Published | None, best: Published | None = None) -> Task:
    return Task(name, name, (f"experiment={name}",), measure, ppo, best)


TASKS = (
    Task("cartpole", "gymnasium", ("experiment=cartpole",), "return_mean"),
    Task("pendulum", "gymnasium", ("experiment=pendulum",), "return_mean"),
    Task("catch_point", "catch_point", ("experiment=catch_point",), "success_rate"),
    Task(
        "catch_point_25",  # the length of the published runs
        "catch_point",
        ("experiment=catch_point", "env.max_steps=25"),
        "success_rate",
        Published(0.69, HPPO),
        Published(0.938, CHDP),
    ),
    *_hard_move(4, 0.09, Published(0.942, CHDP)),
    _plain("moving", "return_mean", Published(1.85, H_PPO)),
    _plain("sliding", "return_mean", Published(1.50, H_PPO)),
    *_hard_move(6, 0.05, Published(0.939, CHDP)),
    _plain("platform", "return_mean", Published(0.80, HPPO), Published(0.997, CHDP)),
    *_hard_move(8, 0.04, Published(0.906, CHDP)),
    _plain("goal", "success_rate", Published(0.0, HPPO), Published(0.809, CHDP)),
    _plain("hard_goal", "success_rate", None),
    *_hard_move(10, 0.05, Published(0.82, HYAR)),
)
"""The cheapest first."""


def jobs_of(
    tasks: Sequence[Task],
    arms: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    out: Path,
    share: float = 1.0,
) -> list[Job]:
    """Every task with every arm's overrides, for `share` of its steps; seed by seed, so that a study stopped
    early has runs of all of them."""
    jobs = []
    for task in tasks:
        steps = compose([f"env={task.env}", *task.overrides]).trainer.total_env_steps
        variants = [Arm(name, (*task.overrides, *overrides)) for name, overrides in arms.items()]
        for job in plan(variants, [task.env], seeds, round(share * steps), out):
            folder = (out / task.name / job.arm.name / f"s{job.seed}").resolve()
            jobs.append(replace(job, env=task.name, folder=folder))
    return sorted(jobs, key=lambda job: job.seed)


def tasks_named(text: str, allowed: Sequence[Task]) -> list[Task]:
    """Parse `a,b`, names of tasks. Raises `argparse.ArgumentTypeError`."""
    known = {task.name: task for task in allowed}
    return [known[name] for name in chosen(text, known, "task")]


def add_tasks_and_arms(
    parser: argparse.ArgumentParser, tasks: Sequence[Task], arms: Mapping[str, Sequence[str]]
) -> None:
    """Add the options that choose among the tasks and the arms of a study; all, if nothing is typed."""
    names = ",".join(task.name for task in tasks)
    parser.add_argument(
        "--tasks", type=lambda text: tasks_named(text, tasks), default=names, help="as a,b (default: all)"
    )
    parser.add_argument(
        "--arms",
        type=lambda text: chosen(text, arms, "arm"),
        default=",".join(arms),
        help="as a,b (default: all)",
    )
    parser.epilog = f"tasks: {names}; arms: {', '.join(arms)}"


def add_share(parser: argparse.ArgumentParser, default: float) -> None:
    text = f"train for this share of each task's steps (default: {default:g})"
    parser.add_argument("--share", type=fraction, default=default, help=text)


def fraction(text: str) -> float:
    """Parse a number in (0, 1]. Raises `argparse.ArgumentTypeError`."""
    if not 0.0 < (share := float(text)) <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} must lie in (0, 1]")
    return share
