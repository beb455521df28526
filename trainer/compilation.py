"""`trainer.compile`: whole updates and steps of the rollout, as PyTorch's compiler makes them.

Code need not know that it is compiled. PyTorch guards on Python's state (attributes, numbers) and compiles
again when it has changed; what it cannot trace it refuses, and that part runs uncompiled.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

Result = TypeVar("Result")
Setting = Literal["none", "default", "cudagraphs"]

EAGER_CALLS = 2
"""Before anything is compiled: environments and stages set themselves up in their first calls."""


class Compiled(Generic[Result]):
    """A function compiled by PyTorch, or called as it is where that is not possible.

    Args:
        setting: of `trainer.compile`; `none`: every call is an ordinary one.
        what: name of what is compiled, for messages.
        function: takes tensors and numbers, and may keep state in the attributes of objects. An argument
            named `update` may be a different number in each call.
        device: where all tensors live.
        otherwise: called instead if `function` cannot be compiled; None: `function` itself.
        obstacle: why it cannot be compiled, if that is known in advance.
    """

    def __init__(
        self,
        setting: Setting,
        what: str,
        function: Callable[..., Result],
        device: torch.device,
        otherwise: Callable[..., Result] | None = None,
        obstacle: str | None = None,
    ) -> None:
        self.setting, self.what = setting, what
        self.notice: str | None = None
        """Why it is not, or is no longer, compiled; None: nothing is wrong."""
        self.seconds = 0.0
        """Time spent compiling so far."""
        self._function = self._compiled = function
        self._otherwise = otherwise or function
        self.call = function if setting == "none" else self._call
        """Calls the function."""
        self._calls = 0
        self._is_new = False
        """Whether the latest call has compiled something."""
        self.told: tuple[float, str | None] = (0.0, None)
        """Seconds and notice that `news` has told."""
        if setting == "none":
            return
        self.notice = _obstacle(setting, device) or obstacle
        if self.notice is None:
            # What cannot be traced is told by `notice`.
            warnings.filterwarnings("ignore", module=r"torch\._dynamo")
            how: dict[str, Any] = {
                "options": {"guard_filter_fn": _worth_asking},
                "isolate_recompiles": True,  # of those of other runs in the same process
            }
            self._compiled = torch.compile(function, fullgraph=True, backend=self._compile, **how)

    def _call(self, *inputs: Any) -> Result:
        if self.notice is not None:
            return self._otherwise(*inputs)
        self._calls += 1
        if self._calls <= EAGER_CALLS:
            return self._function(*inputs)
        return self._call_compiled(*inputs)

    def _call_compiled(self, *inputs: Any) -> Result:
        began = time.perf_counter()
        try:
            with _permissions() if torch.is_grad_enabled() else nullcontext():
                result = self._compiled(*inputs)
        except Exception as error:  # whatever the compiler has against a stage or an environment
            self._fail(error)
            return self._otherwise(*inputs)
        if self._is_new:
            self.seconds += time.perf_counter() - began
            self._is_new = False
        return result

    def _compile(self, module: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Compile what PyTorch has traced to machine code."""
        from torch._inductor import compile as inductor  # takes seconds to import

        self._is_new, cudagraphs = True, self.setting == "cudagraphs"
        run: Callable[..., Any] = inductor(
            module, inputs, {"fallback_random": True, "triton.cudagraphs": cudagraphs}
        )
        if not cudagraphs:
            return run
        # A CUDA graph writes over what it gave at the last call, and some of that lasts.
        return lambda *given: [each.clone() if isinstance(each, Tensor) else each for each in run(*given)]

    def _fail(self, error: Exception) -> None:
        error = getattr(error, "inner_exception", error)  # what failed within the compiler
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
        # A C++ compiler's own words come after its command line and the names of its files.
        said = [line.partition("error: ")[2] for line in lines if " error: " in line]
        # The innermost place in the code that was being compiled comes last.
        places = [line for line in lines if line.startswith("File ")]
        self.notice = ": ".join([type(error).__name__, lines[0], *said[:1], *places[-1:]])

    def __str__(self) -> str:
        if self.notice is not None:
            return f"{self.what}: not compiled: {self.notice}"
        return f"compiled {self.what} in {self.seconds:.1f} s"


def compiling(*parts: Compiled[Any]) -> list[Compiled[Any]]:
    """Those that are to be compiled."""
    return [part for part in parts if part.setting != "none"]


def news(parts: Sequence[Compiled[Any]]) -> list[str]:
    """Lines for the terminal on what has changed since the last call, one for all parts with one reason."""
    lines: dict[str, list[str]] = {}
    for part in parts:
        told, part.told = part.told, (part.seconds, part.notice)
        if told != part.told:
            lines.setdefault(part.notice or str(part), []).append(part.what)
    return [
        f"WARNING: trainer.compile = {parts[0].setting}: {', '.join(whats)}: not compiled: {line}"
        if any(line == part.notice for part in parts)
        else line
        for line, whats in lines.items()
    ]


def _obstacle(setting: Setting, device: torch.device) -> str | None:
    if setting == "cudagraphs" and device.type != "cuda":
        return f"the run is on the device {device}, and CUDA graphs need cuda"
    if torch.__version__ < "2.13":
        return f"PyTorch {torch.__version__} cannot compile an update, 2.13 can"
    return None


_SETTLED = re.compile(r"G\['(__import_)?(torch|equipoise)(_dot_\w+)?'\]")
"""In the compiler's words: what lies in the modules of PyTorch and of this package."""


def _worth_asking(guards: Sequence[Any]) -> list[bool]:
    """Which guards to check before each call: all but those on functions, classes and constants that never
    change, which would take a tenth of a small update."""
    return [not _SETTLED.search(guard.name) for guard in guards]


@contextmanager
def _permissions() -> Iterator[None]:
    """Let `autograd.grad` be traced, and take an argument `update` as a number that differs between calls."""
    import torch._dynamo.config as dynamo  # takes seconds, which most runs need not wait for
    import torch.compiler.config as compiler

    before = dynamo.trace_autograd_ops, compiler.dynamic_sources
    dynamo.trace_autograd_ops, compiler.dynamic_sources = True, "L['update']"
    try:
        yield
    finally:
        dynamo.trace_autograd_ops, compiler.dynamic_sources = before
