"""Graphs: work that is the same every time is recorded once and repeated as a whole from then on.

`trainer.compile` says what with: `default` has it compiled, `cudagraphs` launches it on a GPU. Either way a
graph reads and writes the same addresses for ever, and what Python does is done once, while it is recorded.
So that stages and environments need not know:

- inputs are copied into tensors of the graph's own;
- a tensor that is replaced (`self._ema = …`) is written back, within the graph, to one place of its own;
- whoever keeps something else that changes, a Python number say, is refused with the reason, and the work
  goes on as it did without a graph;
- what is compiled is recorded twice and checked against ordinary calls at first.

A *slot* is an attribute and what is in it; what is replaced there has a *home*, memory of its own. The life
of a graph: two ordinary calls show what is replaced (`_watched`), which gets its home (`_settle`); one call
is recorded (`_recorded`); from then on a call writes home what somebody else may have put in a slot, copies
the inputs, and replays, at whose end what was replaced is written home (`_put_back`, both times).

What cannot be seen: what begins to change later, outside of the owners' attributes (in NumPy, in a closure,
in another object's `__slots__`), and what Python objects have been through in a recording that failed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import gymnasium
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from equipoise.trainer.compilation import compiled_graphs, cuda_graphs
from equipoise.trainer.compilation.compiling import Compiling, DifferenceError
from equipoise.trainer.compilation.tape import tensors_in, write

Result = TypeVar("Result")
Replay = Callable[[], None]

Kind = Literal["default", "cudagraphs"]
RECORDERS = {"default": compiled_graphs, "cudagraphs": cuda_graphs}

EAGER_CALLS = 2
"""Of each kind before it is recorded: libraries and optimizers set themselves up in their first calls."""

_OPAQUE = (Tensor, nn.Module, torch.optim.Optimizer, torch.Generator, gymnasium.Space, type, ModuleType)
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, partial)
_PLAIN = (int, float, str)
_GONE = object()


class ChangeError(RuntimeError):
    """Something changes that a graph would not change again."""


class Slot(NamedTuple):
    """An attribute and what was in it."""

    owner: object
    name: str
    value: Any
    content: list[Any] | None
    """Of a list, dictionary, set or deque: what was in that."""

    @property
    def now(self) -> Any:
        return vars(self.owner).get(self.name, _GONE)

    @property
    def changed_inside(self) -> bool:
        now = _content(self.now)
        if self.now is not self.value or now is None or self.content is None:
            return False
        return len(now) != len(self.content) or any(
            a is not b for a, b in zip(now, self.content, strict=True)
        )

    def restore(self) -> None:
        if self.now is not self.value:
            setattr(self.owner, self.name, self.value)
        if self.changed_inside and self.content is not None:
            self.value.clear()
            if isinstance(self.value, dict):
                self.value.update(zip(self.content[::2], self.content[1::2], strict=True))
            else:
                getattr(self.value, "update" if isinstance(self.value, set) else "extend")(self.content)

    @property
    def place(self) -> tuple[int, str]:
        return id(self.owner), self.name

    def __str__(self) -> str:
        return f"{type(self.owner).__name__}.{self.name}"


class _Graph(NamedTuple, Generic[Result]):
    replay: Replay
    inputs: Sequence[Tensor]
    slots: Sequence[Slot]
    result: Result


class Graphed(Generic[Result]):
    """A function whose calls become graphs, one for each `key`; the first calls of each are as usual.

    A result's tensors belong to the graph: the next call writes over them.

    Args:
        kind: of graph.
        what: is recorded, for messages.
        function: of tensors, nested in tuples or not, always of the same shapes.
        owners: objects with state that lasts from one call to the next, in their attributes, or in those of
            what they are made of.
        device: that everything lies on.
        obstacle: why nothing can be recorded, if that is known: every call is as usual.
    """

    def __init__(
        self,
        kind: Kind,
        what: str,
        function: Callable[..., Result],
        owners: Iterable[object],
        device: torch.device,
        obstacle: str | None = None,
    ) -> None:
        self._recorder = RECORDERS[kind]
        self._function = function
        self._owners = list(owners)
        for owner in self._owners:
            if not hasattr(owner, "__dict__"):
                obstacle = f"{type(owner).__name__} has no __dict__ in which to see what changes"
        self.compiling = Compiling(kind, what, self._recorder.obstacle(device) or obstacle)
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, _Graph[Result]] = {}
        self._replaced: set[tuple[int, str]] = set()
        """The places of what the function replaces."""
        self._homes: dict[tuple[int, str], Any] = {}
        """What lies there for all graphs, in memory that nobody else has a part in."""

    def __call__(self, key: Hashable, *inputs: Any) -> Result:
        if self.compiling.notice is not None:
            return self._function(*inputs)
        if key not in self._graphs:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= EAGER_CALLS:
                return self._watched(inputs)
            began = time.perf_counter()
            try:
                self._graphs[key] = self._recorded(inputs)
            except Exception as error:  # whatever an operation, a stage or an environment has against it
                self.compiling.fail(error)
                return self._function(*inputs)
            self.compiling.took(time.perf_counter() - began)
        graph = self._graphs[key]
        try:
            _put_back(graph.slots)  # somebody else may have put something there, a checkpoint's state say
        except ChangeError as error:
            self.compiling.fail(error)
            return self._function(*inputs)
        write(zip(graph.inputs, tensors_in(inputs), strict=True))
        try:
            graph.replay()
        except DifferenceError as error:
            self.compiling.fail(error)
            result: Result = error.result
            return result
        return graph.result

    def forget(self) -> None:
        """Record anew: something outside of the owners, an optimizer's state say, lies elsewhere now."""
        self._graphs.clear()
        self._calls.clear()

    def _watched(self, inputs: Sequence[Any]) -> Result:
        """An ordinary call, which shows what is replaced."""
        slots = list(_slots(self._owners, set()))
        result = self._function(*inputs)
        self._replaced |= {slot.place for slot in slots if slot.now is not slot.value}
        return result

    def _settle(self) -> None:
        """Give what is replaced a home: where it lies now may be a constant of its owner's, say."""
        slots = [slot for slot in _slots(self._owners, set()) if slot.place in self._replaced]
        tenants: dict[int, Slot] = {}
        for slot in slots:
            for tensor in tensors_in(slot.value):
                other = tenants.setdefault(_memory(tensor), slot)
                if other is not slot and tensor.numel():  # each would get a copy, and no longer see the other
                    raise ChangeError(f"{slot} and {other} lie in the same memory")
        for slot in slots:
            if not tensors_in(slot.value):
                continue
            home = self._homes.get(slot.place)
            if home is None or _form(home) != _form(slot.value):
                home = self._homes[slot.place] = _copied(slot.value)
            write(zip(tensors_in(home), tensors_in(slot.value), strict=True))
            setattr(slot.owner, slot.name, home)

    def _recorded(self, inputs: Sequence[Any]) -> _Graph[Result]:
        own = _copied(inputs)
        self._settle()
        slots = list(_slots(self._owners, set()))
        lasting = {_memory(tensor) for slot in slots for tensor in tensors_in(slot.value)}

        def once() -> Result:
            result: Result = tree_map(partial(_kept, lasting=lasting), self._function(*own))
            _put_back(slots)
            return result

        try:
            result, replay = self._recorder.record(once)
        except Exception:
            for slot in slots:
                slot.restore()
            raise
        kept = [slot for slot in slots if tensors_in(slot.value) or isinstance(slot.value, _PLAIN)]
        return _Graph(replay, tensors_in(own), kept, result)


