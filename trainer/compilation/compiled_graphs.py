"""Graphs that PyTorch's compiler makes into a few kernels, of work that is the same every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from equipoise.trainer.compilation.compiling import DifferenceError, several_processes
from equipoise.trainer.compilation.tape import Tape, TapeError, recording, tensors_in, write

Result = TypeVar("Result")

CHECKED_CALLS = 3
"""Of each graph, against ordinary calls."""
TIES = 0.25
"""Share of a tensor's entries that may hang on rounding."""


def obstacle(device: torch.device) -> str | None:
    """What stands in the way on `device`, in words."""
    return several_processes()


def record(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """Runs it twice, which leaves only its result behind. Raises whatever the compiler has against it.

    Twice, because a graph would do for ever what happened to be done the first time: with a number that
    Python drew or counted, or an array of NumPy's. For the same reason the first replays are checked against
    the function, and raise `DifferenceError`.
    """
    with recording() as tape:
        result = function()
    with recording() as again:
        function()
    if difference := tape.difference(again):
        raise TapeError(f"does not do the same twice: {difference}")
    results = tensors_in(result)
    graph = _compiled(tape, results)
    places = [*tape.written(), *results]
    unchecked = CHECKED_CALLS

    def replay() -> None:
        nonlocal unchecked
        if not unchecked:
            graph()
            return
        unchecked -= 1
        before = [place.clone() for place in places]
        graph()
        mine = [place.clone() for place in places]
        write(zip(places, before, strict=True))
        truth = function()
        given = tensors_in(truth)
        theirs = [*(place.clone() for place in tape.written()), *given]
        write(zip(results, given, strict=True))
        for one, other in zip(mine, theirs, strict=True):
            if not _alike(one, other):
                raise DifferenceError(
                    f"what was compiled gave {_shown(one)} instead of {_shown(other)}", truth
                )

    return result, replay


def _compiled(tape: Tape, results: Sequence[Tensor]) -> Callable[[], None]:
    """Does what is on the tape."""
    run = _by_inductor(tape.graph(results), tape.inputs)

    def graph() -> None:
        with torch.inference_mode(False), torch.no_grad():
            run(*tape.inputs)
        with torch.inference_mode():
            for operation in tape.aside:
                operation.again()

    return graph


def _shown(tensor: Tensor) -> str:
    numbers = ", ".join(f"{number:.4g}" for number in tensor.flatten()[:4].tolist())
    return f"[{numbers}, …]" if tensor.numel() > 4 else numbers


@torch.inference_mode()
def _alike(mine: Tensor, theirs: Tensor) -> bool:
    """Most of it, up to rounding: where something hangs on a tie, or Adam makes a step of a gradient that is
    nothing but rounding, single entries may differ."""
    if not mine.numel():
        return True
    mine, theirs = (
        tensor.double().nan_to_num(nan=-1e50, posinf=1e100, neginf=-1e100) for tensor in (mine, theirs)
    )
    size = theirs.square().mean().sqrt() if theirs.numel() > 1 else 1.0
    wrong = (mine - theirs).abs() > 1e-2 * theirs.abs() + 1e-3 * size
    return float(wrong.double().mean()) <= TIES


def _by_inductor(graph: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
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
