"""Environments that step one after the other in one process, and the arrays for what they give and get."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import DTypeLike, NDArray

from equipoise.envs import process_wide
from equipoise.envs.gymnasium_adapter.guard import Contract, Guard
from equipoise.envs.gymnasium_adapter.own_spaces import own_spaces

MakeOne: TypeAlias = Callable[[int], gymnasium.Env[Any, Any]]
"""Index of the environment in its batch -> environment."""
Notes: TypeAlias = list[tuple[int, Mapping[str, Any]]]
"""What single environments have to say: index, and what `Guard` gives besides what has an array."""

_ALIGNMENT = 64


class Exchange:
    """Arrays `[N, ...]` in one block of memory, which several processes may share.

    Args:
        contract: of the environments; gives the widths.
        num_envs: `N`.
        allocate: bytes -> a zeroed buffer of that size, or the buffer of an `Exchange` of the same sizes.
    """

    def __init__(self, contract: Contract, num_envs: int, allocate: Callable[[int], Any] | Any) -> None:
        table, width = contract.actions, contract.layout.width
        specs: list[tuple[tuple[int, ...], DTypeLike]] = [
            ((width,), np.float32),
            ((width,), np.float32),
            ((len(contract.rewards.names),), np.float64),
            ((), np.bool_),
            ((), np.bool_),
            (table.every_choice.shape, np.bool_),
            ((), np.bool_),
            ((), np.float32),
            ((), np.float64),
            *((leaf.shape, leaf.dtype) for leaf in table.leaves),
        ]
        shapes = [(num_envs, *shape) for shape, _ in specs]
        sizes = [int(np.prod(s)) * np.dtype(t).itemsize for s, (_, t) in zip(shapes, specs, strict=True)]
        offsets = np.cumsum([0] + [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes])
        self.buffer = allocate(int(offsets[-1]) + _ALIGNMENT) if callable(allocate) else allocate
        arrays: list[NDArray[Any]] = [
            np.ndarray(shape, dtype, self.buffer, int(offset))
            for shape, (_, dtype), offset in zip(shapes, specs, offsets, strict=False)
        ]
        self.rows, self.final_rows, self.rewards, self.terminated, self.truncated, *arrays = arrays
        """`[N, O]` observations, those that ended an episode, `[N, K]` rewards, `[N]`, `[N]`."""
        self.mask, self.masked, self.success, self.since, *self.actions = arrays
        """`[N, H, C]` or `[N, S]`, whether one was given `[N]`, NaN where there is none `[N]`, when
        environment `i` was last called (`time.monotonic`), and the leaves of the actions."""


class Group:
    """Some of the environments of a batch. An episode that ends begins anew in the same step.

    Args:
        make: called with the index of each environment.
        contract: for all of them.
        indices: of these environments in the batch, without gaps.
        seed: of what constructors draw from the generators of the process.
        exchange: where results are written and actions are read, in the rows of `indices`.

    Raises:
        EnvError: whatever an environment does wrong.
        ValueError: one cannot be made.
    """

    def __init__(
        self, make: MakeOne, contract: Contract, indices: range, seed: int, exchange: Exchange
    ) -> None:
        self._contract, self._indices, self._exchange = contract, indices, exchange
        self.envs: list[Guard] = []
        taken = set[int]()
        for index in indices:
            exchange.since[index] = time.monotonic()
            streams = process_wide.Streams(seed, index)
            with streams.in_force():
                env = make(index)
                own_spaces(env, taken)
            self.envs.append(Guard(env, index, contract, streams))
        self._mine = slice(indices.start, indices.stop)

    def reset(self, seeds: Sequence[int | None]) -> Notes:
        """`seeds`: one for each environment of the group."""
        notes: Notes = []
        for index, env, seed in zip(self._indices, self.envs, seeds, strict=True):
            self._exchange.since[index] = time.monotonic()
            self._begin(index, *env.reset(seed=seed), notes)
        return notes

    def step(self) -> Notes:
        notes: Notes = []
        exchange = self._exchange
        exchange.success[self._mine] = np.nan
        for index, env, action in zip(self._indices, self.envs, self._actions(), strict=True):
            exchange.since[index] = time.monotonic()
            row, reward, terminated, truncated, said = env.step(action)
            exchange.rewards[index] = said.pop("components", reward)
            exchange.terminated[index], exchange.truncated[index] = terminated, truncated
            if terminated or truncated:
                exchange.final_rows[index] = row
                exchange.success[index] = said.pop("success", np.nan)
                if said:
                    notes.append((index, said))
                row, said = env.reset()
            self._begin(index, row, said, notes)
        return notes

    def snapshots(self) -> list[dict[str, Any] | str]:
        return [env.snapshot() for env in self.envs]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Why each could not be put back; None where it was."""
        return [env.restore(state) for env, state in zip(self.envs, states, strict=True)]

    def render(self, index: int) -> Any:
        return self.envs[index - self._indices.start].render()

    def close(self) -> None:
        """All of them, whatever fails; raises the last failure."""
        with ExitStack() as stack:
            for env in self.envs:
                stack.callback(env.close)

    def _begin(self, index: int, row: Any, said: dict[str, Any], notes: Notes) -> None:
        self._exchange.rows[index] = row
        self._exchange.masked[index] = "action_mask" in said
        if "action_mask" in said:
            self._exchange.mask[index] = said.pop("action_mask")
        if said:
            notes.append((index, said))

    def _actions(self) -> list[Any]:
        # Copies, as an environment may keep what it is given.
        leaves = [leaf[self._mine].copy() for leaf in self._exchange.actions]
        return [self._contract.actions.action_of(leaves, row) for row in range(len(self._indices))]


class Local:
    """A `Group` of all environments in this process, whose own generators stay as they were."""

    def __init__(self, make: MakeOne, contract: Contract, num_envs: int, seed: int) -> None:
        self.exchange = Exchange(contract, num_envs, bytearray)
        with _own_generators():
            self.group = Group(make, contract, range(num_envs), seed, self.exchange)

    def reset(self, seeds: Sequence[int | None]) -> Notes:
        with _own_generators():
            return self.group.reset(seeds)

    def step(self) -> Notes:
        with _own_generators():
            return self.group.step()

    def snapshots(self) -> list[dict[str, Any] | str]:
        return self.group.snapshots()

    def restore(self, states: Sequence[Mapping[str, Any]]) -> list[str | None]:
        return self.group.restore(states)

    def render(self, index: int) -> Any:
        with _own_generators():
            return self.group.render(index)

    def close(self, terminate: bool = False) -> None:
        self.group.close()


@contextmanager
def _own_generators() -> Iterator[None]:
    own = process_wide.Streams()
    try:
        yield
    finally:
        own.enter()
