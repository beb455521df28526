"""One of any number of workers on a study: takes a trial, trains it, tells how it went.

What a trial is and whether somebody works on it is told by its run folder: the folder's lock ends with the
process, on whatever machine. A trial whose worker is gone goes on, by whoever comes next, from its
checkpoint. So does one whose worker is there but has done nothing for long: each iteration leaves a sign of
life. Workers take trials one at a time, under the lock of the study's folder, so that none is done twice.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from equipoise.scripts.tuning.space import Space, held, overrides, suggest
from equipoise.trainer.callbacks.callback import Callback, value
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.configuration.errors import ConfigError
from equipoise.trainer.configuration.schema import Config
from equipoise.trainer.continuation import begun
from equipoise.trainer.monitor.progress import quiet
from equipoise.trainer.monitor.summary import Summary
from equipoise.trainer.session import run_errors, train
from equipoise.trainer.system.lock import FolderLock, LockedError, take_away
from equipoise.trainer.system.run_folder import RunFolder

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer

_TURN = 120.0
"""Seconds that others may take to choose their trial."""
PAUSE = 2.0
"""Seconds between two looks at the trials that others have."""


@dataclass(frozen=True)
class Plan:
    """What all workers of a study must agree on."""

    folder: Path
    space: Space
    overrides: tuple[str, ...]
    trials: int
    evaluations: int
    finalists: int
    """How many of the best trials are trained on more seeds."""
    hung: float
    """Seconds after which a worker without a sign of life is taken for hung."""

    def beat(self, folder: RunFolder) -> Path:
        """The file whose time is the last sign of life of a run."""
        return self.folder / "alive" / folder.path.name

    def config(self, values: Mapping[str, Any]) -> Config:
        """Of a trial: evaluated and saved at equal fractions of the run, however long a rollout is."""
        typed = [*self.overrides, *overrides(values)]
        config = compose(typed)
        samples = config.trainer.batch.rollout_steps * config.env.num_envs
        every = max(math.ceil(config.trainer.total_env_steps / samples) // self.evaluations, 1)
        more = [f"trainer.{key}={every}" for key in ("eval_every", "checkpoint_every")]
        return compose([*typed, *more, "resume=auto"])


class SignOfLife(Callback):
    """Of a trial, at every iteration."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, run: Trainer) -> None:
        self._path.touch()

    def on_iteration(self, metrics: Mapping[str, float]) -> str | None:
        self._path.touch()
        return None


class Pruning(Callback):
    """Tells the study of every evaluation, and ends the run where the study expects nothing of it."""

    def __init__(self, trial: Trial, evaluations: int) -> None:
        self._trial, self._evaluations = trial, evaluations

    def on_start(self, run: Trainer) -> None:
        self._total = run.schedule.env_steps

    def on_evaluation(self, metrics: Mapping[str, float]) -> str | None:
        # Pruners compare equal steps only: the tenth part of a run, not environment steps.
        part = round(self._evaluations * metrics["env_steps"] / self._total)
        with warnings.catch_warnings():  # a resumed trial tells it again, and the study keeps the first
            warnings.simplefilter("ignore")
            self._trial.report(value(metrics, None)[1], part)
        return f"after part {part} of {self._evaluations}" if self._trial.should_prune() else None


def open_storage(place: str) -> Any:
    """A URL of a database, a file of SQLite (`.db`), or else a journal file, for several machines too."""
    if "://" in place:
        return optuna.storages.RDBStorage(place)
    path = Path(place).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    return JournalStorage(JournalFileBackend(str(path)))


def open_study(name: str, storage: str, plan: Plan, pruner: str) -> optuna.Study:
    """The study, made where there is none. Raises `ConfigError` for one of other settings, or no storage."""
    pruners = {"median": optuna.pruners.MedianPruner(), "none": optuna.pruners.NopPruner()}
    meant = {"space": dict(plan.space), "overrides": list(plan.overrides), "evaluations": plan.evaluations}
    with _turn(plan.folder):  # workers that make one SQLite file together break it
        try:
            study = optuna.create_study(
                study_name=name,
                storage=open_storage(storage),
                sampler=optuna.samplers.TPESampler(),
                pruner=pruners[pruner],
                direction="maximize",
                load_if_exists=True,
            )
            known = study.user_attrs
            if not known:  # what one has without a search: the best found should not be worse
                study.enqueue_trial(held(plan.space, compose(list(plan.overrides))))
        except Exception as error:  # of a database's driver
            raise ConfigError(f"storage = {storage}: {type(error).__name__}: {error}") from error
        for key, wanted in meant.items():
            if key not in known:
                study.set_user_attr(key, wanted)
            elif known[key] != wanted:
                before, now = _differing(known[key], wanted)
                was = f"it was begun with {key} = {before}, not {now}"
                raise ConfigError(f"study = {name}: {was}: choose another name")
    return study


