"""Graphs that PyTorch's compiler makes into a few kernels, of work that is the same every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from trainer.compiling import several_processes
from trainer.tape import TapeError, recording

Result = TypeVar("Result")


def obstacle(device: torch.device) -> str | None:
    """What stands in the way on `device`, in words."""
    return several_processes()


def record(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Runs it twice, which leaves only its result behind. Raises whatever the compiler has against it.

    Twice, because a graph would do for ever what happened to be done the first time: with a number that
    Python drew or counted, or an array of NumPy's.
    """
    with recording() as tape:
        result = function()
    with recording() as again:
        function()
    if difference := tape.difference(again):
        raise TapeError(f"does not do the same twice: {difference}")
    graph = tape.graph(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
    run = _compiled(graph, tape.inputs)

    def replay() -> None:
        with torch.inference_mode(False), torch.no_grad():
            run(*tape.inputs)
        with torch.inference_mode():
            for operation in tape.aside:
                operation.again()

    return result, replay


def _compiled(graph: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    # Seconds to import, which most runs need not wait for.
    from torch._guards import TracingContext, tracing
    from torch._inductor import compile as inductor
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Without a place for sizes that are not known, though there are none, nothing is kept for the next run.
    sizes = FakeTensorMode(shape_env=ShapeEnv())
    with torch.inference_mode(False), torch.no_grad(), tracing(TracingContext(sizes)):
        # Asking for sizes at each call takes as long as a small kernel, and the inputs are always these.
        run: Callable[..., Any] = inductor(graph, inputs, {"size_asserts": False})
    return run
