"""Graphs that PyTorch's compiler makes into a few kernels, of work that is the same every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_leaves

from trainer.compiling import several_processes
from trainer.tape import recording

Result = TypeVar("Result")


def obstacle(device: torch.device) -> str | None:
    """What stands in the way on `device`, in words."""
    return several_processes()


def record(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Runs it once, which leaves only its result behind. Raises whatever the compiler has against it."""
    from torch._inductor import compile as inductor  # a second, which most runs need not wait

    with recording() as tape:
        result = function()
    graph = tape.graph(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
    inputs: list[Any] = tape.inputs
    with torch.inference_mode(False), torch.no_grad():
        # Asking for their sizes each time takes as long as a small kernel, and the inputs are always these.
        run = inductor(graph, inputs, {"size_asserts": False})

    def replay() -> None:
        with torch.inference_mode(False), torch.no_grad():
            run(*inputs)
        with torch.inference_mode():
            for operation in tape.aside:
                operation.again()

    return result, replay
