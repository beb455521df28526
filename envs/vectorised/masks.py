"""Masks of environments that step all copies at once: from the infos, a method, or the observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from equipoise.envs.action_table import ActionTable
from equipoise.envs.gymnasium_adapter.declared import declares
from equipoise.envs.gymnasium_adapter.given_masks import Joined, TablesOfCopies
from equipoise.envs.gymnasium_adapter.mask_sources import KEY, METHOD, OBSERVATION, chosen
from equipoise.envs.gymnasium_adapter.masks import read_mask
from equipoise.envs.gymnasium_adapter.own_spaces import layers

INFOS = f"infos[{KEY!r}]"


class Masks:
    """Finds out at each `reset` where masks come from; `infos` count before the method, and that before the
    observation.

    Args:
        table: of the actions.
        space: of one observation.
        num_envs: `N`.
    """

    def __init__(self, table: ActionTable, space: gymnasium.Space[Any], num_envs: int) -> None:
        self._table, self._num_envs = table, num_envs
        self._tables = TablesOfCopies(table, num_envs)
        self._observed = isinstance(space, spaces.Dict) and KEY in space.spaces
        self._method: Callable[[], Any] | None = None
        self._asked: Any = None  # which environment has been asked for it
        self.source: str | None = None
        """One of `INFOS`, `METHOD`, `OBSERVATION`; None: there are no masks."""

    def find(self, env: Any, observation: Any, infos: Mapping[str, Any]) -> list[str]:
        """Sets the source, and gives what is to be told of it."""
        if env is not self._asked:
            self._asked, self._method = env, method_of(env)
        there = [INFOS] * (KEY in infos) + [METHOD] * (self._method is not None)
        there += [OBSERVATION] * self._observed
        self.source, told = chosen(there, lambda: observation[KEY][0], self._table)
        return told

    def given(self, observation: Any, infos: Mapping[str, Any]) -> Any:
        """One for each copy, as it comes; None where there is none."""
        if self.source == METHOD:
            assert self._method is not None
            return self._method()
        if self.source == OBSERVATION:
            return observation[KEY]
        given = infos.get(KEY)
        return _apart(given, self._num_envs) if isinstance(given, Mapping) else given

    def read(self, given: Any, unused: Any = None) -> tuple[NDArray[np.bool_], Joined]:
        """`[N, H, C]` or `[N, S]`, see `ActionTable.padded`, and tables, see `TablesOfCopies.join`.

        Args:
            given: one for each copy.
            unused: `[N]`, whose next action is ignored: what their masks say does not matter.

        Raises:
            MaskError: see `read_mask`.
        """
        unused = np.zeros(self._num_envs, np.bool_) if unused is None else unused
        empty = self.source == OBSERVATION
        read = {i: read_mask(mask, self._table, empty) for i, mask in enumerate(given) if not unused[i]}
        own = [read[i].own if i in read else self._table.every_choice for i in range(self._num_envs)]
        return np.stack(own), self._tables.join({i: mask.tables for i, mask in read.items()})

    def of_all_choices(self) -> NDArray[np.bool_]:
        """Of the same shape, which forbid nothing."""
        return np.stack([self._table.every_choice] * self._num_envs)


def _apart(joined: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """One dict for each copy, of what Gymnasium's `VectorEnv` makes of them: `[N, …]` by key, nested as they
    were, and by `_key` who has it."""
    whose = {key for key in joined if key.startswith("_") and key[1:] in joined}
    parts = {
        key: _apart(value, num_envs) if isinstance(value, Mapping) else value
        for key, value in joined.items()
        if key not in whose
    }
    everyone = [True] * num_envs
    return [
        {key: value[copy] for key, value in parts.items() if joined.get(f"_{key}", everyone)[copy]}
        for copy in range(num_envs)
    ]


def method_of(env: Any) -> Callable[[], Any] | None:
    """What gives a mask for each copy, where `env` or all its copies have a method `action_masks()`."""
    if callable(own := getattr(env, "action_masks", None)):
        return own  # type: ignore[no-any-return]
    inner = getattr(env, "unwrapped", env)
    copies = getattr(inner, "envs", None)
    if copies is None and callable(make := next(iter(getattr(inner, "env_fns", ())), None)):
        copies = [make()]  # those in other processes cannot be asked: one that has it not would end them
        copies[0].close()
    if not copies or not all(isinstance(copy, gymnasium.Env) and _has_it(copy) for copy in copies):
        return None
    return lambda: env.call("action_masks")


def _has_it(env: gymnasium.Env[Any, Any]) -> bool:
    return any(declares(layer, "action_masks") for layer in layers(env))
