"""What an environment keeps in its attributes, as plain values and back, for checkpoints.

Plain are numbers, strings, NumPy arrays, tensors, `np.random.Generator`s, and containers of these. Functions,
methods and classes are no state where nothing is behind them: of those the name is taken, as an environment
may change which one it uses.
"""

from __future__ import annotations

import dis
import types
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

CONSTANT = (gymnasium.Space, EnvSpec, types.ModuleType)
"""Never change, and are left as they are."""
NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
MUTABLE = (np.ndarray, np.random.Generator, torch.Tensor, dict, list, deque)
CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "deque": deque}
BIT_GENERATORS: dict[str, Any] = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}
WAY_OUT = "; give the environment state_dict and load_state_dict for an exact resume"


class NotPlainError(Exception):
    """A state that plain values cannot express, or that cannot be put back."""


class Encoder:
    """Makes plain values of the attributes of one environment.

    Args:
        layers: the environment and what it wraps. Methods of these hide nothing.
    """

    def __init__(self, layers: Sequence[object]) -> None:
        self._layers = {id(layer): index for index, layer in enumerate(layers)}
        self._seen = set[int]()

    def encode_attribute(self, value: Any, path: str) -> Any:
        """As `encode`; of functions, methods and classes it is `("named", name)`.

        Raises `NotPlainError` also where a function or the owner of a method may keep a state.
        """
        return ("named", self._name(value, path)) if isinstance(value, NAMED) else self.encode(value, path)

    def encode(self, value: Any, path: str) -> Any:
        """Scalars as they are, all else as `(kind, …)`. Types are kept: float32 arithmetic must go on.

        Raises:
            NotPlainError: names the part at `path` that is not plain.
        """
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if isinstance(value, MUTABLE):
            self._note(value, path)
        if type(value) is torch.Tensor and _simple(value):
            return ("tensor", *_array(value.numpy())[1:])
        if (type(value) is np.ndarray or isinstance(value, np.generic)) and _restorable(value.dtype):
            return _array(value)
        if type(value) is np.random.Generator and type(value.bit_generator).__name__ in BIT_GENERATORS:
            return self._generator(value, path)
        if type(value) is dict and all(type(key) in (bool, int, float, str) for key in value):
            return ("dict", [(key, self.encode(part, f"{path}[{key!r}]")) for key, part in value.items()])
        if type(value) in (list, tuple, deque):
            parts = [self.encode(part, f"{path}[{index}]") for index, part in enumerate(value)]
            return (type(value).__name__, parts, value.maxlen if isinstance(value, deque) else None)
        raise NotPlainError(f"{path} is a {type(value).__module__}.{type(value).__qualname__}{WAY_OUT}")

    def _note(self, value: Any, path: str) -> None:
        memory = value.base if isinstance(value, np.ndarray) and value.base is not None else value
        if id(memory) in self._seen:
            raise NotPlainError(
                f"{path} shares memory with another attribute, which a copy would part{WAY_OUT}"
            )
        self._seen.add(id(memory))

    def encode_stream(self, value: np.random.Generator | None, path: str) -> Any:
        """As `encode`, of a generator that only draws. What its `spawn` would make is not saved: it follows
        from how the generator was made, which may be from the system's entropy."""
        if value is None:
            return None
        self._note(value, path)
        name = type(value.bit_generator).__name__
        return ("generator", name, Encoder([]).encode(dict(value.bit_generator.state), f"{path}.state"))

    def _generator(self, value: np.random.Generator, path: str) -> Any:
        sequence = getattr(value.bit_generator, "seed_seq", None)
        kind, name, state = Encoder([]).encode_stream(value, path)
        if not isinstance(sequence, np.random.SeedSequence):
            return (kind, name, state)
        names = ("entropy", "spawn_key", "pool_size", "n_children_spawned")
        parts = {part: getattr(sequence, part) for part in names}
        return (kind, name, state, Encoder([]).encode(parts, f"{path}.seed_seq"))

    def _name(self, value: Any, path: str) -> str:
        """What a class, a function or a method is called: which one it is must be part of the state."""
        if isinstance(value, type):
            return f"{value.__module__}.{value.__qualname__}"
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, type | types.ModuleType):
            if id(owner) not in self._layers:
                raise NotPlainError(
                    f"{path} is a method of a {type(owner).__module__}.{type(owner).__qualname__}, whose "
                    f"state it may change{WAY_OUT}"
                )
            return f"{self._layers[id(owner)]}.{value.__name__}"
        function = getattr(value, "__func__", value)
        behind = self._behind(function, path) if isinstance(function, types.FunctionType) else ""
        return f"{value.__module__}.{value.__qualname__}{behind}"

    def _behind(self, function: types.FunctionType, path: str) -> str:
        """A fingerprint of what a function has besides its name; raises where it keeps a state of its own.

        A resumed environment finds out by it that its own function holds something else.
        """
        self._seen.add(id(function))  # it may refer to itself
        code = function.__code__
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        kept = {name: cell.cell_contents for name, cell in cells} | vars(function)
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        kept |= {f"default {index}": value for index, value in enumerate(defaults)}
        assigned = {*_assigned(code), *vars(function)} - {"__wrapped__"}
        constants = [
            value for value in code.co_consts if isinstance(value, int | float | str | bytes | tuple)
        ]
        found = [code.co_code, constants] if "<" in function.__qualname__ else []
        for name, value in kept.items():
            if name in assigned:
                raise NotPlainError(f"{path} is a function that keeps a state in {name!r}{WAY_OUT}")
            found.append(self._kept(value, f"{path}, {name!r} of a function"))
        return f"#{zlib.crc32(repr(found).encode())}" if found else ""

    def _kept(self, value: Any, path: str) -> Any:
        if id(value) in self._layers or id(value) in self._seen or isinstance(value, CONSTANT):
            return None
        return self.encode_attribute(value, path)

    def names(self, value: Any, name: str) -> bool:
        """Whether `value` is what `encode_attribute` called `name`."""
        try:
            return isinstance(value, NAMED) and self._name(value, "") == name
        except NotPlainError:
            return False


