"""Trains published environments of others as somebody would who has just installed them, and reports on each.

    python -m scripts.try_environments --only minigrid,mo-gymnasium
    python -m scripts.try_environments --report-only

Every package of `scripts/studies/environments.py` and `fresh.py` is installed, at its pinned version, into a
virtual environment of its own, which sees this one's packages and is removed afterwards. There it is stepped
with Gymnasium alone, and the commands look, train, evaluate, play and export are run, in a folder under
`--out`. What is there already is not tried again (`--again` does; `--alone` adds only what Gymnasium alone
says), so the same command goes on where it was stopped; what came of all is kept in `--kept`. Installs and
runs other people's code.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equipoise.scripts.studies.environments import NEW, PACKAGES
from equipoise.scripts.studies.fresh import FRESH
from equipoise.scripts.studies.outsiders import (
    ALONE,
    AS_PUBLISHED,
    COMMANDS,
    Outcome,
    attempt,
    attempt_alone,
    keep,
    read,
)
from equipoise.scripts.studies.packages import MESSAGE, SOURCE, Package
from equipoise.scripts.studies.report import cpu_model, table, write_report
from equipoise.trainer.monitor.summary import git_revision, versions

LEGEND = """\
Each package was installed at the version named, into a virtual environment of its own, and its environment
was tried with Gymnasium alone, then looked at, trained for {steps:,} steps with the defaults, evaluated,
filmed and exported by the console command. *Typed*: what was needed beside what names the environment. *At
first*: what had been typed before, where that did not do. *Found*: where what was typed was found, in the
README that the registry shows, in the source, or in the message of a first attempt; empty where nobody
noted it. *Alone*: whether it runs without any code of this project (`scripts/studies/alone.py`) once it is
installed with what it requires: made with the same arguments, 1,000 random steps in whole episodes, or 300
of packages that train here, and 300 with resets before their end. It fails if it is no `gymnasium.Env`,
raises, takes 60 seconds for a call or gives an observation of a shape that its space does not declare; what
only the early resets upset counts as run. *Lacks*: it does once a package is installed that it does not
require (below).
*Random*, *deterministic*, *sampled*: mean returns of random actions and of both policies after so short a
training, which shows that it runs, not how well it can learn. *Film*: empty where it was not tried. Of the
last list, what was tried from cleaning-robots-gym on was evaluated for at most 300 steps an episode
(`--eval-steps 300`), and where *film* is empty only looked at and trained (`--commands look,train`):
neither filmed nor exported. Rows were made at the commits that they state, on a busy machine of two cores.
The aim was that 9 of 10 new ones run with what one would type at first. `scripts/studies/fresh.py` says how
the last list was chosen, and what was left out of it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    chosen = [package for package in PACKAGES if not options.only or package.name in options.only]
    for package in chosen:
        known = read(package, options.out, options.kept)
        wanted = {ALONE, *((AS_PUBLISHED,) if package.besides else ())}
        if options.alone and known is not None and (options.again or not wanted <= set(known.commands)):
            attempt_alone(package, known, options.out, options.timeout)
            print(f"{package.name} {package.version}: {known.commands.get(ALONE)}", flush=True)
        if options.report_only or (known is not None and not options.again):
            continue
        print(f"{package.name} {package.version}: {package.id} …", flush=True)
        outcome = attempt(
            package, options.out, options.steps, options.timeout, options.eval_steps, options.commands
        )
        print(f"  {outcome.verdict} ({outcome.seconds:.0f} s)", flush=True)
        keep(
            [each for _, each in _known(options)], options.kept
        )  # another of its package has the same folder
    found = _known(options)
    if not found:
        print(f"{options.out}: nothing has been tried yet", file=sys.stderr)
        return 1
    command = shlex.join(["python", "-m", "scripts.try_environments", *(arguments or sys.argv[1:])])
    origin = _origin(command)  # before this changes files of the source tree itself
    keep([outcome for _, outcome in found], options.kept)
    write_report(options.report, "Environments of others", origin, report(found, options.steps))
    print(f"report: {options.report}")
    return 0


def _known(options: argparse.Namespace) -> list[tuple[Package, Outcome]]:
    found = [(package, read(package, options.out, options.kept)) for package in PACKAGES]
    return [(package, known) for package, known in found if known is not None]


def report(found: Sequence[tuple[Package, Outcome]], steps: int) -> str:
    """What was tried, counted; a row for each; how spaces were understood; what failed, with its message."""
    head = (
        "package environment kind typed at_first found alone random deterministic sampled steps/s film commit"
    )
    rows = [
        [name.replace("_", " ") for name in head.split()],
        *(_row(package, outcome) for package, outcome in found),
    ]
    spaces = [f"**{package.name}** `{package.id}`\n\n{_indented(outcome.look)}" for package, outcome in found]
    failures = [
        f"- **{package.name}**: {name}: {_code(said.rpartition('it failed with: ')[2])}"
        for package, outcome in found
        for name, said in outcome.failed.items()
    ]
    notes = [f"- **{package.name}**: {package.note}" for package, _ in found if package.note]
    return "\n".join(
        [
            _counts(found) + LEGEND.format(steps=steps), table(rows),
            "## What is known besides\n", *(notes or ["Nothing."]),
            "\n## What failed, with its message\n", *(failures or ["Nothing."]),
            "\n## How each was understood\n", *spaces,
        ]
    )  # fmt: skip


