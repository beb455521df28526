"""Where the masks of an environment come from: `info`, a method `action_masks()`, or the observation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces

from equipoise.envs.action_table import ActionTable
from equipoise.envs.gymnasium_adapter.declared import declares
from equipoise.envs.gymnasium_adapter.given_masks import MaskError
from equipoise.envs.gymnasium_adapter.masks import Read, read_mask
from equipoise.envs.gymnasium_adapter.own_spaces import layers

KEY = "action_mask"
INFO, METHOD, OBSERVATION = f"info[{KEY!r}]", "action_masks()", f"observation[{KEY!r}]"
_TOLD = {
    METHOD: [f"action masks are read from {METHOD}"],
    OBSERVATION: [
        f"action masks are read from {OBSERVATION}, which is an input of the policy, too; one that "
        "forbids all forbids nothing"
    ],
}
_LOOKS_LIKE_ONE = re.compile(
    r"(?i)(\b|_)(actions?_?masks?|masks?_?actions?|(legal|valid|avail|available|allowed)_?(actions?|moves?))\b"
)


def chosen(
    there: Sequence[str], observed: Callable[[], Any], table: ActionTable
) -> tuple[str | None, list[str]]:
    """Which source of masks counts, if any, and what is to be told of it and of the others.

    Args:
        there: what the environment has, from the one that counts most on.
        observed: gives the mask in an observation.
        table: of the actions.
    """
    if not table.num_heads:
        return None, [f"{name} is not used: the actions hold no choice to be masked" for name in there]
    if list(there) == [OBSERVATION]:
        try:
            read_mask(observed(), table, may_be_empty=True)
        except MaskError as error:
            return None, [f"{OBSERVATION} is not used as a mask, only as an input: it {error}"]
    if not there:
        return None, []
    source, *others = there
    return source, [
        *_TOLD.get(source, []),
        *(f"{name} is not used as a mask: {source} is there, too" for name in others),
    ]


class MaskSource:
    """Finds out at the first `reset` where masks come from, and reads them from there.

    Where there are several, `info` counts before the method (of the outermost wrapper that has it, as
    sb3-contrib's MaskablePPO reads it), and that before the observation (as RLlib and PettingZoo have it).
    """

    def __init__(self, env: gymnasium.Env[Any, Any], table: ActionTable) -> None:
        self._env, self._table = env, table
        having = next((layer for layer in layers(env) if declares(layer, "action_masks")), None)
        self._method: Callable[[], Any] | None = getattr(having, "action_masks", None)
        space = env.observation_space
        self._observed = isinstance(space, spaces.Dict) and KEY in space.spaces
        self.source: str | None = None
        """One of `INFO`, `METHOD`, `OBSERVATION`; None: there are no masks."""
        self._decided = False

    def decide(self, observation: Any, info: Mapping[str, Any]) -> dict[str, str]:
        """At the first `reset`: `mask_source`, and `remarks` for the user, a line each. Later nothing."""
        if self._decided:
            return {}
        self._decided = True
        remarks = self._find(observation, info)
        return {"mask_source": self.source or "", **({"remarks": "\n".join(remarks)} if remarks else {})}

    def _find(self, observation: Any, info: Mapping[str, Any]) -> list[str]:
        """Sets the source; returns what is to be told."""
        there = [INFO] * (KEY in info) + [METHOD] * callable(self._method) + [OBSERVATION] * self._observed
        self.source, told = chosen(there, lambda: observation[KEY], self._table)
        if there or not self._table.num_heads:
            return told
        return [
            f"{name} may be a mask of actions and is not used: what is read is {INFO}, {METHOD} or "
            f"{OBSERVATION}"
            for name in self._alike(observation, info)
        ]

    def read(self, observation: Any, info: Mapping[str, Any]) -> Read | None:
        """As `read_mask` gives it; None where there is none.

        Raises:
            MaskError: see `read_mask`. And whatever the environment's method raises.
        """
        if not self._table.num_heads:
            return None
        if self.source == METHOD:
            assert self._method is not None
            given = self._method()
        elif self.source == OBSERVATION:
            given = observation[KEY]
        elif KEY in info:
            given = info[KEY]
        else:
            return None
        # A state in which nothing is valid is one of the game there, not a mistake of who wrote the mask.
        return read_mask(given, self._table, may_be_empty=self.source == OBSERVATION)

    def _alike(self, observation: Any, info: Mapping[str, Any]) -> list[str]:
        """What is called as masks are called by others."""
        parts = observation if isinstance(observation, Mapping) else {}
        named = [*(f"info[{key!r}]" for key in info), *(f"observation[{key!r}]" for key in parts)]
        methods = {name for layer in layers(self._env) for name in dir(type(layer)) if name[0] != "_"}
        return [
            name
            for name in [*named, *(f"{method}()" for method in sorted(methods))]
            if _LOOKS_LIKE_ONE.search(name)
        ]