def _assigned(code: types.CodeType) -> Iterator[str]:
    """Variables of enclosing functions that `code`, or a function defined in it, assigns to."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in code.co_freevars:
            yield instruction.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from (name for name in _assigned(inner) if name in code.co_freevars)


def _restorable(dtype: np.dtype[Any]) -> bool:
    return not dtype.hasobject and dtype.fields is None


def _simple(tensor: torch.Tensor) -> bool:
    """Whether NumPy can hold it, and it is nothing but its numbers."""
    if tensor.requires_grad or tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return False
    return tensor.dtype != torch.bfloat16 and not tensor.is_quantized


def _array(value: Any) -> tuple[str, str, tuple[int, ...], bytes, str]:
    """The order in memory is kept, by which sums differ."""
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    kind = "array" if isinstance(value, np.ndarray) else "scalar"
    return (kind, value.dtype.str, tuple(value.shape), value.tobytes(order=order), order)


def decode(saved: Any) -> Any:
    """What `Encoder.encode` has made plain values of."""
    if not isinstance(saved, tuple | list):
        return saved
    kind, *rest = saved
    if kind in ("array", "scalar", "tensor"):
        dtype, shape, data, *order = rest
        flat = np.frombuffer(data, np.dtype(dtype))
        array = flat.reshape(shape, order=order[0] if order else "C").copy(order="K")
        return torch.from_numpy(array) if kind == "tensor" else array if kind == "array" else array[()]
    if kind == "generator":
        return _generator(*(decode(part) for part in rest))
    if kind == "dict":
        return {key: decode(part) for key, part in rest[0]}
    parts, maxlen = rest
    if kind == "deque":
        return deque((decode(part) for part in parts), maxlen)
    return CONTAINERS[kind](decode(part) for part in parts)


def _generator(name: str, state: Any, sequence: Any = None) -> np.random.Generator:
    bits = BIT_GENERATORS[name](None if sequence is None else np.random.SeedSequence(**sequence))
    bits.state = state
    return np.random.Generator(bits)
