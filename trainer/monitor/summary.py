"""What a run leaves for programs to read: `metrics.jsonl`, `summary.json` and `config.yaml`."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from equipoise.trainer.system.files import AppendFile, replace_file

Status = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Summary:
    """What `summary.json` says of a run: a key for each field, null where the run has no such number."""

    status: Status
    error: str | None = None
    """Why it failed."""
    stopped: str | None = None
    """Which callback ended it early, and why."""
    env: str | None = None
    preset: str | None = None
    seed: int | None = None
    device: str | None = None
    discount: float | None = None
    """γ as it was used: typed, or by the time limit of the episodes."""
    env_steps: int | None = None
    """Over all environments and processes."""
    iterations: int | None = None
    seconds: float | None = None
    """Spent in iterations, over all sessions of the run."""
    cpu_seconds: float | None = None
    """The same of the processor, by all threads of this process, the first of several; not its workers."""
    steps_per_second: float | None = None
    compile_seconds: float | None = None
    best_by: str | None = None
    """Which policy chose `best.pt` and counts where runs are ranked: deterministic or sampled."""
    evaluation_episodes: int | None = None
    """Of the closing evaluation, for each policy."""
    return_mean: float | None = None
    """Of the closing evaluation, as everything up to `spawn_parameter_error`: of the deterministic policy."""
    return_std: float | None = None
    normalized_score: float | None = None
    """Of the mean return: 0 = random actions, 1 = the scripted expert."""
    success_rate: float | None = None
    sampled_return_mean: float | None = None
    """The same four of the sampled policy, which acts as in training."""
    sampled_return_std: float | None = None
    sampled_normalized_score: float | None = None
    sampled_success_rate: float | None = None
    random_return_mean: float | None = None
    """Of random actions, measured before the training, or stated by the environment."""
    random_return_std: float | None = None
    decision_accuracy: float | None = None
    spawn_parameter_error: float | None = None
    balance_ratio_before: float | None = None
    """Geometric mean over the last quarter of the run, as `balance_ratio`; the weights are means over it."""
    balance_ratio: float | None = None
    discrete_weight_used: float | None = None
    continuous_weight_used: float | None = None
    clamped_fraction: float | None = None
    """Of all updates; the larger of the next two."""
    discrete_clamped_fraction: float | None = None
    continuous_clamped_fraction: float | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    git_revision: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """What else the evaluation measured, by the environment's names: keys of their own in the file."""

    RANKED_BY: ClassVar = (
        "normalized_score",
        "return_mean",
        "success_rate",
        "balance_ratio",
        "steps_per_second",
        "sampled_return_mean",
        "sampled_success_rate",
        "random_return_mean",
    )
    """The numbers that runs are compared by, the most telling first."""

    @property
    def score_name(self) -> str:
        """By which runs are ranked: the normalised score, or the return where there is no expert."""
        name = "return_mean" if self.normalized_score is None else "normalized_score"
        return f"sampled_{name}" if self.best_by == "sampled" else name

    @property
    def score(self) -> float:
        """Of a finished run: the number named by `score_name`."""
        return float(getattr(self, self.score_name))

    @property
    def disagreement(self) -> str | None:
        """A sentence where the two policies differ widely: by more than chance, and by a fifth of what the
        better one has over random actions."""
        one, other = self.return_mean, self.sampled_return_mean
        if one is None or other is None or not self.evaluation_episodes:
            return None
        spread = math.hypot(self.return_std or 0.0, self.sampled_return_std or 0.0)
        gap, chance = abs(one - other), 3.0 * spread / math.sqrt(self.evaluation_episodes)
        if gap <= chance or gap <= _WIDELY * abs(max(one, other) - (self.random_return_mean or 0.0)):
            return None
        numbers = f"({max(one, other):.4g} against {min(one, other):.4g})"
        if one > other:
            return (
                f"The deterministic policy does much better than the sampled one {numbers}, which is the one "
                "that is training: it still explores much."
            )
        choose = "" if self.best_by == "sampled" else ", and let trainer.best_by=sampled choose best.pt"
        return (
            f"The sampled policy does much better than the deterministic one {numbers}: act with "
            f"deterministic=false{choose}."
        )

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Summary:
        """From keys as the file has them; those that are no fields become `metrics`."""
        own = {name: value for name, value in numbers.items() if name in _FIELDS}
        rest = {name: value for name, value in numbers.items() if name not in _FIELDS}
        return cls(**own, metrics=rest)

    @classmethod
    def read(cls, path: str | Path) -> Summary:
        """Raises `OSError` or `ValueError` where there is no whole file."""
        return cls.of(json.loads(Path(path).read_text()))

    def write(self, path: str | Path) -> None:
        """Write the file in one step. Raises `OSError`."""
        own = {name: getattr(self, name) for name in _FIELDS}
        replace_file(Path(path), _json({**self.metrics, **own}, indent=2).encode() + b"\n")


def read_config(run_dir: Path) -> dict[str, Any]:
    """The configuration of a run as YAML has it; empty where there is none that can be read."""
    try:
        found = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


_FIELDS = tuple(each.name for each in fields(Summary) if each.name != "metrics")

_WIDELY = 0.2
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
