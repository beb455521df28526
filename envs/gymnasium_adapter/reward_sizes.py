"""How many numbers a reward holds, found out by a single step where nobody has said it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.envs.gymnasium_adapter.given_masks import TablesOfCopies
from equipoise.envs.gymnasium_adapter.group import Local
from equipoise.envs.gymnasium_adapter.guard import Contract, EnvError
from equipoise.envs.gymnasium_adapter.native_actions import some_arrays
from equipoise.envs.gymnasium_adapter.observations import as_array
from equipoise.envs.gymnasium_adapter.rewards import REWARD, Rewards
from equipoise.envs.gymnasium_adapter.workers import Workers


@dataclass(frozen=True)
class Sizes(Rewards):
    """In the place of rewards: how many numbers each of `names` holds, `REWARD` or a key of `info`."""

    @property
    def plain(self) -> bool:
        return False

    def read(self, reward: Any, info: Mapping[str, Any]) -> NDArray[np.float64]:
        held = (reward if name == REWARD else info.get(name) for name in self.names)
        return np.array([_size(value) for value in held], np.float64)


def measured(
    start: Callable[[Contract], Local | Workers], contract: Contract, names: Sequence[str]
) -> dict[str, int]:
    """How many numbers each of `names` holds after one step, without those that are no vector or number.
    Nothing where that step fails.

    Args:
        start: a single environment, by what is expected of it.
        names: `REWARD`, or keys of `info`.
    """
    if not names:
        return {}
    sizes = Sizes(tuple(names), (1.0,) * len(names))
    try:
        envs = start(replace(contract, rewards=sizes, check_bounds="off"))
        try:
            said = {index: note["mask_tables"] for index, note in envs.reset([0]) if "mask_tables" in note}
            given, tables = envs.exchange, TablesOfCopies(contract.actions, 1).join(said)
            arrays = some_arrays(contract.actions, given.mask, tables)
            for place, array in zip(given.actions, arrays, strict=True):
                place[...] = array
            envs.step()
        finally:
            if isinstance(envs, Workers):
                envs.close(terminate=True)
    except (EnvError, ValueError):
        return {}  # what fails here is told when it fails in earnest
    return {name: int(size) for name, size in zip(names, given.rewards[0], strict=True) if size}


def _size(value: Any) -> int:
    """0 for what is refused when it counts."""
    numbers = as_array(value)
    vector = numbers.dtype.kind in "fiub" and numbers.size == max(numbers.shape, default=1)
    return int(numbers.size) if vector else 0
