"""This project with a process for each environment, which is what other libraries start."""

from __future__ import annotations

from collections.abc import Callable

from equipoise.scripts.peers import equipoise
from equipoise.scripts.peers.equipoise_workers import ASYNC
from equipoise.scripts.peers.task import Task

PACKAGES = equipoise.PACKAGES


def build(task: Task) -> Callable[[], None]:
    return equipoise.build(task, (*ASYNC, f"env.num_workers={task.envs}"))
