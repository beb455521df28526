"""The few collective operations that training needs; without a process group each is the identity.

`torchrun` starts the processes and tells each its place by environment variables. Everything here must be
called by all of them, in the same order.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(days=1)
"""How long one process waits for another that lives: the first one evaluates while the others wait. One that
dies is noticed at once, by its closed connections."""
JOINING = timedelta(minutes=5)
"""How long the processes wait for each other to be there; `torchrun` starts them together."""
GRACE = timedelta(seconds=20)
"""How long the others stay for the first one to write its files: when one ends, `torchrun` ends the rest."""


class ProcessLostError(RuntimeError):
    """Another process of the run has ended."""


class ElsewhereError(RuntimeError):
    """Another process of the run met an error; the message is that one's."""


@contextmanager
def processes(cuda: bool) -> Iterator[None]:
    """Join the processes that `torchrun` started, by NCCL for CUDA tensors and gloo for all else.

    With a single process nothing happens. Raises `ProcessLostError` where the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        store, rank, size = next(rendezvous("env://", timeout=JOINING))
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    except (RuntimeError, ValueError, OSError) as error:
        raise ProcessLostError(f"cannot join the other processes of the run: {error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # whoever keeps the store may be gone
            if rank == 0:
                store.set("ended", "")
            else:
                store.wait(["ended"], GRACE)
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all processes."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes."""
    return tensor if world_size() == 1 else all_reduce_sum(tensor) / world_size()


def all_reduce_means(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The mean of each over all processes, in one operation: what counts is how often, not how much."""
    if world_size() == 1 or not tensors:
        return tensors
    return all_reduce_mean(torch.stack(list(tensors))).unbind()


def all_reduce_max(tensor: Tensor) -> Tensor:
    """The elementwise maximum of `tensor` over all processes."""
    return _reduced(tensor, dist.ReduceOp.MAX)


def broadcast(tensor: Tensor) -> None:
    """Overwrite `tensor` with that of the first process."""
    if world_size() > 1:
        with _lost_if_it_fails():
            dist.broadcast(tensor, 0)


def all_gather(thing: T) -> list[T]:
    """What each process has, in their order; any object, by way of the host."""
    if world_size() == 1:
        return [thing]
    things: list[T] = [thing] * world_size()
    with _lost_if_it_fails():
        dist.all_gather_object(things, thing)
    return things


def all_reduce_sums(named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The sum of each over all processes, of which not every one need have each. All of one shape."""
    if world_size() == 1:
        return named
    device = next((tensor.device for tensor in named.values()), None)
    sums: dict[str, Tensor] = {}
    for part in all_gather({name: tensor.cpu() for name, tensor in named.items()}):
        for name, tensor in part.items():
            sums[name] = sums[name] + tensor if name in sums else tensor
    return {name: tensor.to(device) for name, tensor in sums.items()}


@contextmanager
def failing_together() -> Iterator[None]:
    """Around what may fail in one process alone, and holds no collective operation: the others would wait.

    Raises `ElsewhereError` where all went well here and not in another process.
    """
    if world_size() == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        all_gather(f"{type(error).__name__}: {error}")
        raise
    for process, message in enumerate(all_gather("")):
        if message:
            raise ElsewhereError(f"process {process} of {world_size()}: {message}")


def _reduced(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return tensor
    tensor = tensor.clone()
    with _lost_if_it_fails():
        dist.all_reduce(tensor, operation)
    return tensor


@contextmanager
def _lost_if_it_fails() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLostError(
            "another process of the run has ended; what it said last tells why. Resume with as many "
            f"processes as before. (Here: {error})"
        ) from error
