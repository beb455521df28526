"""Decides what a command does in a run folder: begin a run, continue one, or report that it is finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.resuming import changes, refuse_fixed, resumed, what_changes
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.system.lock import LockedError
from equipoise.trainer.system.run_folder import (
    CHECKPOINTS,
    CONFIG,
    SUMMARY,
    RunFolder,
    is_run_config,
    run_folder_of,
)

if TYPE_CHECKING:
    from equipoise.trainer.system.checkpoint import Found

AUTO = "auto"
"""`resume=auto`: continue the run in the folder, or begin one there."""


@dataclass(frozen=True)
class Plan:
    """What to train, and where; valid while the folder is locked."""

    config: Config
    folder: RunFolder
    state: Mapping[str, Any] | None = None
    """State of the checkpoint to continue from."""
    notices: list[str] = field(default_factory=list)
    """What to tell the user first."""
    finished: bool = False
    """There is nothing to do: the run in the folder is complete."""


@contextmanager
def begun(config: Config, folder: RunFolder, numbered: bool = False) -> Iterator[Plan]:
    """A new run in `folder`, or with `resume: auto` whatever that folder needs.

    `numbered`: if the folder is taken, append a number to its name.

    Raises:
        ConfigError: the folder holds something else, or somebody else writes into it.
        OSError: it cannot be written to.
    """
    with _sole_writer(folder, numbered) as folder:
        if config.resume == AUTO:
            yield _auto(config.model_copy(update={"resume": None}), folder)
            return
        if config.resume is not None:
            raise ConfigError("resume: give it on the command line, resume=<run folder or checkpoint>")
        if _is_first() and (taken := _taken(folder)):
            raise ConfigError(f"hydra.run.dir: {folder.path} {taken}")
        yield Plan(config, folder)


@contextmanager
def gone_on(
    location: Path,
    overrides: Mapping[str, Any],
    elsewhere: RunFolder | None = None,
    allow: Collection[str] = (),
) -> Iterator[Plan]:
    """The run of a checkpoint, with some settings changed. Raises as `begun` does.

    Args:
        location: a run folder, whose newest checkpoint is taken, or a checkpoint. A copy outside of
            any run folder continues in a run folder of its own.
        overrides: `key -> value`.
        elsewhere: another folder for the run.
        allow: the user's modules that the checkpoint may name.
    """
    own = _run_folder(location)
    with _sole_writer(own) if own is not None and elsewhere is None else nullcontext():
        found = _newest(location)
        config = resumed(found.config, overrides, str(found.path), allow)
        plan = Plan(config, own or RunFolder("."), found.state, _notices(found, config))
        if own is not None and elsewhere is None:
            plan.notices.extend(_edited(own, found.config))
            yield plan
            return
    if elsewhere is None:
        from equipoise.trainer.build import default_run_dir

        elsewhere = RunFolder.fresh(default_run_dir(config)) if _is_first() else RunFolder(".")
    with _sole_writer(elsewhere):
        if _is_first() and (taken := _taken(elsewhere)):
            raise ConfigError(f"hydra.run.dir: {elsewhere.path} {taken}")
        plan.notices.append(f"resume: {found.path} goes on in {elsewhere.path}")
        yield replace(plan, folder=elsewhere)


def _auto(config: Config, folder: RunFolder) -> Plan:
    match folder.content:
        case "other files of our names":
            raise ConfigError(f"hydra.run.dir: {folder.path} {_taken(folder)}")
        case "run":
            pass
        case _:
            return Plan(config, folder)
    found = _newest(folder.path)
    refuse_fixed([change.key for change in changes(found.config, config.plain())])
    config = config.model_copy(update={"resume": str(found.path)})
    done, stopped = found.state["env_steps"], (found.state.get("callbacks") or {}).get("stopped")
    same = not changes(found.config, config.plain())
    if (done >= config.trainer.total_env_steps or (stopped and same)) and _status(folder) == "finished":
        said = f"{folder.path}: the run is finished, with {done:,} steps"
        said += f" (stopped early: {stopped})" if stopped else ""
        return Plan(config, folder, found.state, [said], finished=True)
    return Plan(config, folder, found.state, _notices(found, config))


def _taken(folder: RunFolder) -> str | None:
    """Why no new run can begin in the folder."""
    match folder.content:
        case "nothing":
            return None
        case "run":
            return f"already holds a run; continue it with resume={folder.path}"
        case "unfinished":
            return "holds a run that ended before its first checkpoint; start it again with resume=auto"
        case "other files of our names":
            return f"holds a {CONFIG} or {CHECKPOINTS} that is no run's; choose another folder"
        case "other files":
            return "is not empty"


def _run_folder(location: Path) -> RunFolder | None:
    """Whose run `location` means; None for a checkpoint that lies elsewhere. Raises `ConfigError`."""
    if not location.is_dir():
        folder = run_folder_of(location)
        return None if folder is None else RunFolder(folder)
    folder = location.parent if location.name == CHECKPOINTS else location
    if not is_run_config(folder / CONFIG):
        raise ConfigError(f"resume: {location} is no run folder: it has no {CONFIG} of a run")
    return RunFolder(folder)


def _newest(location: Path) -> Found:
    from equipoise.trainer.system.checkpoint import CheckpointError, newest

    try:
        found = newest(location)
        _ = found.config
    except CheckpointError as error:
        raise ConfigError(f"resume: {error}") from None
    return found


def _notices(found: Found, config: Config) -> list[str]:
    """What the user should know about a run that continues."""
    before, after = found.config, config.plain()
    lines = [found.notice, what_changes(before, after), _stretched(before, config, found.state)]
    return [f"resume: {line}" for line in lines if line is not None]


def _stretched(before: Mapping[str, Any], config: Config, state: Mapping[str, Any]) -> str | None:
    """How a new length of the run changes its schedules."""
    old, new = before["trainer"]["total_env_steps"], config.trainer.total_env_steps
    if old == new or config.trainer.schedule_steps is not None:
        return None
    rate = ""
    if config.optimizer.anneal:
        last = float(state["learner"]["optimizer"]["param_groups"][0]["lr"])
        now = config.optimizer.learning_rate * max(1.0 - state["env_steps"] / new, 0.0)
        rate = f": the learning rate, {last:.3g} so far, goes on from {now:.3g}"
    return (
        f"{new:,} steps instead of {old:,}: schedules are stretched over the new length{rate} "
        f"(trainer.schedule_steps={old} keeps them as they were)"
    )


def _edited(folder: RunFolder, checkpoint: Mapping[str, Any]) -> list[str]:
    """A line if `config.yaml` differs from the checkpoint: that file is about to be rewritten."""
    path = folder.path / CONFIG
    found = changes(checkpoint, yaml.safe_load(path.read_text(encoding="utf-8")))
    if not found or not _is_first():
        return []
    kept = path.with_name("config-before-resume.yaml")
    shutil.copy2(path, kept)
    return [
        f"resume: {path} differs from the checkpoint, whose configuration counts: "
        f"{', '.join(map(str, found))}. Change settings on the command line; the file is kept as {kept.name}"
    ]


def _status(folder: RunFolder) -> str | None:
    try:
        return Summary.read(folder.path / SUMMARY).status
    except (OSError, ValueError):
        return None


@contextmanager
def _sole_writer(folder: RunFolder, numbered: bool = False) -> Iterator[RunFolder]:
    """The folder, locked. Only the first process writes, so it alone holds the lock."""
    if not _is_first():
        yield folder
        return
    for candidate in folder.numbered() if numbered else [folder]:
        with ExitStack() as stack:
            try:
                stack.enter_context(candidate.lock(patience=not numbered))
            except LockedError as error:
                if numbered:
                    continue
                raise ConfigError(f"hydra.run.dir: {error}; a run folder has one writer at a time") from None
            if numbered and candidate.content != "nothing":
                continue
            yield candidate
            return


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"
