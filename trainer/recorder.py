"""What a run shows and leaves behind: terminal and curves, checkpoints, a summary, why it failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from equipoise.commands import typed
from equipoise.trainer.compilation import news
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.evaluation import Evaluation
from equipoise.trainer.first_look import FirstLook, understood
from equipoise.trainer.monitor import layout
from equipoise.trainer.monitor.endless import EndlessEpisodes
from equipoise.trainer.monitor.outcome import clear_outcome, summarize, write_failure
from equipoise.trainer.monitor.run_log import RunLog
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.settled import settled
from equipoise.trainer.system import torch_switches
from equipoise.trainer.system.checkpoint import CheckpointError, Checkpoints
from equipoise.trainer.system.files import replace_file
from equipoise.trainer.system.run_folder import (
    CHECKPOINTS,
    COMMANDS,
    CONFIG,
    FolderRemovedError,
    RunFolder,
)

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer


class Recorder:
    """Records nothing: stands in for a `RunRecorder` in all processes but the first."""

    @property
    def has_best(self) -> bool:
        """Whether there is a `best.pt`."""
        return True

    def write_config(self) -> None:
        """Make the run folder and write its `config.yaml`. Raises an OSError that names the folder."""

    @contextmanager
    def session(self, trainer: Trainer) -> Iterator[None]:
        """A context for everything that a run does from here to its end or failure."""
        yield

    def announce(self, text: str) -> None:
        """Print a line once the run begins."""

    def message(self, text: str) -> None:
        """Print a line during the run."""

    def first_look(self, trainer: Trainer, look: FirstLook | None) -> None:
        """Show the first look at the environment before training begins."""

    def iteration(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Log the iteration just done, with remarks on it."""

    def evaluation(self, trainer: Trainer, result: Evaluation | None) -> None:
        """Log an evaluation that is in no iteration's metrics."""

    def save(self, state: Mapping[str, Any], last: bool = False, best: bool = False) -> None:
        """Write a trainer's `state` as `last.pt` or `best.pt` or both."""

    def handlers_replaced(self, signals: list[str]) -> None:
        """Report that the handlers of these signals had to be restored."""

    def finish(self, trainer: Trainer, result: Evaluation | None) -> Summary:
        """Write the summary."""
        return summarize(trainer, result)

    def film(self, trainer: Trainer) -> bool:
        """Film the policy as it is; raises nothing. Returns False if the environment cannot be rendered."""
        return True