def _counts(found: Sequence[tuple[Package, Outcome]]) -> str:
    new = [(package, outcome) for package, outcome in found if package in NEW]
    fresh = [(package, outcome) for package, outcome in new if package in FRESH]
    ran = [package for package, outcome in found if outcome.runs]
    plain = sum(not package.typed for package in ran)
    unread = [package for package, outcome in new if outcome.runs and package.found != MESSAGE]
    source, unnoted = (sum(package.found == where for package in unread) for where in (SOURCE, ""))
    return (
        f"**The last list: {len(FRESH)} packages that nobody here had tried, written down with what their "
        f"READMEs show before any of them was tried. {_literally(fresh, FRESH)}**\n\n"
        f"All {len(NEW)} packages that nobody here had tried, those of the last list among them. "
        f"{_literally(new, NEW)} Where what was typed at first for those that train was found: for "
        f"{source} in the source, for {unnoted} nobody noted it, else in the README.\n\n"
        f"With those that had been tried before, {len(ran)} of {len(found)} train, {plain} of them with "
        "nothing typed but what names the environment; "
        f"{sum(o.commands.get('export') == 'ok' for _, o in found)} export, "
        f"{sum(o.commands.get('play') == 'ok' for _, o in found)} can be filmed.\n\n"
    )


def _literally(found: Sequence[tuple[Package, Outcome]], listed: Sequence[Package]) -> str:
    """How many of a list run by themselves, and how many of these train, with what, and since when."""
    without = [package for package in listed if package not in [known for known, _ in found]]
    again = [package for package in without if package.found == MESSAGE]  # failed at first, and no more yet
    alone = [(package, outcome) for package, outcome in found if outcome.by_itself]
    train = [package for package, outcome in alone if outcome.runs]
    first = [package for package in train if package.found != MESSAGE]
    incomplete = [package for package, outcome in found if outcome.incomplete]
    before = [package for package in first if not package.mended]
    here = sum(outcome.runs and not outcome.by_itself and not outcome.incomplete for _, outcome in found)
    others = [*alone, *again]
    return (
        f"{len(found) - len(alone)} of them cannot run by themselves, without any code of this project"
        + (f" ({here} of these train here all the same)" if here else "")
        + f". Of the other {len(others)} that were tried, {_share(train, others)} train, "
        f"{_share(first, others)} with what one would type at first: {_share(before, others)} as this "
        f"project then was, and {len(first) - len(before)} since it was mended for what they showed."
        + (
            f" {len(incomplete)} of those that cannot run by themselves lack but a package that they do not "
            f"require; were they counted too, these would be {_share(first, [*others, *incomplete])}."
            if incomplete
            else ""
        )
        + (f" {len(again)} failed at first and wait for another try." if again else "")
        + (f" {len(without) - len(again)} have not been tried yet." if len(without) > len(again) else "")
    )


def _share(part: Sequence[Any], whole: Sequence[Any]) -> str:
    return f"{len(part)} ({len(part) / max(len(whole), 1):.1%})"


def _row(package: Package, outcome: Outcome) -> list[str]:
    names = ("random_return_mean", "return_mean", "sampled_return_mean", "steps_per_second")
    numbers = [outcome.summary.get(name) for name in names]
    return [
        f"{package.name} {package.version}",
        f"`{package.id}`",
        package.kind,
        " ".join(f"`{setting}`" for setting in package.typed),
        package.first,
        package.found,
        "lacks" if outcome.incomplete else {None: "", "ok": "runs"}.get(outcome.commands.get(ALONE), "fails"),
        *("–" if number is None else f"{number:,.4g}" for number in numbers),
        {"ok": "yes", None: ""}.get(outcome.commands.get("play"), "–"),
        re.sub(r"\b([0-9a-f]{7})[0-9a-f]+", r"\1", outcome.commit),
    ]


def _code(text: str) -> str:
    return "`" + text.replace("`", "'") + "`"


def _indented(lines: Sequence[str]) -> str:
    return "".join(f"    {line[:300]}\n" for line in lines) or "    (was not made)\n"


def _origin(command: str) -> str:
    known = " ".join(f"{name} {version}" for name, version in versions().items() if version)
    return (
        f"- command: `{command}`\n- commit: {git_revision()}\n- machine: {cpu_model()}\n- versions: {known}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.try_environments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=lambda text: text.split(","), default=[], help="names of packages, with commas")
    add("--steps", type=int, default=4_000, help="of training (default 4000)")
    add("--timeout", type=float, default=600.0, help="seconds that a command may take (default 600)")
    add("--eval-steps", type=int, default=1000, help="of an episode of evaluation at most (default 1000)")
    add("--commands", type=lambda text: text.split(","), default=list(COMMANDS), help="default: all five")
    add("--again", action="store_true", help="also what has been tried already")
    add("--alone", action="store_true", help="add how it does with Gymnasium alone to what has been tried")
    add("--report-only", action="store_true", help="try nothing; write the report of what is there")
    add("--out", type=Path, default=Path("runs/environments"), help="default: runs/environments")
    add("--kept", type=Path, default=Path("docs/results/environments.json"), help="what came of all so far")
    add("--report", type=Path, default=Path("docs/results/environments.md"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
