"""What a run leaves for programs to read: `metrics.jsonl` and `summary.json`."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.trainer.system.files import AppendFile, replace_file

SUMMARY_KEYS = (
    "status",
    "env",
    "preset",
    "seed",
    "device",
    "env_steps",
    "iterations",
    "seconds",
    "steps_per_second",
    "return_mean",
    "return_std",
    "normalized_score",
    "success_rate",
    "decision_accuracy",
    "spawn_parameter_error",
    "balance_ratio_before",
    "balance_ratio",
    "discrete_weight_used",
    "continuous_weight_used",
    "clamped_fraction",
    "versions",
    "git_revision",
)
"""What every `summary.json` has; null where an environment or a run has no such metric."""

_PACKAGES = ("equipoise", "torch", "numpy", "gymnasium", "hydra-core", "tensorboard")


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, one line an iteration.

    `resume_iteration`: how many iterations the checkpoint holds from which the run goes on. Lines beyond
    it, and a last line that a crash has torn, are removed: those iterations come again. None starts anew.
    """

    def __init__(self, path: str | Path, resume_iteration: int | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume_iteration is not None and path.exists():
            os.truncate(path, _length_up_to(path, resume_iteration))
        self._file = AppendFile(path, append=resume_iteration is not None)

    def write(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Append a line and hand it to the operating system. `iteration` counts from 1; NaN and infinity
        become null, which is all that JSON has for them. Raises `OSError` where the disk is full; the line
        then comes with the next one."""
        record = {"iteration": iteration, "env_steps": env_steps, **metrics}
        self._file.write(_json(record).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk. Called before a checkpoint is written, this keeps the file
        from ever falling behind the checkpoint, even by a power cut."""
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def write_summary(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json` in one step: all of `SUMMARY_KEYS` first, null if missing, then the others."""
    complete = {key: summary.get(key) for key in SUMMARY_KEYS} | dict(summary)
    replace_file(Path(path), _json(complete, indent=2).encode() + b"\n")


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that a result depends on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_revision() -> str | None:
    """The commit of this source tree, with `-dirty` if it has uncommitted changes; None outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _length_up_to(path: Path, iteration: int) -> int:
    """How many bytes of a metrics file belong to the iterations up to `iteration`."""
    position = length = 0
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            try:
                record = json.loads(line)
            except ValueError:  # torn, or damaged: only the line of a known iteration moves the end
                continue
            if line.endswith(b"\n") and isinstance(record, dict) and record.get("iteration", 0) <= iteration:
                length = position
    return length


def _json(value: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """`value` with null for what JSON cannot say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
