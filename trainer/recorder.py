"""What a run shows and leaves behind: terminal and curves, checkpoints, a summary, why it failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.evaluation import Evaluation
from equipoise.trainer.monitor.failure import clear_outcome, write_failure
from equipoise.trainer.monitor.run_log import RunLog
from equipoise.trainer.monitor.summary import Summary, git_revision, versions
from equipoise.trainer.system.checkpoint import CheckpointError, Checkpoints
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.run_folder import CHECKPOINTS, CONFIG, FolderRemovedError, RunFolder

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer


class Recorder:
    """Records nothing: what the processes other than the first have in place of a `RunRecorder`."""

    @property
    def has_best(self) -> bool:
        """Whether there is a `best.pt`."""
        return True

    def write_config(self) -> None:
        """Make the run folder, with `config.yaml` in it. Raises OSError that names the folder."""

    @contextmanager
    def session(self, trainer: Trainer) -> Iterator[None]:
        """Around all that a run does from here to its end, be it a failure."""
        yield

    def message(self, text: str) -> None:
        """A line for the reader of the terminal."""

    def iteration(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Log the iteration just done, with what there is to say of it."""

    def save(self, state: Mapping[str, Any], last: bool = False, best: bool = False) -> None:
        """Write a trainer's `state` as `last.pt` or `best.pt` or both."""

    def finish(self, trainer: Trainer, result: Evaluation | None) -> Summary:
        """Write the summary, and a film if the closing evaluation made one."""
        return summarize(trainer, result)


class RunRecorder(Recorder):
    """Writes into a run's folder. `trainer.on_save_error` says what happens where that fails."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder, self.run_dir = config, folder, folder.path
        settings = config.trainer
        self._checkpoints = Checkpoints(self.run_dir / CHECKPOINTS, settings.keep_every, settings.keep_max)
        self._log: RunLog

    @property
    def has_best(self) -> bool:
        return self._checkpoints.best_path.exists()

    def write_config(self) -> None:
        settings = yaml.safe_dump(self.config.plain(), sort_keys=False, allow_unicode=True)
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            replace_file(self.run_dir / CONFIG, settings.encode())
        except OSError as error:
            raise OSError(f"cannot write to {self.run_dir}: {error.strerror or error}") from error

    @contextmanager
    def session(self, trainer: Trainer) -> Iterator[None]:
        with self.folder.lock(), self._outcome(trainer):
            kept = self._set_aside(trainer.iteration)
            clear_outcome(self.run_dir)
            schedule = trainer.schedule
            with RunLog(
                self.config,
                self.run_dir,
                trainer.iteration,
                trainer.env_steps,
                schedule.env_steps,
                trainer.iteration + schedule.remaining,
            ) as self._log:
                self._introduce(trainer)
                if kept is not None:
                    self.message(
                        f"resume: later checkpoints and metrics, as they were, are kept in {kept}, "
                        "a run folder of its own"
                    )
                yield

    @contextmanager
    def _outcome(self, trainer: Trainer) -> Iterator[None]:
        """Have an error of the run, whatever it is, explained in the folder."""
        try:
            yield
        except BaseException as error:
            write_failure(self.run_dir, error, summarize(trainer))
            raise

    def _set_aside(self, iteration: int) -> Path | None:
        """Keep the history of a run that goes on from an older checkpoint than its last one."""
        reached, later = self._checkpoints.later_than(iteration)
        return self.folder.set_aside(f"until-{reached:08d}", later) if later else None

    def _introduce(self, trainer: Trainer) -> None:
        if trainer.iteration and trainer.collector.notice is not None:
            self.message(f"resume: {trainer.collector.notice}")
        if not trainer.iteration and trainer.policy.space.num_continuous:
            self.message(trainer.policy.space.describe())
        for remark in trainer.collector.take_remarks():
            self.message(f"{self.config.env.label}: {remark}")
        if any(compiling.notice is None for compiling in trainer.compiling):
            self.message(
                f"trainer.compile = {self.config.trainer.compile}: the first iterations take longer, up to a "
                "minute if nothing was kept from an earlier run"
            )

    def message(self, text: str) -> None:
        self._log.message(text)

    def iteration(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        if skipped := metrics["optimizer/skipped"]:
            first = next(iter(trainer.bad_updates), "the gradient")
            self.message(
                f"WARNING: iteration {trainer.iteration}: {skipped:.0f} updates skipped, not finite: {first}"
            )
        for remark in trainer.collector.take_remarks():
            self.message(f"{self.config.env.label}: {remark}")
        for compiling in trainer.compiling:
            if message := compiling.news():
                self.message(message)
        with self._writing():
            self._log.record(trainer.iteration, trainer.env_steps, metrics)

    def save(self, state: Mapping[str, Any], last: bool = False, best: bool = False) -> None:
        # The log first: a checkpoint that is ahead of it would leave a gap in a resumed run.
        if best:
            with self._writing():
                self._log.sync()
                self._checkpoints.best(state)
        if last:
            with self._writing():
                self._log.sync()
                self._checkpoints.last(state, state["iteration"])

    def finish(self, trainer: Trainer, result: Evaluation | None) -> Summary:
        summary = summarize(trainer, result)
        with self._writing():
            self._log.finish(summary)
        if result is not None and result.frames:
            with self._writing():
                self._log.film(result.frames, trainer.env_steps)
        return summary

    def _check_folder(self) -> None:
        """Notice that the folder has been removed, or has another writer."""
        try:
            self.folder.check()
        except FolderRemovedError as error:
            if self.config.trainer.on_save_error == "stop":
                raise CheckpointError(f"{error} (trainer.on_save_error = warn would go on)") from error
            self.message(f"WARNING: {error}; the run goes on (trainer.on_save_error = warn)")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around all that goes to the disk."""
        try:
            self._check_folder()
            yield
        except (CheckpointError, OSError) as error:
            what = str(error)
            if isinstance(error, OSError):
                what = f"cannot write to {self.run_dir}: {error.strerror or error}"
            if self.config.trainer.on_save_error == "stop":
                raise CheckpointError(f"{what} (trainer.on_save_error = warn would go on)") from error
            self.message(f"WARNING: {what}; the run goes on (trainer.on_save_error = warn)")


def summarize(trainer: Trainer, result: Evaluation | None = None) -> Summary:
    """What `summary.json` says of a run as it stands; without a closing evaluation its metrics are null."""
    config, compiling = trainer.config, trainer.compiling
    summary = {
        "status": "interrupted" if result is None else "finished",
        "env": config.env.label,
        "preset": config.preset,
        "seed": config.seed,
        "device": str(trainer.collector.env.device),
        "env_steps": trainer.env_steps,
        "iterations": trainer.iteration,
        "seconds": trainer.seconds,
        "steps_per_second": trainer.env_steps / trainer.seconds if trainer.seconds else None,
        "compile_seconds": sum(c.seconds for c in compiling) if compiling else None,
        **trainer.balance.summary(trainer.schedule.env_steps),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    if result is not None:
        summary |= {
            "return_mean": result.return_mean,
            "return_std": result.return_std,
            "normalized_score": result.score,
            "success_rate": result.success_rate,
        }
    measured = result.metrics if result is not None else {}
    return Summary.of(summary | {n if n not in summary else f"env_{n}": x for n, x in measured.items()})
