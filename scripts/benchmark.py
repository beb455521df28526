"""How fast the whole loop is, against the bare matrix products of its own sizes: the floor, 1.00.

python -m scripts.benchmark              # everything, in about a quarter of an hour
python -m scripts.benchmark --quick      # the same questions, under a minute
python -m scripts.benchmark --profile    # where the time of an iteration goes, three minutes
python -m scripts.benchmark --memory 10  # peak memory, and whether it is flat over 10 minutes

All arms of a comparison take turns in one process, and ratios are taken within a round. Writes
benchmark.json and benchmark.png (--memory: memory.json and memory.png; --profile: profile.json) into --out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from equipoise.scripts.speed import memory as benchmark_memory
from equipoise.scripts.speed import report as benchmark_report
from equipoise.scripts.speed.floor import Floor
from equipoise.scripts.speed.profiling import profile
from equipoise.scripts.speed.timing import Loop, clock_for, interleave, phase_shares, ratios, spread

SCALING = "trainer.gradient_scaling"
ARMS: dict[str, tuple[str, ...]] = {
    "off": (f"{SCALING}.enable_adaptive_scaling=false", f"{SCALING}.monitor_every=0"),
    "exact": (f"{SCALING}.measure_every=1",),
    "every 5th": (f"{SCALING}.measure_every=5",),
    "every 5th, compiled": (f"{SCALING}.measure_every=5", "trainer.compile=default"),
    "exact, compiled": (f"{SCALING}.measure_every=1", "trainer.compile=default"),
    "off, compiled": (
        f"{SCALING}.enable_adaptive_scaling=false",
        f"{SCALING}.monitor_every=0",
        "trainer.compile=default",
    ),
    "naive": (
        "trainer.naive_scaling._target_=equipoise.scripts.speed.naive.NaiveScaling",
        "trainer.stages=[reward_normalization,advantage_weighting,value_clipping,entropy_regularization,"
        "naive_scaling]",
    ),
    "default": (),
}
"""The same run, but for how gradients are scaled; `default` is whatever conf/ says."""


def flat(steps: int, num_envs: int) -> tuple[str, ...]:
    """O = 32, one head of 6 choices, P = 4, K = 3; MLP 2×64, separate critic; 4 epochs × 4 minibatches."""
    return ("env=synthetic", f"env.num_envs={num_envs}", f"trainer.batch.rollout_steps={steps}")


def colony(nodes: int) -> tuple[str, ...]:
    """TopologySpawn with another number of nodes."""
    start = min(5, nodes - 1)
    return (
        "env=topology_spawn",
        "env.num_envs=64",
        f"env.max_nodes={nodes}",
        f"env.crowded_nodes={nodes}",
        f"env.start_nodes={start}",
    )


@dataclass(frozen=True)
class Task:
    overrides: tuple[str, ...]
    arms: tuple[str, ...] = tuple(arm for arm in ARMS if arm != "default")


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    tasks: Mapping[str, Task]
    growth: Mapping[str, Mapping[int, tuple[str, ...]]]
    """Axis -> value -> overrides."""
    rounds: int
    growth_rounds: int
    warmup: int


TASKS = {f"{steps}×{envs}": Task(flat(steps, envs)) for steps, envs in ((128, 64), (16, 1024), (32, 4096))}
TASKS["topology_spawn"] = Task(("env=topology_spawn",), tuple(ARMS))
GROWTH: dict[str, dict[int, tuple[str, ...]]] = {
    "environments": {n: flat(16, n) for n in (64, 256, 1024, 4096, 8192)},
    "nodes": {n: colony(n) for n in (4, 8, 16, 32, 64)},
    "K": {k: (*flat(16, 256), f"env.components={k}") for k in (1, 3, 6, 12, 24)},
    "hidden width": {w: (*flat(16, 256), f"policy.hidden_sizes=[{w},{w}]") for w in (16, 64, 128, 256, 512)},
}
FULL = Plan(TASKS, GROWTH, rounds=15, growth_rounds=5, warmup=3)
QUICK = Plan(
    tasks={
        "128×64": Task(flat(128, 64), ("off", "exact", "every 5th", "naive")),
        "16×1024": Task(flat(16, 1024), ("off", "exact", "every 5th")),
        "topology_spawn": Task(TASKS["topology_spawn"].overrides, ("off", "exact", "default")),
    },
    growth={axis: dict(list(points.items())[:2]) for axis, points in GROWTH.items()},
    rounds=2,
    growth_rounds=1,
    warmup=1,
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    typed = sys.argv[1:] if arguments is None else arguments
    command = {"command": " ".join(["python -m scripts.benchmark", *typed])}
    if options.memory is not None:
        result = command | measure_memory(options.memory)
        Console().print(*benchmark_report.memory_tables(result))
        write(result, options.out / "memory.json")
        benchmark_report.plot_memory(result, options.out / "memory.png")
    elif options.profile is not None:
        result = command | measure_profiles(options.profile, options.device)
        Console().print(*benchmark_report.profile_tables(result))
        write(result, options.out / "profile.json")
    else:
        return run(QUICK if options.quick else FULL, options.device, options.out, command)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="fewer sizes and rounds, under a minute")
    what.add_argument("--memory", type=_minutes, metavar="MINUTES", help="memory instead of time")
    what.add_argument(
        "--profile", type=_seconds, nargs="?", const=15.0, metavar="SECONDS", help="where the time goes"
    )
    parser.add_argument("--device", type=_device, default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--out", type=_folder, default="runs/benchmark", help="(default: %(default)s)")
    return parser


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0.0 <= minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: minutes must be 0 (growth alone) or more")
    return minutes


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: seconds must be more than 0")
    return seconds


def _device(text: str) -> str:
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r}: must be cpu or cuda")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("cuda: PyTorch finds no GPU here")
    return text


def _folder(text: str) -> Path:
    """Made at once: not after ten minutes does one want to hear that it cannot be."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot make the folder: {error}") from None
    return path


