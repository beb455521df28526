"""Groups of environments in other processes, which fail within a bounded time and leave none behind."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import selectors
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import CloudpickleWrapper

from equipoise.envs.gymnasium_adapter.group import Exchange, Group, MakeOne, Notes
from equipoise.envs.gymnasium_adapter.guard import Contract, EnvError

GRACE = 2.0
"""Seconds that workers get to close their environments before they are killed."""
START = 10.0
"""How many times as long as for an answer it may take to make an environment: simulators start slowly."""
_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP")


def cores() -> int:
    """Of this machine that this process may use; its share, where `torchrun` has started several here."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class Workers:
    """`num_workers` processes with a `Group` each, of equal sizes up to one environment.

    Signals that ask the run to stop are the run's own business (it finishes its iteration first), so
    workers ignore them. In exchange they are killed when this object is closed, collected or fails, when
    the interpreter exits, and leave by themselves when the process that started them is gone.

    Args:
        make, contract, seed: see `Group`.
        timeout: seconds that a single environment may take for an answer; None: for ever.

    Raises:
        EnvError: an environment failed, died, or took too long; all workers are gone by then. Reports the
            environment's index and the step.
        ValueError: one could not be made; all workers are gone by then.
    """

    def __init__(
        self,
        make: MakeOne,
        contract: Contract,
        num_envs: int,
        num_workers: int,
        seed: int,
        timeout: float | None,
    ) -> None:
        self._id, self._timeout, self._owner = contract.id, timeout, os.getpid()
        self._steps = 0
        bounds = np.linspace(0, num_envs, num_workers + 1).astype(int).tolist()
        self._groups = [range(start, stop) for start, stop in pairwise(bounds)]
        # Anonymous memory, which goes with the last process that has it; nothing to be cleared up.
        self.exchange = Exchange(
            contract, num_envs, lambda size: multiprocessing.RawArray(ctypes.c_byte, size)
        )
        self.processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._ready = selectors.DefaultSelector()
        # multiprocessing ends daemons with SIGTERM at exit and waits for them: they ignore it, so be first.
        Finalize(self, _kill, args=(self.processes,), exitpriority=100)
        with self._ending_all_on_failure():
            for worker, indices in enumerate(self._groups):
                self._start((_pickled(make), contract, num_envs, indices, seed), worker)
            self._answers("start")

    def reset(self, seeds: Sequence[int | None]) -> Notes:
        return self._joined("reset", [(seeds[group.start : group.stop],) for group in self._groups])

    def step(self) -> Notes:
        self.begin_step()
        return self.end_step()

    def begin_step(self) -> None:
        self._steps += 1
        with self._ending_all_on_failure():
            self._ask("step", [()] * len(self._groups))

    def end_step(self) -> Notes:
        with self._ending_all_on_failure():
            return [note for notes in self._answers("step") for note in notes]

    def snapshots(self) -> list[dict[str, Any] | str]:
        return self._joined("snapshots", [()] * len(self._groups))

    def restore(self, states: Sequence[Mapping[str, Any]]) -> list[str | None]:
        return self._joined("restore", [(states[group.start : group.stop],) for group in self._groups])

    def render(self, index: int) -> Any:
        asked = [(index,) if index in group else None for group in self._groups]
        with self._ending_all_on_failure():
            self._ask("render", asked)
            return self._answers("render", [w for w, arguments in enumerate(asked) if arguments])[0]

    def close(self, terminate: bool = False) -> None:
        """Raises EnvError where an environment fails in it, after all is done."""
        if os.getpid() != self._owner:
            return  # a fork that inherited this object must not end its siblings
        if not terminate:
            for pipe in self._pipes:
                with contextlib.suppress(OSError):  # it is gone already
                    pipe.send(("close", ()))
            deadline = time.monotonic() + GRACE
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
        _kill(self.processes)
        failed = [] if terminate else [said for pipe in self._pipes for said in _failures(pipe)]
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()
        self._ready.close()
        if failed:
            raise EnvError(failed[0])

    def _start(self, arguments: tuple[Any, ...], worker: int) -> None:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(
            target=_work,
            args=(theirs, self._owner, self.exchange.buffer, *arguments),
            name=f"environments {self._groups[worker].start}-{self._groups[worker].stop - 1}",
            daemon=True,
        )
        self.exchange.since[self._groups[worker]] = time.monotonic()
        process.start()
        theirs.close()
        self.processes.append(process)
        self._pipes.append(ours)
        self._ready.register(ours, selectors.EVENT_READ, worker)

    def _joined(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._ending_all_on_failure():
            self._ask(name, arguments)
            return [item for answer in self._answers(name) for item in answer]

    def _ask(self, name: str, arguments: Sequence[tuple[Any, ...] | None]) -> None:
        if not self._pipes:
            raise EnvError(f"{self._id}: its processes have ended")
        self.exchange.since[:] = time.monotonic()
        for worker, (pipe, given) in enumerate(zip(self._pipes, arguments, strict=True)):
            if given is not None:
                with self._naming_the_dead(worker, name):
                    pipe.send((name, given))

    def _answers(self, doing: str, workers: Sequence[int] | None = None) -> list[Any]:
        """Of all workers, or of some, in order."""
        wanted = range(len(self._pipes)) if workers is None else workers
        found: dict[int, Any] = {}
        while len(found) < len(wanted):
            for key, _ in self._ready.select(self._patience([w for w in wanted if w not in found], doing)):
                with self._naming_the_dead(key.data, doing):
                    error, found[key.data] = self._pipes[key.data].recv()
                if error is not None:
                    raise error(found[key.data])
        return [found[worker] for worker in wanted]

    def _patience(self, silent: Sequence[int], doing: str) -> float | None:
        """Seconds until the first of these workers has been at one environment for too long."""
        if self._timeout is None:
            return None
        newest = {max(self._groups[worker], key=self.exchange.since.__getitem__): worker for worker in silent}
        limit = self._timeout * (START if doing == "start" else 1.0)
        left = {index: float(self.exchange.since[index]) + limit - time.monotonic() for index in newest}
        if late := [index for index, seconds in left.items() if seconds <= 0]:
            raise EnvError(
                f"{self._id}: environment {_listed(sorted(late))}, step {self._steps}: no answer to {doing} "
                f"within {limit} s"
            )
        return max(min(left.values()), 0.0)

    @contextlib.contextmanager
    def _naming_the_dead(self, worker: int, doing: str) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            process, group = self.processes[worker], self._groups[worker]
            wait([process.sentinel], GRACE)  # its pipes close a moment before its exit code is there
            process.join(GRACE)
            index = max(group, key=self.exchange.since.__getitem__)
            raise EnvError(
                f"{self._id}: environment {index}, step {self._steps}: its process died in {doing}, "
                f"exit code {process.exitcode}"
            ) from error

    @contextlib.contextmanager
    def _ending_all_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close(terminate=True)
            raise


def _work(
    pipe: Connection,
    owner: int,
    buffer: Any,
    make: Any,
    contract: Contract,
    num_envs: int,
    indices: range,
    seed: int,
) -> None:
    """What a worker does until it is told to close, or its pipe is."""
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)  # the parent's OpenMP pool does not survive a fork
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    exchange = Exchange(contract, num_envs, buffer)
    try:
        group = Group(make.fn, contract, indices, seed, exchange)
        pipe.send((None, None))
        while True:
            name, arguments = pipe.recv()
            if name == "close":
                group.close()
                return
            pipe.send((None, getattr(group, name)(*arguments)))
    except (EOFError, BrokenPipeError):
        return
    except (EnvError, ValueError) as error:
        pipe.send((type(error) if type(error) is ValueError else EnvError, str(error)))
    except BaseException as error:  # of an environment's close, say
        pipe.send(
            (EnvError, f"{contract.id}: environment {_listed(indices)}: {type(error).__name__}: {error}")
        )


def _failures(pipe: Connection) -> Iterator[str]:
    """What a worker that has ended had to say that went wrong."""
    with contextlib.suppress(EOFError, OSError):
        while pipe.poll():
            error, said = pipe.recv()
            if error is not None:
                yield said


def _pickled(make: MakeOne) -> Any:
    """With what pickle does not know, functions of functions say: processes may be started afresh."""
    return CloudpickleWrapper(make)  # type: ignore[arg-type]  # Gymnasium means one without arguments


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
