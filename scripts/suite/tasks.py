"""The tasks of the first-try study, and the table of who can learn them."""

from __future__ import annotations

from dataclasses import dataclass

_OURS = "equipoise.scripts.suite.environments:suite"


@dataclass(frozen=True)
class Task:
    """One environment as `gymnasium.make` takes it, and for how many steps it is learned."""

    name: str
    id: str
    steps: int
    hybrid: bool = False
    package: str | None = None
    """What has to be installed for it, as pip takes it."""


TASKS = (
    *(
        Task(name, f"{_OURS}/{name}-v0", steps, hybrid=True)
        for name, steps in {
            "Order": 30_720,
            "Car": 30_720,
            "Parameterised": 30_720,
            "Strategy": 30_720,
            "DataCentre": 30_720,
            "Gripper": 61_440,
        }.items()
    ),
    Task("Platform", "gym_platform:Platform-v0", 102_400, hybrid=True, package="hybrid-platform==0.1.0"),
    Task("Moving", "equipoise.envs:equipoise/Moving-v0", 102_400, hybrid=True),
    Task("CartPole", "CartPole-v1", 51_200),
    Task("Acrobot", "Acrobot-v1", 102_400),
    Task("Pendulum", "Pendulum-v1", 102_400),
    Task("MountainCarContinuous", "MountainCarContinuous-v0", 102_400),
    Task("LunarLander", "LunarLander-v3", 102_400, package="gymnasium[box2d]"),
    Task("Hopper", "Hopper-v5", 102_400, package="gymnasium[mujoco]"),
)
"""Cheapest first. Every task is learned by the defaults alone."""


def learners_of(task: Task) -> tuple[str, ...]:
    """Who learns a task: ours, and what one would take instead."""
    return ("equipoise", "cleanrl_hybrid") if task.hybrid else ("equipoise", "sb3")