def _slots(owners: Iterable[object], seen: set[int]) -> Iterator[Slot]:
    for owner in owners:
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for name, value in list(vars(owner).items()):
            yield Slot(owner, name, value, _content(value))
            if hasattr(value, "__dict__") and not isinstance(value, (*_OPAQUE, *_FUNCTIONS)):
                yield from _slots([value], seen)


def _content(value: Any) -> list[Any] | None:
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    return list(value) if isinstance(value, list | set | deque) else None


def _kept(leaf: Any, lasting: set[int]) -> Any:
    """A result, or a copy: of what lies where state is about to be written, and of what cannot be written to
    because several of its entries lie in one place."""
    if isinstance(leaf, Tensor) and (_memory(leaf) in lasting or 0 in leaf.stride()):
        return leaf.clone()
    return leaf


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _put_back(slots: Sequence[Slot]) -> None:
    """Write what was replaced to where it was before. Raises `ChangeError` for what is not in tensors."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for slot in slots:
        now = slot.now
        if now is slot.value and slot.content is None:
            continue
        if slot.changed_inside:
            raise ChangeError(f"{slot} changes inside: {slot.value!r:.60}")
        if now is slot.value or (isinstance(slot.value, _PLAIN) and now == slot.value):
            continue
        before, after = tensors_in(slot.value), tensors_in(now)
        if not before or _form(slot.value) != _form(now):
            raise ChangeError(f"{slot} changes, and not in tensors that stay alike: {slot.value!r:.60}")
        pairs += [(old, new) for old, new in zip(before, after, strict=True) if old is not new]
        setattr(slot.owner, slot.name, slot.value)
    # What is to be written may lie where something else is written to.
    homes = {_memory(old) for old, _ in pairs}
    sources = [new.clone() if _memory(new) in homes else new for _, new in pairs]
    write(zip((old for old, _ in pairs), sources, strict=True))


def _form(value: Any) -> tuple[Any, ...]:
    """What two values have in common that differ in nothing but the numbers in their tensors."""
    leaves, nesting = tree_flatten(value)
    return nesting, *map(_likeness, leaves)


def _likeness(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device
    return leaf if isinstance(leaf, _PLAIN) else id(leaf)


def _copied(value: Any) -> Any:
    """The same nesting, with copies of the tensors."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)
