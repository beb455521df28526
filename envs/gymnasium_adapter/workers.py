"""Gymnasium's subprocess environments, made to fail within a bounded time and to leave no process behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

import gymnasium
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from equipoise.envs.gymnasium_adapter.guard import EnvError

GRACE = 2.0
"""Seconds that workers get to close their environments before they are killed."""

if TYPE_CHECKING:
    _Base = AsyncVectorEnv[Any, Any]
else:
    _Base = AsyncVectorEnv  # not generic at run time in older versions of Gymnasium


class Workers(_Base):
    """One process per environment.

    Signals that ask the run to stop are the run's own business (it finishes its iteration first), so
    workers ignore them. In exchange they are killed when this object is closed, collected or fails, when
    the interpreter exits, and leave by themselves when the process that started them is gone.

    Raises:
        EnvError: an environment failed, died, or took longer than `timeout` seconds; all workers are gone
            by then. Reports the worker's index and the step.
    """

    def __init__(
        self, id: str, make: Sequence[Callable[[], gymnasium.Env[Any, Any]]], timeout: float | None
    ) -> None:
        self._id, self._timeout, self._owner = id, timeout, os.getpid()
        self._steps = 0
        with self._ending_all_on_failure("start"):
            super().__init__(
                [_in_worker(one, self._owner) for one in make],
                copy=False,
                autoreset_mode=AutoresetMode.SAME_STEP,
            )
        # multiprocessing ends daemons with SIGTERM at exit and waits for them: they ignore it, so be first.
        Finalize(self, _kill, args=(self.processes,), exitpriority=100)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        with self._ending_all_on_failure("reset"):
            self.reset_async(seed=seed, options=options)
            return self.reset_wait(timeout=self._timeout)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._steps += 1
        with self._ending_all_on_failure("step"):
            self.step_async(actions)
            return self.step_wait(timeout=self._timeout)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        with self._ending_all_on_failure(name):
            self.call_async(name, *args, **kwargs)
            return self.call_wait(timeout=self._timeout)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        if os.getpid() != self._owner:
            return  # a fork that inherited this object must not end its siblings
        processes: list[BaseProcess] = getattr(self, "processes", [])
        pipes = [pipe for pipe in getattr(self, "parent_pipes", []) if pipe is not None and not pipe.closed]
        if not terminate:
            for pipe in pipes:
                with contextlib.suppress(OSError):  # it is gone already
                    pipe.send(("close", None))
            deadline = time.monotonic() + (GRACE if timeout is None else timeout)
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        _kill(processes)
        for pipe in pipes:
            pipe.close()

    @contextlib.contextmanager
    def _ending_all_on_failure(self, doing: str) -> Iterator[None]:
        level = gymnasium.logger.min_level
        gymnasium.logger.min_level = gymnasium.logger.ERROR + 1  # it prints the workers' tracebacks
        try:
            yield
        except multiprocessing.TimeoutError as error:
            silent = _listed([i for i, pipe in enumerate(self.parent_pipes) if pipe and not pipe.poll()])
            self.close(terminate=True)
            raise EnvError(
                f"{self._id}: environment {silent}, step {self._steps}: no answer to {doing} within "
                f"{self._timeout} s"
            ) from error
        except (EOFError, OSError) as error:
            ended = connection.wait([process.sentinel for process in self.processes], timeout=GRACE)
            dead = [i for i, process in enumerate(self.processes) if process.sentinel in ended]
            for i in dead:
                self.processes[i].join(GRACE)  # its pipes close a moment before its exit code is there
            codes = _listed([self.processes[i].exitcode for i in dead])
            self.close(terminate=True)
            raise EnvError(
                f"{self._id}: environment {_listed(dead)}, step {self._steps}: its process died in {doing}, "
                f"exit code {codes}"
            ) from error
        except BaseException:
            self.close(terminate=True)
            raise
        finally:
            gymnasium.logger.min_level = level


def _in_worker(
    make: Callable[[], gymnasium.Env[Any, Any]], owner: int
) -> Callable[[], gymnasium.Env[Any, Any]]:
    def build() -> gymnasium.Env[Any, Any]:
        if os.getpid() != owner:  # Gymnasium also makes one in the parent, to look at its spaces
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            torch.set_num_threads(1)  # the parent's OpenMP pool does not survive a fork
            threading.Thread(target=_leave_with_parent, daemon=True).start()
        return make()

    return build


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _listed(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items)) or "unknown"
