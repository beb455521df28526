"""What a run that ends with an error leaves behind: `summary.json` says so and `failure.txt` explains."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.trainer.monitor.summary import write_summary
from equipoise.trainer.system.files import replace_file

REPORT = "failure.txt"


def forget_the_end(run_dir: Path) -> None:
    """A run that goes on has not ended yet, whatever it said the last time."""
    for name in ("summary.json", REPORT):
        (run_dir / name).unlink(missing_ok=True)


def record_the_end(run_dir: Path, error: BaseException, summary: Mapping[str, Any]) -> None:
    """Write down how a run ended that did not finish; `summary` is that of an interrupted run."""
    interrupted = isinstance(error, KeyboardInterrupt)
    end = {"status": "interrupted"} if interrupted else {"status": "failed", "error": _named(error)}
    with contextlib.suppress(OSError):  # a full disk may be the very error, and that one is told
        write_summary(run_dir / "summary.json", {**summary, **end})
        if not interrupted:
            replace_file(run_dir / REPORT, _report(error).encode())


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _report(error: BaseException) -> str:
    trace = "".join(traceback.format_exception(error))
    return "\n\n".join([_named(error), *getattr(error, "details", ()), "Where it happened:", trace])
