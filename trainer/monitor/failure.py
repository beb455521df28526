"""What a run that ends with an error leaves behind: `summary.json` says so and `failure.txt` explains."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import replace
from pathlib import Path

from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.run_folder import REPORT, SUMMARY


def clear_outcome(run_dir: Path) -> None:
    """Remove what an earlier session of the run wrote of its end."""
    for name in (SUMMARY, REPORT):
        (run_dir / name).unlink(missing_ok=True)


def write_failure(run_dir: Path, error: BaseException, summary: Summary) -> None:
    """Record how a run ended that did not finish; `summary` is that of an interrupted run."""
    interrupted = isinstance(error, KeyboardInterrupt)
    if not interrupted:
        summary = replace(summary, status="failed", error=_named(error))
    with contextlib.suppress(OSError):  # a full disk may be the very error, and that one is raised
        summary.write(run_dir / SUMMARY)
        if not interrupted:
            replace_file(run_dir / REPORT, _report(error).encode(errors="backslashreplace"))


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _report(error: BaseException) -> str:
    trace = "".join(traceback.format_exception(error))
    return "\n\n".join([_named(error), *getattr(error, "details", ()), "Where it happened:", trace])