def _differing(one: Any, other: Any) -> tuple[Any, Any]:
    """Of two dictionaries the entries that differ."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return one, other
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return {k: one[k] for k in keys if k in one}, {k: other[k] for k in keys if k in other}


def work(study: optuna.Study, plan: Plan) -> Iterator[FrozenTrial]:
    """Train trials until all are done, by whomever; yields each of its own when it has ended."""
    while True:
        with ExitStack() as held:
            with _turn(plan.folder) as turn:
                taken = _take(study, plan, held, turn)
            if taken is not None:
                trial, folder = taken
                if _run(study, trial, plan, folder):
                    yield study.get_trials(deepcopy=False)[trial.number]
                continue
        # Whoever has the last ones may be killed, or hang: then they are for us.
        if not _running(study):
            return
        time.sleep(PAUSE)


def _take(
    study: optuna.Study, plan: Plan, held: ExitStack, turn: FolderLock
) -> tuple[Trial, RunFolder] | None:
    """A trial that its worker has left, or a new one; its folder stays locked in `held`."""
    for left in _running(study):
        folder = RunFolder(trial_folder(plan.folder, left.number))
        if claimed(plan, folder, held):
            return Trial(study, left._trial_id), folder
    waiting = (TrialState.WAITING,)  # the first trial, until somebody takes it
    taken = len(study.get_trials(deepcopy=False)) - len(study.get_trials(deepcopy=False, states=waiting))
    if taken >= plan.trials or not turn.is_held():
        return None
    trial = study.ask()
    folder = RunFolder(trial_folder(plan.folder, trial.number))
    return (trial, folder) if claimed(plan, folder, held) else None


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]


def claimed(plan: Plan, folder: RunFolder, held: ExitStack) -> bool:
    """Lock the folder of a run in `held`; False where somebody else is at work in it."""
    if _is_hung(plan, folder):
        take_away(folder.path)
    try:
        held.enter_context(folder.lock(patience=False))
    except LockedError:
        return False
    plan.beat(folder).touch()
    return True


def _is_hung(plan: Plan, folder: RunFolder) -> bool:
    """Whether a worker has given no sign of life for long, by the clock of the file server."""
    now = plan.folder / "alive" / "now"
    now.touch()
    try:
        return now.stat().st_mtime - plan.beat(folder).stat().st_mtime > plan.hung
    except FileNotFoundError:  # nobody has begun, or in this moment
        return False


def trained(plan: Plan, config: Config, folder: RunFolder, callbacks: Sequence[Callback] = ()) -> Summary:
    """Train a run, or go on with it, without a word of its own. Raises what `session.train` does."""
    token = quiet.set(True)
    try:
        with begun(config, folder) as run:
            return train(run, callbacks=[SignOfLife(plan.beat(folder)), *callbacks])
    finally:
        quiet.reset(token)


def _run(study: optuna.Study, trial: Trial, plan: Plan, folder: RunFolder) -> bool:
    """Train a trial and tell the study how it went; False where another worker has it meanwhile."""
    try:
        config = plan.config(suggest(trial, plan.space))
        summary = trained(plan, config, folder, [Pruning(trial, plan.evaluations)])
    except Exception as error:
        if not folder.is_ours:
            return False
        if not isinstance(error, (ConfigError, *run_errors(error))):
            raise
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.FAIL)
        return True
    if not folder.is_ours:
        return False
    if (summary.stopped or "").startswith(Pruning.__name__):
        study.tell(trial, state=TrialState.PRUNED)
    elif math.isfinite(summary.score):
        study.tell(trial, summary.score)
    else:
        study.tell(trial, state=TrialState.FAIL)
    return True


def trial_folder(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:05d}"


@contextmanager
def _turn(folder: Path) -> Iterator[FolderLock]:
    """One worker at a time; one that takes long about it hangs, and has lost its turn."""
    (folder / "alive").mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(folder, _TURN)
    except LockedError:
        take_away(folder)
        lock = FolderLock(folder, _TURN)
    with lock:
        yield lock
