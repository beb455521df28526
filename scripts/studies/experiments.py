"""Studies: named variants (arms) of a configuration over environments and seeds, one folder per run.

A run lives in `<out>/<env>/<arm>/s<seed>`, with its output beside it in `s<seed>.log`. `parallel.py` trains
the runs that are missing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

import yaml

from equipoise.trainer.configuration.compose import compose, options
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.resuming import changes
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.files import unwritable, unwritable_folder
from equipoise.trainer.system.run_folder import CONFIG, SUMMARY, RunFolder

P = ParamSpec("P")

EVALUATIONS = 18
"""Evaluations during a run: enough for a learning curve, at a twentieth of the run's time."""


@dataclass(frozen=True)
class Arm:
    """A variant: its name (also of its folder), its `key=value` overrides, and what it changes, in words."""

    name: str
    overrides: tuple[str, ...] = ()
    change: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            allowed = "use letters, digits, '_', '-' and, not in front, '.'"
            raise ValueError(f"the arm {self.name!r} names a folder: {allowed}")


@dataclass(frozen=True)
class Job:
    """One run."""

    env: str
    arm: Arm
    seed: int
    folder: Path
    overrides: tuple[str, ...]
    config: dict[str, Any]
    """The contents of the run's config.yaml."""

    @property
    def name(self) -> str:
        return f"{self.env} {self.arm.name} s{self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")


State = Literal["new", "unfinished", "finished", "different"]


@dataclass(frozen=True)
class Failure:
    job: Job
    reason: str


_DEFAULT = "(default: %(default)s)"


def add_arguments(parser: argparse.ArgumentParser, seeds: str) -> None:
    """Add the options that every study has. `seeds`: the default, such as `1-10`."""
    parser.add_argument("--seeds", type=integers, default=seeds, help=f"as 1-3,7 {_DEFAULT}")
    parser.add_argument(
        "--jobs", type=positive, default=2, help=f"runs at a time, one thread each {_DEFAULT}"
    )
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what is there")


def add_environments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a study that runs on any environment."""
    parser.add_argument(
        "--env", type=environments, default="topology_spawn", help=f"of conf/env, as a,b {_DEFAULT}"
    )
    parser.add_argument(
        "--steps", type=positive, default=150_000, help=f"of the environment, for each run {_DEFAULT}"
    )


def add_places(parser: argparse.ArgumentParser, out: str, report: str) -> None:
    """Add the options of a study whose report is one Markdown file."""
    parser.add_argument("--out", type=folder, default=out, help=f"folder of the runs {_DEFAULT}")
    parser.add_argument("--report", type=file, default=report, help=f"Markdown file {_DEFAULT}")
    parser.add_argument(
        "--from-csv",
        action="store_true",
        help="train nothing, make the report's tables again from its CSV; the text above them is kept",
    )


def study(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate a study's `main`: exit status 2 and one message for a bad configuration, 130 for Ctrl-C."""

    @wraps(main)
    def guarded(*arguments: P.args, **keywords: P.kwargs) -> int:
        try:
            return main(*arguments, **keywords)
        except ConfigError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            return 130

    return guarded


def environments(text: str) -> list[str]:
    """Parse `a,b`, names of files in conf/env. Raises `argparse.ArgumentTypeError`, which lists them."""
    return chosen(text, options("env"), "environment")


def positive(text: str) -> int:
    """Parse a positive integer. Raises `argparse.ArgumentTypeError`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)


def folder(text: str) -> Path:
    """Parse a folder that exists or can be made. Raises `argparse.ArgumentTypeError`."""
    path = Path(text)
    if why := unwritable_folder(path):
        raise argparse.ArgumentTypeError(f"{text}: {why}")
    return path


def file(text: str) -> Path:
    """Parse a file that can be written. Raises `argparse.ArgumentTypeError`."""
    path = Path(text)
    if why := unwritable(path):
        raise argparse.ArgumentTypeError(f"{text}: {why}")
    return path


def chosen(text: str, known: Collection[str], kind: str) -> list[str]:
    """Parse `a,b` as distinct names. Raises `argparse.ArgumentTypeError` for one that is not `known`."""
    if unknown := [name for name in names(text) if name not in known]:
        there = ", ".join(known)
        raise argparse.ArgumentTypeError(f"no such {kind}: {', '.join(unknown)}; there are {there}")
    if not names(text):
        raise argparse.ArgumentTypeError(f"no {kind} is named; there are {', '.join(known)}")
    return list(dict.fromkeys(names(text)))


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def integers(text: str) -> list[int]:
    """Parse `1-3,7` as 1, 2, 3, 7. Raises `argparse.ArgumentTypeError`."""
    found: list[int] = []
    for part in names(text):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        span = range(int(match[1]), int(match[2] or match[1]) + 1) if match else ()
        if not span:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a number nor a span of numbers, as 1-3")
        found += span
    if not found:
        raise argparse.ArgumentTypeError("none are named; wanted are numbers, as 1-3,7")
    return found


def plan(arms: Sequence[Arm], envs: Sequence[str], seeds: Sequence[int], steps: int, out: Path) -> list[Job]:
    """All runs, seed by seed, so that a study stopped early still compares all arms.

    Raises `trainer.configuration.errors.ConfigError` for overrides that make no valid configuration.
    """
    configs = {(env, arm): _configured(env, arm, steps) for env in envs for arm in arms}
    jobs = []
    for seed in seeds:
        for (env, arm), (overrides, config) in configs.items():
            folder = (out / env / arm.name / f"s{seed}").resolve()
            plain = config.plain() | {"seed": seed}
            jobs.append(Job(env, arm, seed, folder, (*overrides, f"seed={seed}"), plain))
    return jobs


@cache
def _configured(env: str, arm: Arm, steps: int) -> tuple[tuple[str, ...], Config]:
    """The overrides of an arm, after those of the study, and the configuration they compose to."""
    overrides = [f"env={env}", "threads=1", f"trainer.total_env_steps={steps}", *arm.overrides]
    config = compose(overrides)
    if not any(override.startswith("trainer.eval_every=") for override in arm.overrides):
        iterations = steps // (config.trainer.batch.rollout_steps * config.env.num_envs)
        every = max(iterations // EVALUATIONS, 1)
        overrides.append(f"trainer.eval_every={every}")
        config = config.model_copy(
            update={"trainer": config.trainer.model_copy(update={"eval_every": every})}
        )
    return tuple(overrides), config


def without_repetition(arms: Sequence[Arm], env: str, steps: int) -> tuple[list[Arm], dict[str, str]]:
    """The distinct arms, and a map from each duplicate arm to the arm it equals."""
    seen: dict[str, str] = {}
    kept, same = [], {}
    for arm in arms:
        key = json.dumps(_configured(env, arm, steps)[1].plain(), sort_keys=True)
        if key in seen:
            same[arm.name] = seen[key]
        else:
            seen[key] = arm.name
            kept.append(arm)
    return kept, same


def state_of(job: Job) -> State:
    """Whether the job has run. `different`: its folder holds something else, which is left alone."""
    content = RunFolder(job.folder).content
    if content == "nothing":
        return "new"
    if content not in ("run", "unfinished"):
        return "different"
    found = yaml.safe_load((job.folder / CONFIG).read_text())
    if changes(found, yaml.safe_load(yaml.safe_dump(job.config))):
        return "different"
    summary = job.folder / SUMMARY
    done = summary.exists() and Summary.read(summary).status == "finished"
    return "finished" if done else "unfinished"
