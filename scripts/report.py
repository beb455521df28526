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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from equipoise.commands import spelled, typed
from equipoise.scripts.reporting.groups import environments
from equipoise.scripts.reporting.page import page
from equipoise.scripts.reporting.runs import find
from equipoise.scripts.studies.experiments import file, study
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.system.files import replace_file

NAME = "report.html"


@study
def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    places: list[Path] = options.runs
    to = options.to or (places[0] / NAME if len(places) == 1 and places[0].is_dir() else Path(NAME))
    write(places, to, typed("report", *given), options.title, options.baseline)
    return 0


def write(
    places: Sequence[Path],
    to: Path,
    command: str,
    title: str | None = None,
    baseline: str | None = None,
    groups: Mapping[Path, str] | None = None,
) -> None:
    """Write the page of the runs in `places` to the file `to`, and say where it is.

    Args:
        command: what made the page, or the study that it ends.
        baseline: the group that all others are compared with; None: the best.
        groups: folder of a run -> the group that it belongs to, where the study has named it.

    Raises:
        ConfigError: there are no runs, or the page cannot be written.
    """
    runs = find(places)
    if groups is not None:
        named = {folder.resolve(): name for folder, name in groups.items()}
        runs = [replace(run, group=named.get(run.folder.resolve())) for run in runs]
    found = environments(runs, baseline)
    there = {group.name: None for environment in found for group in environment.groups}
    if baseline is not None and baseline not in there:
        raise ConfigError(f"--baseline {baseline}: there is no such group; there are {', '.join(there)}")
    name = title or (
        runs[0].name if len(runs) == 1 else " and ".join(place.resolve().name for place in places[:3])
    )
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        replace_file(to, page(name, found, command).encode())
    except OSError as error:
        raise ConfigError(f"{to}: cannot be written: {error.strerror or error}") from error
    print(f"report: {to}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=spelled(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[Path("runs")], help="run folders, or folders above them"
    )
    parser.add_argument(
        "--to", type=file, help=f"file to write (default: {NAME} in the folder, if it is one)"
    )
    parser.add_argument("--title", help="of the page (default: the folder's name)")
    parser.add_argument("--baseline", help="group that the others are compared with (default: the best)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