def run(plan: Plan, device: str, out: Path, note: Mapping[str, Any]) -> int:
    """Measure, write and show; what is measured is written even if it is stopped. Returns the exit status."""
    console = Console()
    result = {**note, "machine": benchmark_report.machine(device), "tasks": {}, "growth": {}}
    try:
        for what in measure(plan, device, result):
            write(result, out / "benchmark.json")
            console.print(f"measured: {what}", highlight=False)
    except KeyboardInterrupt:
        console.print(f"stopped; what was measured is in {out / 'benchmark.json'}")
        return 130
    benchmark_report.plot(result, out / "benchmark.png")
    console.print(*benchmark_report.tables(result))
    console.print(f"written: {out / 'benchmark.json'} and benchmark.png")
    return 0


def measure(plan: Plan, device: str, result: dict[str, Any]) -> Iterator[str]:
    """Everything in `plan`, into `result`, ready for JSON; says what has been measured."""
    on = f"device={device}"
    for name, task in plan.tasks.items():
        result["tasks"][name] = compare([*task.overrides, on], task.arms, plan.rounds, plan.warmup)
        yield name
    for axis, points in plan.growth.items():
        result["growth"][axis] = {}
        for value, overrides in points.items():
            measured = compare([*overrides, on], ["off", "exact"], plan.growth_rounds, plan.warmup, False)
            result["growth"][axis][str(value)] = measured
            yield f"{axis} = {value}"


def measure_profiles(seconds: float, device: str) -> dict[str, Any]:
    """Where the time goes, with every fifth minibatch measured, in each task; and the same compiled."""
    return {"machine": benchmark_report.machine(device)} | {
        arm: {
            name: profile([*task.overrides, f"device={device}", *ARMS[arm]], seconds)
            for name, task in TASKS.items()
        }
        for arm in ("every 5th", "every 5th, compiled")
    }


def compare(
    overrides: Sequence[str], arms: Sequence[str], rounds: int, warmup: int, phases: bool = True
) -> dict[str, Any]:
    """The floor and the named arms of one task, interleaved; and the phases of its arm `exact`, if wanted."""
    with tempfile.TemporaryDirectory() as folder:
        loops = {arm: Loop([*overrides, *ARMS[arm]], Path(folder) / arm) for arm in arms}
        exact = loops["exact"]
        clock = clock_for(exact.trainer.collector.env.device)
        floors = {"floor": Floor(exact.trainer), "needed floor": Floor(exact.trainer, needed_only=True)}
        seconds = interleave({**floors, **loops}, rounds, warmup, clock)
        shares = phase_shares(exact, rounds, clock) if phases else {}
        works = {arm: loop.trainer.compiling for arm, loop in loops.items()}
        for loop in loops.values():
            loop.close()
    return {
        "samples": exact.samples,
        "seconds": seconds,
        "needed_floor": ratios(seconds["needed floor"], seconds["floor"])._asdict(),
        "fraction_of_floor": {arm: ratios(seconds["floor"], seconds[arm])._asdict() for arm in arms},
        "against_off": {arm: ratios(seconds[arm], seconds["off"])._asdict() for arm in arms},
        "steps_per_second": {arm: exact.samples / spread(seconds[arm]).median for arm in arms},
        "phases": shares,
        "compiled": {
            arm: ", ".join(str(work) for work in parts if work.notice or work.seconds)
            for arm, parts in works.items()
            if parts
        },
    }


def measure_memory(minutes: float) -> dict[str, Any]:
    """Peak memory against T×N, and over `minutes` of the default run."""
    sizes = [[*flat(32, n), "device=cpu"] for n in (256, 512, 1024, 2048, 4096)]
    return {
        "machine": benchmark_report.machine("cpu"),
        "growth": benchmark_memory.growth(sizes),
        "flatness": benchmark_memory.flatness(["device=cpu"], minutes) if minutes else None,
    }


def write(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
