"""A tape: operations on tensors, written down while they run, as a graph for a compiler.

It sees what PyTorch executes, backward passes too, so that whoever is recorded need not know. Tensors are
told apart by the memory that they lie in: memory that was there before is an input of the graph, however many
tensors lie in it (all parameters are views of one vector), and what is written there the graph writes there.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
_recording = False


def is_recording() -> bool:
    """A compiler is to see single operations: whoever has a quick one for several had better not use it."""
    return _recording


class TapeError(RuntimeError):
    """Something that a graph would not do again."""


class _Memory:
    """A storage, and which nodes stand for tensors that lie in it."""

    def __init__(self, tensor: Tensor, base: Node) -> None:
        # Held: nothing else gets its address.
        self.reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self.base = base
        self.dtype = tensor.dtype
        self.before: Tensor | None = None
        """Of an input that has been written to: what was in it."""
        self.views = {_geometry(tensor): base}


class _Aside(NamedTuple):
    """An operation that is repeated as it is, after the graph."""

    function: Any
    args: Sequence[Any]
    keywords: dict[str, Any]
    result: Any

    def again(self) -> None:
        result = self.function(*self.args, **self.keywords)
        for old, new in zip(tensors_in(self.result), tensors_in(result), strict=True):
            if old.data_ptr() != new.data_ptr():
                old.copy_(new)


@contextmanager
def recording() -> Iterator[Tape]:
    """Operations within run as usual, and are recorded; afterwards all memory is as it was before.

    Raises, out of what is recorded:
        TapeError: a value is looked at, random numbers are drawn, or a shape depends on values.
    """
    global _recording
    tape = Tape()
    try:
        with _NoLooking(), tape:
            _recording = True
            yield tape
    finally:
        _recording = False
        tape.forget()


class Tape(TorchDispatchMode):
    """What was recorded.

    Operations that write to lists of tensors (an optimizer's fused step), which compilers cannot do, are put
    aside, with all that comes after them and depends on them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inputs: list[Tensor] = []
        """`[n]` each: the whole of a storage that was there before, or that a result lies in."""
        self.aside: list[_Aside] = []
        self._graph = Graph()
        self._placeholders: list[Node] = []
        self._memory: dict[int, _Memory] = {}
        self._given: dict[int, Tensor] = {}
        """Storage -> the whole of it, of those that were there before."""
        self._copies: list[tuple[Node, int, Tensor]] = []
        """Of memory that was there before: the node, and which of its arguments that is."""
        self._read_aside: set[int] = set()
        self._written_aside: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        if function.namespace == "profiler":
            return function(*args, **keywords)
        _check(function, args)
        read, written = tensors_in((args, keywords)), _written(function, args, keywords)
        aside = self._belongs_aside(function, read, written)
        for tensor in read:
            if _key(tensor) not in self._written_aside:
                self._locate(tensor)
        for tensor in written:
            self._remember(tensor)
        if function is aten.lift_fresh.default:  # a constant, which is new each time: it may be written to
            function = aten.clone.default
        result = function(*args, **keywords)
        if aside:
            self.aside.append(_Aside(function, args, keywords, result))
            self._read_aside |= {_key(tensor) for tensor in read}
            self._written_aside |= {_key(tensor) for tensor in [*written, *tensors_in(result)]}
            return result
        node = self._graph.call_function(function, *tree_map(self._as_node, (args, keywords)))
        source = {aten.clone.default: 0, aten.copy_.default: 1}.get(function)
        if source is not None and _key(read[source]) in self._given:
            self._copies.append((node, source, read[source]))
        several = isinstance(result, tuple | list)
        for i, tensor in enumerate(result if several else [result]):
            if isinstance(tensor, Tensor):
                part = self._graph.call_function(operator.getitem, (node, i)) if several else node
                self._add(tensor, part)
        return result

    def forget(self) -> None:
        """Put back what recording has written to memory that was there before."""
        before = {key: self._memory[key].before for key in self._given}
        write((self._given[key], numbers) for key, numbers in before.items() if numbers is not None)

    def graph(self, results: Iterable[Tensor]) -> GraphModule:
        """A module of `inputs` that returns nothing: it writes the state, `results` and what the operations
        `aside` read to where they lie. To be asked for once, at the end."""
        wanted = [*results, *tensors_in([(each.args, each.keywords) for each in self.aside])]
        for node, place, tensor in self._copies:
            if self._memory[_key(tensor)].before is not None:
                with self._graph.inserting_before(node):
                    node.update_arg(place, _as_it_was(self._graph, node.args[place], tensor.dim()))
        homes: dict[int, Node] = {}
        for tensor in {id(tensor): tensor for tensor in wanted}.values():
            key = _key(tensor)
            if key in self._memory and key not in self._given:
                if key not in homes:
                    homes[key] = self._input(_whole(tensor))
                home = _placed(self._graph, homes[key], tensor)
                self._graph.call_function(aten.copy_.default, (home, self._node(tensor)))
        self._graph.output(())
        return GraphModule({}, self._graph)

    def written(self) -> list[Tensor]:
        """`[n]` each: memory that was there before and was written to."""
        return [whole for key, whole in self._given.items() if self._memory[key].before is not None]

    def difference(self, other: Tape) -> str | None:
        """What is not the same in the other: numbers that Python drew anew, say. None: everything is."""
        for mine, theirs in zip_longest(self._script(), other._script()):
            if mine != theirs:
                return f"{theirs or mine}"
        for mine, theirs in zip(self.inputs, other.inputs, strict=True):
            if _key(mine) != _key(theirs) and not torch.equal(*(t.view(torch.uint8) for t in (mine, theirs))):
                return f"numbers from elsewhere, {list(theirs.shape)} {theirs.dtype}"
        return None

    def _script(self) -> Iterator[str]:
        """A line for each operation, with the numbers that it was given, and the places of its tensors."""
        places: dict[Node, int] = {}
        for place, node in enumerate(self._graph.nodes):
            places[node] = place
            yield f"{node.target} {map_arg((node.args, node.kwargs), places.__getitem__)}"
        for each in self.aside:
            given = tree_leaves((each.args, each.keywords))
            yield f"{each.function} {[value for value in given if not isinstance(value, Tensor)]}"

    def _belongs_aside(self, function: Any, read: Sequence[Tensor], written: Sequence[Tensor]) -> bool:
        arguments = function._schema.arguments
        if any(_is_write(each) and isinstance(each.type, torch.ListType) for each in arguments):
            return True
        reads, writes = {_key(tensor) for tensor in read}, {_key(tensor) for tensor in written}
        return bool((reads | writes) & self._written_aside or writes & self._read_aside)

    def _locate(self, tensor: Tensor) -> _Memory:
        key = _key(tensor)
        if key not in self._memory:
            self._given[key] = whole = _whole(tensor)
            self._memory[key] = _Memory(whole, self._input(whole))
        return self._memory[key]

    def _remember(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._given and self._memory[key].before is None:
            self._memory[key].before = self._given[key].clone()

    def _as_node(self, value: Any) -> Any:
        return self._node(value) if isinstance(value, Tensor) else value

    def _node(self, tensor: Tensor) -> Node:
        memory, geometry = self._locate(tensor), _geometry(tensor)
        if geometry not in memory.views:
            if tensor.dtype != memory.dtype:
                raise TapeError(f"memory of {memory.dtype} is also seen as {tensor.dtype}")
            if _key(tensor) not in self._given:
                raise TapeError("a view was made out of the tape's sight")
            memory.views[geometry] = _placed(self._graph, memory.base, tensor)
        return memory.views[geometry]

    def _add(self, tensor: Tensor, node: Node) -> None:
        key = _key(tensor)
        if key in self._memory:
            self._memory[key].views.setdefault(_geometry(tensor), node)
        else:
            self._memory[key] = _Memory(tensor, node)

    def _input(self, whole: Tensor) -> Node:
        last = self._placeholders[-1:]
        with self._graph.inserting_after(*last) if last else self._graph.inserting_before():
            node = self._graph.placeholder(f"memory_{len(self.inputs)}")
        self._placeholders.append(node)
        self.inputs.append(whole)
        return node


class _NoLooking(TorchFunctionMode):
    """Refuses what looks at values without an operation that a tape would see."""

    LOOKS = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.tolist)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self.LOOKS:
            raise TapeError(f"{function.__name__}() looks at values, which a graph cannot")
        return function(*args, **(kwargs or {}))


def _check(function: Any, args: Any) -> None:
    by_mask = function is aten.index.Tensor and any(
        isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in args[1]
    )
    tags = function.tags
    tensors = all("Tensor" in str(result.type) for result in function._schema.returns)
    if torch.Tag.data_dependent_output in tags or not tensors:
        raise TapeError(f"{function} looks at values, which a graph cannot")
    if by_mask or (torch.Tag.dynamic_output_shape in tags and function is not aten.index.Tensor):
        raise TapeError(f"{function} gives a tensor whose shape depends on values")
    if function is aten.native_batch_norm.default:
        raise TapeError(f"{function} writes to its statistics without saying so")
    if torch.Tag.nondeterministic_seeded in tags:
        raise TapeError(f"{function} draws random numbers")


def tensors_in(value: Any) -> list[Tensor]:
    """All that are in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def write(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy the second of each pair to where the first lies."""
    with torch.inference_mode():  # whose tensors cannot be written to outside of it
        for target, source in pairs:
            if target is not source:
                target.copy_(source)


def _is_write(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _written(function: Any, args: Any, keywords: Any) -> list[Tensor]:
    arguments = function._schema.arguments
    given = dict(zip((a.name for a in arguments), args, strict=False)) | keywords
    return tensors_in([given.get(argument.name) for argument in arguments if _is_write(argument)])


def _key(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _geometry(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride()


def _whole(tensor: Tensor) -> Tensor:
    """`[n]`: all of the storage that it lies in."""
    with torch.inference_mode(False):
        return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def _placed(graph: Graph, whole: Node, tensor: Tensor) -> Node:
    """The tensor as a view of the whole storage; one that can be written to, if it has no gaps."""
    shape, stride, first = list(tensor.shape), tensor.stride(), tensor.storage_offset()
    order = sorted(range(tensor.dim()), key=lambda axis: (stride[axis], shape[axis]), reverse=True)
    within = [shape[axis] for axis in order]
    dense = torch.empty(within, device="meta").stride()
    if any(shape[axis] > 1 and stride[axis] != dense[i] for i, axis in enumerate(order)):
        return graph.call_function(aten.as_strided.default, (whole, shape, stride, first))
    part = graph.call_function(aten.slice.Tensor, (whole, 0, first, first + tensor.numel()))
    part = graph.call_function(aten.view.default, (part, within))
    back = [order.index(axis) for axis in range(tensor.dim())]
    return graph.call_function(aten.permute.default, (part, back))


def _as_it_was(graph: Graph, node: Any, dimensions: int) -> Node:
    """The same numbers. PyTorch's compiler (2.13) takes mere copies out, and then reads what has been written
    in the meantime, where in the end both are state; it leaves two reflections alone."""
    if not dimensions:
        node = graph.call_function(aten.unsqueeze.default, (node, 0))
    for _ in range(2):
        node = graph.call_function(aten.flip.default, (node, [0]))
    return node if dimensions else graph.call_function(aten.squeeze.dim, (node, 0))
