"""Calls a run's callbacks, agrees with the other processes on stopping, and reports what fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from equipoise.trainer.callbacks.callback import Callback
from equipoise.trainer.exchange import ChangingEnvironment
from equipoise.trainer.system import distributed
from equipoise.trainer.system.checkpoint import plain

if TYPE_CHECKING:
    from equipoise.trainer.loop import Trainer
    from equipoise.trainer.monitor.summary import Summary


class CallbackError(RuntimeError):
    """A callback raised an error; the message says which one, where and what."""


class Callbacks:
    """The callbacks of a run, in their order.

    Args:
        callbacks: objects with some of the methods of `callbacks.Callback`.
        environment: what a callback can change of the training environment.
    """

    def __init__(self, callbacks: Sequence[Any], environment: ChangingEnvironment) -> None:
        self.environment = environment
        names = [type(callback).__qualname__ for callback in callbacks]
        numbered = [f"{name}-{names[:i].count(name) + 1}" for i, name in enumerate(names)]
        self._named = {name.removesuffix("-1"): each for name, each in zip(numbered, callbacks, strict=True)}
        self._notices: list[str] = []
        self.stopped: str | None = None
        """Which callback ended the run, and why."""

    def start(self, run: Trainer) -> None:
        """Called before the first iteration of a session. Raises `CallbackError`."""
        for notice in self._notices:
            run.recorder.message(f"resume: {notice}")
        for name, callback in self._named.items():
            if not run.settings.eval_every and _waits_for_evaluations(callback):
                run.recorder.message(
                    f"WARNING: {name}: trainer.eval_every = 0 makes no evaluation for it to see"
                )
        with distributed.failing_together():
            said = [(name, self._call(name, "on_start", run)) for name in self._named]
            plain(self.state_dict(), "state")  # hours later there would be no checkpoint
        self._agree(run, said)

    def after(self, run: Trainer, metrics: Mapping[str, float], best: bool = False) -> None:
        """Called after an iteration, with its metrics; `best`: its policy is the best so far.

        Raises `CallbackError`.
        """
        if not self._named:
            return
        # The first process alone evaluates, and each has its own clock; they must decide alike.
        counted = {"iteration": float(run.iteration), "env_steps": float(run.env_steps), **metrics}
        line = MappingProxyType(distributed.all_gather(counted)[0])
        hooks = ["on_iteration"]
        if any(tag.startswith("evaluation/") for tag in line):
            hooks.append("on_evaluation")
        with _saved(run, best), distributed.failing_together():
            said = [(name, self._call(name, hook, line)) for hook in hooks for name in self._named]
        self._agree(run, said)

    def _agree(self, run: Trainer, said: Iterable[tuple[str, str | None]]) -> None:
        """One process that wants to stop, by its clock say, stops all of them."""
        reasons = [f"{name}: {reason}" for name, reason in said if reason is not None]
        found = [reason for several in distributed.all_gather(reasons) for reason in several]
        if found:
            self.stopped = found[0]
            run.recorder.message(f"stopping early: {self.stopped}")

    def end(self, run: Trainer, summary: Summary) -> None:
        """Called once everything is saved: what fails now is reported and not raised."""
        for name in self._named:
            try:
                self._call(name, "on_end", summary)
            except CallbackError as error:
                run.recorder.message(f"WARNING: {error}; the run itself has ended well and is saved")

    def _call(self, name: str, hook: str, argument: Any) -> str | None:
        method = getattr(self._named[name], hook, None)
        if method is None:
            return None
        with _worded(name, hook):
            reason = method(argument)
            if reason is None or isinstance(reason, str):
                return reason
            raise TypeError(
                f"it returned {reason!r}; a reason to stop the run is text, anything else is None"
            )

    def state_dict(self) -> dict[str, Any]:
        """Raises `CallbackError`."""
        states = {}
        for name, callback in self._named.items():
            if hasattr(callback, "state_dict"):
                with _worded(name, "state_dict"):
                    states[name] = plain(callback.state_dict(), "the state")
        return {
            "names": list(self._named),
            "states": states,
            "stopped": self.stopped,
            "environment": self.environment.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None, unchanged: bool = True) -> None:
        """Restore `state`; None: the run had no callbacks.

        `unchanged`: the configuration still names the same callbacks, so a run that one of them stopped stays
        stopped.
        """
        if state is None:
            return
        self.environment.load_state_dict(state["environment"])
        if state["stopped"] and unchanged and state["names"] == list(self._named):
            self.stopped = state["stopped"]
            self._notices.append(f"stopped early: {self.stopped}; with other callbacks it would go on")
        for name, own in state["states"].items():
            if name not in self._named:
                self._notices.append(f"the run goes on without its callback {name}")
            elif hasattr(self._named[name], "load_state_dict"):
                with _worded(name, "load_state_dict"):
                    self._named[name].load_state_dict(own)


def _waits_for_evaluations(callback: Any) -> bool:
    method = getattr(type(callback), "on_evaluation", None)
    return method is not None and method is not Callback.on_evaluation


@contextmanager
def _worded(name: str, hook: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:  # user code: may raise anything
        raise CallbackError(f"callback {name}: {hook} raised {type(error).__name__}: {error}") from error


@contextmanager
def _saved(run: Trainer, best: bool) -> Iterator[None]:
    """Save the state of training, and the best policy, if a callback fails, in this process or another."""
    try:
        yield
    except (CallbackError, distributed.ElsewhereError):
        with suppress(CallbackError):  # its state may be what fails
            run.recorder.save(run.state_dict(), last=True, best=best)
        raise
