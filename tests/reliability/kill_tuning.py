"""`equipoise tune` under kill -9: `python -m tests.reliability.kill_tuning`. Takes minutes, so not in CI.

Two workers share a study; every few seconds one of them, drawn at random, is killed and another one started in
its place. In the end every trial must be accounted for, none done twice, and none with a hole in its metrics.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.forked import Command, Ended
from tests.reliability.processes import lines, summary
from tests.reliability.test_tuning import arguments, journal, start, studied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, nargs=2, default=(0.5, 8.0), help="between two kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        given = arguments(Path(place), f"trials={options.trials}")
        ended, kills = worked(Path(place), given, options, draw)
        report(Path(place), ended)
    print(f"{kills} kills, {time.monotonic() - began:.0f} s")


def worked(
    place: Path, given: list[str], options: argparse.Namespace, draw: random.Random
) -> tuple[list[Ended], int]:
    """How all workers have ended, and how many were killed."""
    workers: list[Command] = [start(place, given) for _ in range(options.workers)]
    ended: list[Ended] = []
    kills = 0
    while workers:
        time.sleep(draw.uniform(*options.seconds))
        for worker in [worker for worker in workers if not worker.process.is_alive()]:
            ended.append(worker.end())
            workers.remove(worker)
        if workers and not any(end.code == 0 for end in ended):
            victim = draw.choice(workers)
            os.kill(victim.pid, signal.SIGKILL)
            ended.append(victim.end())
            workers.remove(victim)
            workers.append(start(place, given))
            kills += ended[-1].code == -signal.SIGKILL
    return ended, kills


def report(place: Path, ended: list[Ended]) -> None:
    """What must hold, and the numbers."""
    folder = place / "runs" / "tune" / "toy"
    trials = studied(journal(folder / "journal.log")).trials
    states = collections.Counter(trial.state.name for trial in trials)
    sessions = collections.Counter(end.code for end in ended)
    told = [line.split()[1] for end in ended for line in end.output.splitlines() if line.startswith("trial ")]
    twice = [number for number, count in collections.Counter(told).items() if count > 1]
    holes = []
    for trial in trials:
        run_dir = folder / f"trial-{trial.number:05d}"
        rows = [row["iteration"] for row in lines(run_dir)]
        if rows != list(range(1, len(rows) + 1)) or summary(run_dir)["status"] != "finished":
            holes.append(trial.number)
    print(f"{len(trials)} trials: {dict(states)}; told of {len(told)}, twice: {twice}, holes: {holes}")
    print(f"workers by exit status: {dict(sessions)}")
    assert not twice
    assert not holes
    assert set(states) <= {"COMPLETE", "PRUNED"}
    assert set(sessions) <= {0, -signal.SIGKILL}, [end.output for end in ended if end.code > 0]


if __name__ == "__main__":
    main()
