"""Memory: what a run takes at its peak against the size of its rollout, and whether it stays there."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.scripts.speed.timing import Loop
from equipoise.trainer.data import Rollout


def peak_memory() -> int:
    """Bytes: the largest resident set that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def addresses(rollout: Rollout) -> list[int]:
    """Where the buffers lie that are written while collecting."""
    buffers = (rollout.observations, *rollout.actions, rollout.rewards, rollout.final_observations)
    return [buffer.data_ptr() for buffer in buffers]


def peak_of(overrides: Sequence[str], iterations: int = 3) -> dict[str, Any]:
    """Of a fresh process: its peak before and after `iterations`, and whether the buffers stayed in place."""
    with tempfile.TemporaryDirectory() as folder:
        small = Loop([*overrides, "env.num_envs=4", "trainer.batch.rollout_steps=4"], Path(folder) / "small")
        small()  # whatever is loaded or built lazily
        small.close()
        before = peak_memory()
        loop = Loop(overrides, Path(folder) / "run")
        places = addresses(loop.trainer.collector.rollout)
        for _ in range(iterations):
            loop()
        in_place = addresses(loop.trainer.collector.rollout) == places
        loop.close()
    return {
        "samples": loop.samples,
        "base_bytes": before,
        "bytes": peak_memory() - before,
        "buffers_in_place": in_place,
    }


def growth(sizes: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Peak memory for each size, each in a process of its own, and the straight line through them."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        peaks = list(pool.map(peak_of, sizes))
    samples, taken = (np.array([peak[key] for peak in peaks], dtype=float) for key in ("samples", "bytes"))
    slope, start = np.polyfit(samples, taken, 1)
    error = np.abs(taken - (start + slope * samples)).max() / taken.max()
    return {"peaks": peaks, "bytes_per_sample": float(slope), "largest_error": float(error)}


def flatness(overrides: Sequence[str], minutes: float) -> dict[str, Any]:
    """Train for `minutes` and note the peak all the while: memory that leaks keeps pushing it up."""
    minute = 60.0
    series: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(overrides, Path(folder))
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < minutes * minute or not series:
            loop()
            series.append((elapsed, peak_memory()))
        loop.close()
    settled = next((peak for elapsed, peak in series if elapsed >= minutes * minute / 10), series[-1][1])
    return {
        "minutes": minutes,
        "iterations": len(series),
        "peak_bytes": series[-1][1],
        "growth_bytes": series[-1][1] - settled,
        "series": series[:: max(1, len(series) // 200)],
    }
