"""Studies whose runs are made in this process, a JSON file each: made where missing, then reported."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from equipoise.scripts.studies.experiments import file, folder
from equipoise.scripts.studies.report import cpu_model, write_report

Row = dict[str, Any]


def add_folders(parser: argparse.ArgumentParser, name: str) -> None:
    """Options of a study called `name`."""
    parser.add_argument("--out", type=folder, default=f"runs/{name}", help="folder of the runs")
    parser.add_argument("--report", type=file, default=f"docs/results/{name}.md", help="Markdown file")


def made(options: argparse.Namespace, planned: Iterable[tuple[str, Callable[[], Row]]]) -> list[Row]:
    """All rows in `--out`, after those of `planned`, names and what makes each, that were missing."""
    options.out.mkdir(parents=True, exist_ok=True)
    for name, make in [] if options.report_only else planned:
        place = options.out / f"{name}.json"
        if not place.exists():
            row = make()
            place.write_text(json.dumps(row))
            print(json.dumps(row), flush=True)
    return [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]


def publish(
    options: argparse.Namespace,
    module: str,
    title: str,
    arguments: Sequence[str] | None,
    rows: Sequence[Row],
    lines: Sequence[str],
) -> None:
    """Write the report, `lines` below the origin of `rows`, and a CSV beside it."""
    command = shlex.join(["python", "-m", module, *(arguments or sys.argv[1:])])
    origin = [f"command: `{command}`", f"commit: {', '.join(sorted({row['commit'] for row in rows}))}"]
    origin += [f"machine: {cpu_model()}, {os.cpu_count()} cores, PyTorch {torch.__version__}"]
    write_report(options.report, title, "".join(f"- {line}\n" for line in origin), "\n".join(lines))
    with options.report.with_suffix(".csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
