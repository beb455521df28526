"""How a run ended: `summary.json` says so, and `failure.txt` explains an error."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from equipoise.trainer.evaluation import Evaluation
from equipoise.trainer.monitor.summary import Summary, git_revision, versions
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.run_folder import REPORT, SUMMARY

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer


def summarize(trainer: Trainer, result: Evaluation | None = None) -> Summary:
    """What `summary.json` says of a run as it stands; without a closing evaluation its metrics are null."""
    config, compiling = trainer.config, trainer.compiling
    summary = {
        "status": "interrupted" if result is None else "finished",
        "stopped": trainer.callbacks.stopped,
        "env": config.env.label,
        "preset": config.preset,
        "seed": config.seed,
        "device": str(trainer.collector.env.device),
        "discount": trainer.settings.discount,
        "env_steps": trainer.env_steps,
        "iterations": trainer.iteration,
        "seconds": trainer.seconds,
        "cpu_seconds": trainer.cpu_seconds,
        "steps_per_second": trainer.env_steps / trainer.seconds if trainer.seconds else None,
        "compile_seconds": sum(c.seconds for c in compiling) if compiling else None,
        **trainer.balance.summary(trainer.schedule.env_steps),
        "best_by": config.trainer.best_by,
        "versions": versions(),
        "git_revision": git_revision(),
    }
    if (random := trainer.evaluator.random) is not None:
        summary |= {"random_return_mean": random.mean, "random_return_std": random.std}
    if result is not None:
        summary |= {"evaluation_episodes": len(result.returns), **_returns(result)}
        if result.sampled is not None:
            summary |= {f"sampled_{name}": x for name, x in _returns(result.sampled).items()}
    measured = result.metrics if result is not None else {}
    return Summary.of(summary | {n if n not in summary else f"env_{n}": x for n, x in measured.items()})


def _returns(result: Evaluation) -> dict[str, float | None]:
    return {
        "return_mean": result.return_mean,
        "return_std": result.return_std,
        "normalized_score": result.score,
        "success_rate": result.success_rate,
    }


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
