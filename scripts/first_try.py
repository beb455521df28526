"""Learned at the first try? Tasks of others with the defaults alone, beside what one would take instead.

    python -m scripts.first_try --seeds 1-10 --jobs 2
    python -m scripts.first_try --quick
    python -m scripts.first_try --report-only

Every task is learned by `equipoise.train` with no setting but its number of steps; those with discrete or
continuous actions alone by Stable-Baselines3's PPO too, and hybrid ones by CleanRL's structure with a hybrid
agent made by hand, each with its own defaults. A run that is there is not made again; with `--add` nor is one
that the report's CSV has, from another machine or an earlier day, if it was as long. Stable-Baselines3 and
the packages of some tasks are extras: `pip install -e '.[first-try]'`; what is missing is skipped and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from equipoise.scripts.reporting.ending import PAGE, Job, conclude
from equipoise.scripts.studies.experiments import add_arguments, chosen, file, folder, positive, study
from equipoise.scripts.studies.report import cpu_model, spans, write_report
from equipoise.scripts.suite import report
from equipoise.scripts.suite.episodes import Found
from equipoise.scripts.suite.report import OURS
from equipoise.scripts.suite.tasks import TASKS, Task, learners_of
from equipoise.trainer.system.run_folder import is_run

QUICK = 0.1
"""Share of the steps in a quick look."""
FEWEST = 2048
"""Steps of any run: an iteration of those that learn from so many."""
MODULES = {"sb3": "stable_baselines3", "Platform": "gym_platform", "LunarLander": "Box2D", "Hopper": "mujoco"}
"""Learner or task -> the module that it needs and that may be missing."""


@study
def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    seeds, share = ([1, 2], QUICK) if options.quick else (options.seeds, 1.0)
    runs = [
        Run(task, learner, seed, options.out, share, options.episodes)
        for seed in seeds
        for task in options.tasks
        for learner in learners_of(task)
    ]
    missing = sorted({name for run in runs for name in run.missing()})
    runs = [run for run in runs if not run.missing()]
    steps = {run.task.name: run.steps for run in runs}
    table = options.report.with_suffix(".csv")
    known = report.read_rows(table, steps) if options.add else {}
    waiting = [run for run in runs if not run.file.exists() and run.key not in known]
    waiting = [] if options.report_only else waiting
    print(
        f"{len(runs)} runs, {len(waiting)} to do"
        + (f"; not installed: {', '.join(missing)}" if missing else "")
    )
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [message for message in pool.map(Run.work, waiting) if message]
    found = known | {run.key: run.found() for run in runs if run.file.exists()}
    if not found:
        print(f"{options.out}: no finished runs to report", file=sys.stderr)
        return 1
    command = shlex.join(["python", "-m", "scripts.first_try", *(arguments or sys.argv[1:])])
    origin = [
        f"command: `{command}`",
        f"commits: {', '.join(sorted({run.commit for run in found.values()})) or 'n/a'}",
        f"machine: {cpu_model()}, {os.cpu_count()} cores",
    ]
    origin += [
        f"seeds: {spans([seed for _, _, seed in found])}",
        f"not installed: {', '.join(missing) or 'nothing'}",
    ]
    write_report(
        options.report, "First try", "".join(f"- {line}\n" for line in origin), report.body(found, failed)
    )
    report.write_rows(table, found, steps)
    print(f"report: {options.report}")
    ours = [
        Job(OURS, f"{run.task.name} s{run.seed}", run.folder / f"run-s{run.seed}")
        for run in runs
        if run.learner == OURS
    ]
    conclude([job for job in ours if is_run(job.folder)], options.out / PAGE, command)
    return 1 if failed else 0


class Run:
    """One task, one learner, one seed; its results are in `file`, what it printed is beside it."""

    def __init__(self, task: Task, learner: str, seed: int, out: Path, share: float, episodes: int) -> None:
        self.task, self.learner, self.seed = task, learner, seed
        self.steps, self.episodes = max(round(task.steps * share), FEWEST), episodes
        self.folder = out.resolve() / task.name / f"{learner}-{self.steps}"
        self.file = self.folder / f"s{seed}.json"
        self.key = (task.name, learner, seed)

    def missing(self) -> list[str]:
        needed = [MODULES[name] for name in (self.learner, self.task.name) if name in MODULES]
        return [name for name in needed if importlib.util.find_spec(name) is None]

    def work(self) -> str | None:
        """Train and evaluate in a process of its own. Returns what went wrong."""
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = map(str, (self.seed, self.steps, self.episodes))
        command = [
            sys.executable,
            "-m",
            "equipoise.scripts.suite.worker",
            self.task.name,
            self.learner,
            *numbers,
        ]
        log = self.file.with_suffix(".log")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("wb") as output:
            done = subprocess.run([*command, str(self.file)], stdout=output, stderr=output, env=environment)
        name = f"{self.task.name} {self.learner} s{self.seed}"
        if done.returncode:
            last = next(reversed(log.read_text(errors="replace").strip().splitlines()), "")
            message = f"{name}: exit status {done.returncode}: {last} ({log})"
            print(message, flush=True)
            return message
        print(f"{name}: {report.brief(self.found())}", flush=True)
        return None

    def found(self) -> Found:
        return Found(**json.loads(self.file.read_text()))


def _tasks(text: str) -> list[Task]:
    known = {task.name: task for task in TASKS}
    return [known[name] for name in chosen(text, known, "task")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scripts.first_try", description=__doc__.split("\n")[0])
    add_arguments(parser, seeds="1-10")
    parser.add_argument(
        "--tasks", type=_tasks, default=",".join(t.name for t in TASKS), help="as a,b (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help=f"two seeds, {QUICK:.0%}% of the steps")
    parser.add_argument("--add", action="store_true", help="to the runs that the report's CSV has")
    parser.add_argument("--episodes", type=positive, default=50, help="of each evaluation (default: 50)")
    parser.add_argument("--out", type=folder, default="runs/first_try", help="folder of the runs")
    parser.add_argument("--report", type=file, default="docs/results/first_try.md", help="Markdown file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
