"""One peer in a process of its own: python -m scripts.peers.worker PEER TASK FD, started by `process.py`.

It builds the peer, says with which versions, and then does what it is asked, until there is nobody to ask.
CPU seconds are those of this process and of all that it has started: RLlib keeps daemons.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from equipoise.scripts.peers.task import Goal, Task

PARENT, USER, SYSTEM = 1, 11, 12
"""Fields of /proc/<pid>/stat behind the name: the parent's id, and ticks of CPU time."""


def main(peer: str, task: str, descriptor: str) -> None:
    connection = Connection(int(descriptor))
    try:
        torch.set_num_threads(1)
        module = importlib.import_module(f"equipoise.scripts.peers.{peer}")
        work = Worker(module, Task(**json.loads(task)))
        answer: dict[str, Any] = {"versions": {p: importlib.metadata.version(p) for p in module.PACKAGES}}
        while True:
            connection.send_bytes(json.dumps(answer).encode())
            request = json.loads(connection.recv_bytes())
            answer = getattr(work, request.pop("do"))(**request)
    except EOFError:  # the parent has closed its end
        return
    except Exception as error:
        text = " ".join(str(error).split())
        connection.send_bytes(json.dumps({"error": f"{type(error).__name__}: {text}"}).encode())
        raise


class Worker:
    def __init__(self, module: Any, task: Task) -> None:
        self.module, self.task = module, task
        self._iterate: Any = None

    def iterate(self, times: int) -> dict[str, float]:
        """Seconds for `times` iterations, CPU and wall."""
        if self._iterate is None:
            self._iterate = self.module.build(self.task)
        cpu, wall = cpu_seconds(), time.perf_counter()
        for _ in range(times):
            self._iterate()
        return {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall}

    def reach(self, seed: int, goal: dict[str, Any]) -> dict[str, Any]:
        """Steps and seconds until the goal is reached; steps are null where it is not. `process` also counts
        imports and building."""
        wall = time.perf_counter()
        cpu = cpu_seconds()
        steps = self.module.reach(seed, Goal(**goal))
        ended = cpu_seconds()
        return {"steps": steps, "cpu": ended - cpu, "wall": time.perf_counter() - wall, "process": ended}


def cpu_seconds() -> float:
    """Of this process and, where the system has /proc, of its living descendants."""
    return time.process_time() + _descendants_seconds()


def _descendants_seconds() -> float:
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it may have ended just now
            fields = file.read_text().rpartition(")")[2].split()
            pid = int(file.parent.name)
            parents[pid], ticks[pid] = int(fields[PARENT]), int(fields[USER]) + int(fields[SYSTEM])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sum(ticks[pid] for pid in found - {os.getpid()}) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(*sys.argv[1:])