class RunRecorder(Recorder):
    """Writes into a run's folder. `trainer.on_save_error` decides what happens if that fails."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder, self.run_dir = config, folder, folder.path
        settings = config.trainer
        self._checkpoints = Checkpoints(self.run_dir / CHECKPOINTS, settings.keep_every, settings.keep_max)
        self._log: RunLog
        self._told: set[str] = set()
        self._announced: list[str] = []
        self._endless: EndlessEpisodes

    @property
    def has_best(self) -> bool:
        return self._checkpoints.best_path.exists()

    def write_config(self) -> None:
        settings = yaml.safe_dump(self.config.plain(), sort_keys=False, allow_unicode=True)
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            replace_file(self.run_dir / CONFIG, settings.encode())
            with (self.run_dir / COMMANDS).open("a", encoding="utf-8") as file:
                file.write(f"{self._command()}\n")
        except OSError as error:
            raise OSError(f"cannot write to {self.run_dir}: {error.strerror or error}") from error

    def _command(self) -> str:
        """What this session was begun with."""
        given = [argument for argument in self.config.typed if not argument.startswith("resume=")]
        named = [
            argument.partition("=")[0] for argument in given if "=" not in argument and argument[0] != "~"
        ]
        if self.config.resume is not None:
            given.append(f"resume={self.config.resume}")
        command = typed("train", *(argument for argument in given if argument not in named))
        return f"{command}  # from Python, which has set {', '.join(named)} as well" if named else command

    @contextmanager
    def session(self, trainer: Trainer) -> Iterator[None]:
        with self.folder.lock(), self._outcome(trainer):
            kept = self._set_aside(trainer.iteration)
            clear_outcome(self.run_dir)
            self._endless = EndlessEpisodes(trainer.env_steps // self.config.env.num_envs)
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
        """A context that explains any error of the run in its folder."""
        try:
            yield
        except BaseException as error:
            if self.folder.is_ours:
                write_failure(self.run_dir, error, summarize(trainer))
            raise

    def _set_aside(self, iteration: int) -> Path | None:
        """Keep the history of a run that continues from an older checkpoint than its last one."""
        reached, later = self._checkpoints.later_than(iteration)
        return self.folder.set_aside(f"until-{reached:08d}", later) if later else None

    def announce(self, text: str) -> None:
        self._announced.append(text)

    def _introduce(self, trainer: Trainer) -> None:
        for text in self._announced:
            self.message(text)
        if trainer.iteration and trainer.collector.notice is not None:
            self.message(f"resume: {trainer.collector.notice}")
        if not trainer.iteration:
            self.message(understood(trainer.collector.env, trainer.policy.space))
        self._remark(trainer)
        if any(part.notice is None for part in trainer.compiling):
            self.message(
                f"trainer.compile = {self.config.trainer.compile}: the first iterations take longer, up to a "
                "minute if nothing was kept from an earlier run"
            )

    def message(self, text: str) -> None:
        self._log.message(text)

    def first_look(self, trainer: Trainer, look: FirstLook | None) -> None:
        if look is not None and not trainer.iteration:
            for line in look.lines():
                self.message(line)
        if not trainer.iteration:
            for line in settled(self.config, trainer.collector.env, trainer.policy):
                self.message(line)
        if trainer.evaluator.random is not None:
            self._log.reference(layout.RANDOM_RETURN, trainer.evaluator.random.mean)

    def handlers_replaced(self, signals: list[str]) -> None:
        if signals:
            self._once(
                f"WARNING: other code replaced the handlers of {', '.join(signals)}; they were put back"
            )

    def _remark(self, trainer: Trainer) -> None:
        for remark in trainer.collector.take_remarks():
            self.message(f"{self.config.env.label}: {remark}")
        for remark in torch_switches.take_remarks():
            self._once(f"WARNING: {remark}")

    def _once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.message(text)

    def iteration(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        if skipped := metrics["optimizer/skipped"]:
            first = next(iter(trainer.bad_updates), "the gradient")
            self.message(
                f"WARNING: iteration {trainer.iteration}: {skipped:.0f} updates skipped, not finite: {first}"
            )
        self._remark(trainer)
        if self._endless.found(trainer.env_steps // self.config.env.num_envs, metrics):
            self.message(f"WARNING: {self._endless} (trainer.eval_max_steps ends evaluations there)")
        self._cut_off("an evaluation", int(metrics.get("evaluation/unfinished_episodes", 0)))
        for message in news(trainer.compiling):
            self.message(message)
        with self._writing():
            self._log.record(trainer.iteration, trainer.env_steps, metrics)

    def evaluation(self, trainer: Trainer, result: Evaluation | None) -> None:
        if result is not None:
            with self._writing():
                self._log.evaluation(result.tagged(), trainer.env_steps)

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

    def _cut_off(self, evaluation: str, episodes: int) -> None:
        if episodes and evaluation not in self._told:
            self._told.add(evaluation)
            self.message(
                f"WARNING: {episodes} episodes of {evaluation} had not ended after trainer.eval_max_steps = "
                f"{self.config.trainer.eval_max_steps} and count as they were"
            )

    def finish(self, trainer: Trainer, result: Evaluation | None) -> Summary:
        summary = summarize(trainer, result)
        if result is not None:
            self._cut_off("the closing evaluation", result.unfinished)
        with self._writing():
            self._log.finish(summary)
        return summary

    def film(self, trainer: Trainer) -> bool:
        if trainer.interrupted_by:
            return True
        try:
            frames = trainer.evaluator.film()
            if frames:
                self._log.film(frames, trainer.env_steps)
        except Exception as error:  # of the environment's renderer, or a full disk
            self.message(f"no film of the policy: {type(error).__name__}: {error}")
            return True
        return bool(frames)

    def _check_folder(self) -> None:
        """Check that the folder has not been removed and has no other writer."""
        try:
            self.folder.check()
        except FolderRemovedError as error:
            if self.config.trainer.on_save_error == "stop":
                raise CheckpointError(f"{error} (trainer.on_save_error = warn would go on)") from error
            self.message(f"WARNING: {error}; the run goes on (trainer.on_save_error = warn)")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A context for everything that is written to disk."""
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
