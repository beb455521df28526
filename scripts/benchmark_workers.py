"""How fast many Gymnasium environments are collected and learned from: in processes, against another way.

python -m scripts.benchmark_workers                                 # a quarter of an hour
python -m scripts.benchmark_workers --envs 8 --rounds 1 --only CartPole
python -m scripts.benchmark_workers --python sb3_processes=other/bin/python

Wall time of whole iterations with 64 copies: `env.vectorization=async` with a process for each core, with one
for each environment, without any, and Stable-Baselines3's PPO with its `SubprocVecEnv`, all at the same
sizes. The peers of a task are alive at once and take turns, each with one thread for its arithmetic; ratios
are taken within a round. HalfCheetah-v5 needs `pip install 'gymnasium[mujoco]'`. A peer that is not there, or
fails, is n/a with its error. Writes workers.json and workers.md into --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise.scripts.benchmark_peers import Crew, Plan, add_peer_options, compare, interpreters
from equipoise.scripts.peers.task import Task
from equipoise.scripts.speed.peers_report import Sheet, about, as_table, markdown
from equipoise.scripts.speed.report import machine
from equipoise.scripts.speed.timing import ratios
from equipoise.scripts.studies.experiments import positive

OURS = "equipoise_workers"
NAMES = {
    OURS: "Equipoise, a process for each core",
    "equipoise_process_each": "Equipoise, a process for each environment",
    "equipoise": "Equipoise, no processes",
    "sb3_processes": "Stable-Baselines3, SubprocVecEnv",
}
TASKS = ("CartPole-v1", "HalfCheetah-v5")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", type=positive, default=64, help="copies of each environment")
    parser.add_argument("--steps", type=positive, default=64, help="of each copy in an iteration")
    parser.add_argument("--rounds", type=positive, default=9, help="turns of each peer")
    parser.add_argument("--only", default="", metavar="TEXT", help="tasks whose name has it")
    add_peer_options(parser)
    options = parser.parse_args(arguments)
    pythons = interpreters(parser, options.python, NAMES)
    tasks = {name: (Task(name, options.steps, options.envs), tuple(NAMES)) for name in TASKS}
    plan = Plan({n: t for n, t in tasks.items() if options.only in n}, options.rounds, warmup=1, seeds=0)
    if not plan.tasks:
        parser.error(f"--only {options.only}: no task's name has it; tasks are {', '.join(TASKS)}")
    typed = sys.argv[1:] if arguments is None else arguments
    result: dict[str, Any] = {
        "command": " ".join(["python -m scripts.benchmark_workers", *typed]),
        "machine": machine("cpu"),
        "tasks": {},
        "reach": {},
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        crew = Crew(pythons, options.timeout, Path(folder))
        for name, (task, peers) in plan.tasks.items():
            result["tasks"][name] = {"peers": compare(crew, task, peers, plan)}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "workers.json").write_text(json.dumps(result, indent=1) + "\n")
    found = [sheet(name, measured["peers"]) for name, measured in result["tasks"].items()]
    (options.out / "workers.md").write_text(markdown(result, found))
    Console().print(about(result), *map(as_table, found), f"written: {options.out / 'workers.md'}")


def sheet(task: str, peers: dict[str, Any]) -> Sheet:
    """Steps per second of wall time, and how many times those of each peer ours are."""
    head = ["peer", "steps/s", "ours is faster by"]
    ours, rows = peers[OURS], []
    for peer, found in peers.items():
        if "error" in found:
            rows.append([NAMES[peer], f"n/a: {found['error']}"])
            continue
        against = "–"
        if "error" not in ours:
            ratio = ratios(found["wall"], ours["wall"])
            against = f"{ratio.median:.2f} ({ratio.low:.2f} – {ratio.high:.2f})"
        seconds = sorted(found["wall"])[len(found["wall"]) // 2]
        rows.append([NAMES[peer], f"{found['steps'] / seconds:,.0f}", against])
    return Sheet(task, head, rows)


if __name__ == "__main__":
    main()
