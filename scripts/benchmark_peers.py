"""How fast the whole loop is, against what one would take instead: other libraries, and a loop of one's own.

python -m scripts.benchmark_peers                                  # everything, about half an hour
python -m scripts.benchmark_peers --quick                          # two rounds, one seed
python -m scripts.benchmark_peers --python rllib=other/bin/python  # a peer in an environment of its own

The other libraries: pip install -c constraints-peers.txt -e '.[peers]', best into a virtual environment that
is not the project's own. A peer that is not there, or fails, is n/a with its error. All peers of a task are
alive at once, each in a process with one thread, and take turns; a round is one turn of each. Writes
peers.json and peers.md into --out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from equipoise.scripts.peers.process import Peer, PeerError
from equipoise.scripts.peers.task import Goal, Task
from equipoise.scripts.speed.peers_report import markdown, tables
from equipoise.scripts.speed.report import machine
from equipoise.scripts.studies.experiments import positive

OURS = ("equipoise", "equipoise_compiled")
HYBRID = (*OURS, "equipoise_debug", "cleanrl", "cleanrl_compiled", "jax_loop", "torchrl", "rllib")
DISCRETE = (*OURS, "cleanrl", "cleanrl_compiled", "sb3", "skrl", "torchrl")
LEARNERS = ("equipoise", "sb3")
GOAL = Goal(mean_return=475.0, episodes=100)
TURN = 4096
"""Steps that a turn has at least: enough of them for a clock that ticks 100 times a second."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    tasks: Mapping[str, tuple[Task, Sequence[str]]]
    """Name -> what is done, and by whom."""
    rounds: int
    warmup: int
    seeds: int
    """Runs of each learner until its goal is reached."""
    learners: Sequence[str] = LEARNERS
    goal: Goal = GOAL


ZOO = Task("CartPole-v1", 32, 8, epochs=20, minibatches=1, learning_rate=1e-3, gamma=0.98, gae_lambda=0.8)
TASKS = {
    "hybrid 128×64": (Task("synthetic", 128, 64), HYBRID),
    "hybrid 16×1024": (Task("synthetic", 16, 1024), HYBRID),
    "hybrid 32×4096": (Task("synthetic", 32, 4096), HYBRID),
    "CartPole-v1 128×8": (Task("CartPole-v1", 128, 8), DISCRETE),
    "CartPole-v1 32×8, 20 epochs of one minibatch": (ZOO, DISCRETE),
}
"""Steps × environments; 4 epochs of 4 minibatches where nothing else is said."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two rounds and one seed")
    parser.add_argument("--rounds", type=positive, help="turns of each peer (default 9)")
    parser.add_argument("--seeds", type=_count, help="runs to the goal on CartPole-v1 (default 5; 0: none)")
    parser.add_argument("--only", default="", metavar="TEXT", help="tasks whose name has it; `nothing`: none")
    add_peer_options(parser)
    options = parser.parse_args(arguments)
    pythons = interpreters(parser, options.python, {*HYBRID, *DISCRETE, *LEARNERS})
    tasks = {name: work for name, work in TASKS.items() if options.only in name}
    if not tasks and options.only != "nothing":
        parser.error(f"--only {options.only}: no task's name has it; tasks are {'; '.join(TASKS)}")
    plan = Plan(
        tasks,
        rounds=(2 if options.quick else 9) if options.rounds is None else options.rounds,
        warmup=1 if options.quick else 2,
        seeds=(1 if options.quick else 5) if options.seeds is None else options.seeds,
    )
    typed = sys.argv[1:] if arguments is None else arguments
    run(plan, pythons, options.timeout, options.out, " ".join(["python -m scripts.benchmark_peers", *typed]))


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark whose peers are processes."""
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="its interpreter")
    parser.add_argument("--timeout", type=positive, default=600, help="seconds that a turn may take")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))


