"""Where the time of an iteration goes: the stack is looked at every few milliseconds of CPU time."""

from __future__ import annotations

import linecache
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

from equipoise.scripts.speed.floor import Floor
from equipoise.scripts.speed.timing import Loop

ROOT = Path(__file__).resolve().parents[2]
EVERY = 0.001
"""Seconds; the kernel rounds it up to its own tick."""
PLACES = (
    ("products", "compiled: products"),
    ("kernels", "compiled: all else"),
    ("trainer/compilation.py:_call_compiled", "compiled: calling it"),
    ("envs/", "environment"),
    ("trainer/rollout.py", "acting and recording"),
    ("trainer/targets.py", "values, GAE, advantages"),
    ("trainer/minibatches.py", "minibatches"),
    ("trainer/policy/encoders/mlp.py:backward", "backward of the trunks"),
    ("trainer/gradients.py:gradient", "backward of all else"),
    ("trainer/stages/gradient_scaling.py", "gradient stage"),
    ("trainer/gradients.py", "weighing the gradients"),
    ("trainer/policy/encoders/", "forward of the trunks"),
    ("trainer/policy/actor_critic.py", "forward of the heads"),
    ("trainer/objective.py", "losses and loss stages"),
    ("trainer/learner.py:_step", "optimizer step"),
    ("trainer/learner.py", "rest of the update"),
    ("", "figures, log, rest"),
)
"""`file:function`, or its beginning: a sample belongs to the first that is anywhere in its stack."""


def profile(overrides: Sequence[str], seconds: float, warmup: int = 3) -> dict[str, Any]:
    """Milliseconds of an iteration at each place, over about `seconds` of CPU time; of a whole iteration; and
    of the floor. What runs in C++ counts where Python called it."""
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(overrides, Path(folder))
        floor = Floor(loop.trainer, needed_only=True)
        for _ in range(warmup):
            loop()
            floor()
        iterations, began = 0, time.process_time()
        with _samples() as samples:
            while iterations == 0 or time.process_time() - began < seconds:
                loop()
                iterations += 1
        whole = 1e3 * (time.process_time() - began) / iterations
        floors = []
        for _ in range(max(3, iterations // 4)):
            began = time.process_time()
            floor()
            floors.append(1e3 * (time.process_time() - began))
        loop.close()
    taken = max(samples.total(), 1)
    places = {label: whole * samples[label] / taken for _, label in PLACES}
    return {"places": places, "iteration": whole, "needed_floor": median(floors), "samples": taken}


@contextmanager
def _samples() -> Iterator[Counter[str]]:
    found: Counter[str] = Counter()

    def note(_: int, frame: FrameType | None) -> None:
        found[place_of(frame)] += 1

    before = signal.signal(signal.SIGPROF, note)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    try:
        yield found
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def place_of(frame: FrameType | None) -> str:
    """The label of `PLACES` for a stack, given by its innermost frame."""
    stack = [where] if (where := _generated(frame)) else []
    while frame is not None:
        if file := _own(frame.f_code.co_filename):
            stack.append(f"{file}:{frame.f_code.co_name}")
        frame = frame.f_back
    return next(label for part, label in PLACES if not part or any(key.startswith(part) for key in stack))


@cache
def _own(name: str) -> str | None:
    """The path of one of our files within the clone; `equipoise/` holds links to the folders."""
    file = Path(name).resolve()
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else None


def _generated(frame: FrameType | None) -> str | None:
    """Of code that the compiler has written, which names the products of matrices that it calls."""
    if frame is None or "torchinductor" not in frame.f_code.co_filename:
        return None
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return "products" if "mm(" in line else "kernels"
