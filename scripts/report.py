"""One page that shows how runs went and how they compare: `equipoise report runs/presets`.

    equipoise report                            all of runs/
    equipoise report runs/goal-* --to goal.html
    equipoise report runs/presets --baseline debug

A single file of HTML with curves, tables, films and commands, to be opened anywhere and sent around. Runs
that differ by their seed alone are taken together; unfinished ones are shown as far as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from equipoise.commands import spelled, typed
from equipoise.scripts.reporting.ending import PAGE, Job, conclude, publish, ranking
from equipoise.scripts.reporting.groups import environments
from equipoise.scripts.reporting.runs import find
from equipoise.scripts.studies.experiments import file, study
from equipoise.trainer.configuration.errors import ConfigError

__all__ = ["Job", "conclude", "main"]


@study
def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    places: list[Path] = options.runs
    runs = find(places)
    found = environments(runs, options.baseline)
    groups = dict.fromkeys(group.name for environment in found for group in environment.groups)
    if options.baseline not in (None, *groups):
        raise ConfigError(f"--baseline {options.baseline}: no such group; there are {', '.join(groups)}")
    ranking(found, Console())
    names = [runs[0].name] if len(runs) == 1 else [place.resolve().name for place in places[:3]]
    to = options.to or (places[0] / PAGE if len(places) == 1 else Path(PAGE))
    publish(found, to, typed("report", *given), options.title or ", ".join(names))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=spelled(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[Path("runs")], help="run folders, or folders above them"
    )
    parser.add_argument("--to", type=file, help=f"file to write (default: {PAGE} in the folder)")
    parser.add_argument("--title", help="of the page (default: the folder's name)")
    parser.add_argument("--baseline", help="group that the others are compared with (default: the best)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