def interpreters(
    parser: argparse.ArgumentParser, pairs: Sequence[str], known: Collection[str]
) -> dict[str, str]:
    """Peer -> interpreter, from `PEER=PATH`; ends the command for a peer that is not `known`."""
    if wrong := [pair for pair in pairs if pair.partition("=")[0] not in known or "=" not in pair]:
        parser.error(f"--python {wrong[0]}: wanted is PEER=PATH; peers are {', '.join(sorted(known))}")
    return dict(pair.partition("=")[::2] for pair in pairs)


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)


def run(plan: Plan, pythons: Mapping[str, str], timeout: float, out: Path, command: str) -> None:
    """Measure, write and show."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        crew = Crew(pythons, timeout, Path(folder))
        result: dict[str, Any] = {"command": command, "machine": machine("cpu"), "goal": asdict(plan.goal)}
        result |= {"tasks": {}, "reach": {}}
        for name, (task, peers) in plan.tasks.items():
            with console.status(f"{name} …"):
                result["tasks"][name] = {"task": asdict(task), "peers": compare(crew, task, peers, plan)}
            write(result, out)  # what is measured stays, whatever becomes of the rest
        with console.status("to the goal …"):
            result["reach"] = race(crew, plan)
    write(result, out)
    console.print(*tables(result))
    console.print(f"written: {out / 'peers.json'} and peers.md")


def write(result: dict[str, Any], out: Path) -> None:
    (out / "peers.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (out / "peers.md").write_text(markdown(result))


class Crew:
    """Starts peers, each in a folder of its own."""

    def __init__(self, pythons: Mapping[str, str], timeout: float, folder: Path) -> None:
        self.pythons, self.timeout, self.folder = pythons, timeout, folder
        self._started = 0

    @contextmanager
    def peer(self, name: str, task: Task) -> Iterator[Peer]:
        self._started += 1
        python = self.pythons.get(name, sys.executable)
        peer = Peer(name, task, python, self.folder / f"{self._started}-{name}", self.timeout)
        try:
            yield peer
        finally:
            peer.close()


def compare(crew: Crew, task: Task, names: Sequence[str], plan: Plan) -> dict[str, Any]:
    """CPU and wall seconds of every turn of every peer, or why there are none. Each round starts with another
    peer, so that whatever disturbs the machine disturbs them alike."""
    times = -(-TURN // task.samples)
    found: dict[str, Any] = {name: {"steps": times * task.samples, "cpu": [], "wall": []} for name in names}
    with ExitStack() as stack:
        peers: dict[str, Peer] = {}
        for name in names:
            try:
                peer = stack.enter_context(crew.peer(name, task))
                found[name] |= peer.answer()
                peers[name] = peer
            except PeerError as error:
                found[name] = {"error": str(error)}
        for turn in range(plan.warmup + plan.rounds):
            order = list(peers)
            shift = turn % max(len(order), 1)
            for name in [*order[shift:], *order[:shift]]:
                try:
                    seconds = peers[name].ask("iterate", times=times)
                except PeerError as error:
                    found[name] = {"error": str(error)}
                    peers.pop(name)
                    continue
                if turn >= plan.warmup:
                    found[name]["cpu"].append(seconds["cpu"])
                    found[name]["wall"].append(seconds["wall"])
    return found


def race(crew: Crew, plan: Plan) -> dict[str, Any]:
    """Runs to the goal: steps and seconds of each seed, one learner after the other for each seed."""
    found: dict[str, Any] = {name: {"runs": []} for name in plan.learners}
    for seed in range(1, plan.seeds + 1):
        for name in plan.learners:
            if "error" in found[name]:
                continue
            try:
                with crew.peer(name, ZOO) as peer:
                    found[name] |= peer.answer()
                    answer = peer.ask("reach", seed=seed, goal=asdict(plan.goal))
                    found[name]["runs"].append({"seed": seed, **answer})
            except PeerError as error:
                found[name] = {"error": str(error)}
    return found


if __name__ == "__main__":
    main()
