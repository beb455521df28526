"""`--add`: a study goes on from the runs that its CSV has, of another machine or an earlier day."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from equipoise.scripts.studies.experiments import Job
from equipoise.scripts.studies.results import Result, read_csv


def add_adding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--add", action="store_true", help="to the runs that the report's CSV has")


def known_results(options: argparse.Namespace) -> list[Result]:
    """Those of the report's CSV, where the options of `add_places` and `add_adding` ask for them."""
    there = options.report.with_suffix(".csv")
    return read_csv(there) if options.from_csv or (options.add and there.exists()) else []


def without(jobs: Sequence[Job], results: Sequence[Result]) -> list[Job]:
    """The jobs of which `results` has none."""
    known = {(result.env, result.arm, result.seed) for result in results}
    return [job for job in jobs if (job.env, job.arm.name, job.seed) not in known]
