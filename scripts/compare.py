"""Compares presets, or any sets of overrides, over seeds and environments; writes a report folder.

    python -m scripts.compare presets
    python -m scripts.compare --arm fixed=preset=debug --arm adaptive=preset=balanced --env topology_spawn

`presets` is adaptive weights (balanced) against fixed ones (debug), 6 seeds each, with a smaller budget than
a full run has: about two minutes on two idle cores. The first arm is the one that the others are compared
with. Finished runs are not repeated: the same command continues where it was stopped, and more seeds
or arms can be added.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from equipoise.commands import spelled, typed
from equipoise.scripts.reporting.ending import PAGE, Job, conclude
from equipoise.scripts.studies import plots
from equipoise.scripts.studies.experiments import (
    Arm,
    Failure,
    add_arguments,
    add_environments,
    folder,
    plan,
    study,
)
from equipoise.scripts.studies.parallel import trained
from equipoise.scripts.studies.report import LEGEND, failed, markdown_tables, provenance, write_report
from equipoise.scripts.studies.results import THRESHOLD, Result, load, write_csv

PRESETS = (
    Arm("debug", ("preset=debug",), "fixed weights 0.7 / 0.3"),
    Arm("balanced", ("preset=balanced",), "adaptive weights"),
)
FIXED_BY_STUDY = {
    "seed": "use --seeds",
    "env": "use --env",
    "trainer.total_env_steps": "use --steps",
    "threads": "every run has one",
    "resume": "the same command goes on with what is unfinished",
}
"""Settings that no arm may change -> what to use instead."""


@study
def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.study == "presets" and options.arm:
        parser.error("presets names the arms itself: leave --arm out, or leave presets out")
    arms: Sequence[Arm] = PRESETS if options.study == "presets" else options.arm
    if not arms:
        parser.error("nothing to compare: presets, or one --arm name=override,… for each variant")
    if len({arm.name for arm in arms}) < len(arms):
        parser.error(f"two arms have the same name: {', '.join(arm.name for arm in arms)}")
    command = typed("compare", *(arguments or sys.argv[1:]))
    out: Path = options.out or Path("runs") / (options.study or "comparison")
    jobs = plan(arms, options.env, options.seeds, options.steps, out)
    ours, failures = trained(jobs, options.jobs, options.report_only)
    found = [load(job.folder, job.arm.name, job.env, options.threshold) for job in ours]
    results = [result for result in found if result is not None]
    if not results:
        print(f"{out}: no finished runs to report", file=sys.stderr)
        return 1
    to = options.report or out / "report"
    report(to, results, arms, failures, command, options.threshold)
    print(f"report: {to / 'report.md'}")
    runs = [Job(job.arm.name, job.name, job.folder) for job in ours]
    conclude(runs, to / PAGE, command, arms[0].name, title=" against ".join(arm.name for arm in arms))
    return 1 if failures else 0


def report(
    to: Path,
    results: Sequence[Result],
    arms: Sequence[Arm],
    failures: Sequence[Failure],
    command: str,
    threshold: float = THRESHOLD,
) -> None:
    """Write `report.md`, `runs.csv` and the pictures into the folder `to`; the first arm is the baseline."""
    baseline, changes = arms[0].name, {arm.name: arm.change for arm in arms}
    envs = list(dict.fromkeys(result.env for result in results))
    normalised = all(result.summary.normalized_score is not None for result in results)
    score = "normalised score" if normalised else "score"
    parts = {env: [result for result in results if result.env == env] for env in envs}
    if len(envs) > 1:
        parts["All environments, each counting alike"] = list(results)
    tables = markdown_tables(parts, baseline, changes, threshold)
    text = LEGEND + "".join(f"\n## {title}\n\n{tables[title]}" for title in parts)
    pictures = {
        "learning_curves": plots.curves(results, envs, score),
        "sample_efficiency": plots.efficiency(results, envs, score),
        "balance_ratio": plots.balance(results, envs),
        **{f"scores_{env}": plots.intervals(results, [env], baseline, score) for env in envs},
    }
    for name, figure in pictures.items():
        plots.save(figure, to / name)
        text += f"\n![{name.replace('_', ' ')}]({name}.png)\n"
    write_csv(to / "runs.csv", results)
    text += f"\nEvery run: [runs.csv](runs.csv)\n{failed(failures)}"
    title = " against ".join(arm.name for arm in arms)
    write_report(to / "report.md", title, provenance(command, results), text)


def parse_arm(text: str) -> Arm:
    """Parse `name=key=value,key=[a,b]`; commas inside brackets, braces and quotes belong to the value."""
    name, equals, rest = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: an arm is name=override,… (name= is the default)")
    overrides = re.findall(r"""(?:[^,\[\]{}"']|\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*')+""", rest)
    for override in overrides:
        if (key := override.lstrip("+").partition("=")[0]) in FIXED_BY_STUDY or key.startswith("hydra"):
            allowed = FIXED_BY_STUDY.get(key, "each run's folder is the study's")
            raise argparse.ArgumentTypeError(f"{key} cannot differ between arms: {allowed}")
    change = " ".join(f"`{override}`" for override in overrides) or "the default"
    try:
        return Arm(name, tuple(overrides), change)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=spelled(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", choices=["presets"], help="arms that are named already")
    parser.add_argument("--arm", type=parse_arm, action="append", default=[], metavar="NAME=OVERRIDE,…")
    add_arguments(parser, seeds="1-6")
    add_environments(parser)
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help=f"of `steps to` ({THRESHOLD:g})")
    parser.add_argument(
        "--out", type=folder, help="folder of the runs (default: runs/presets or runs/comparison)"
    )
    parser.add_argument("--report", type=folder, help="folder of the report (default: <out>/report)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
