"""Parallel environments of PettingZoo with equal agents: each agent is one environment of a shared policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray


class TeamsError(ValueError):
    """Agents come in teams of `size` only."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class Agents:
    """The agents of `num_envs / A` parallel environments of `A` agents each, as one vector environment.

    An environment begins anew in the step in which its last agent ends. An agent that ended before the others
    is idle until then: `infos["idle"]`, and it is known before, `infos["over"]`.

    Args:
        make: gives one parallel environment.

    Raises:
        ValueError: the agents' spaces differ, or `num_envs` is no multiple of their number.
    """

    metadata = {"autoreset_mode": "SameStep"}

    def __init__(self, make: Callable[[], Any], num_envs: int) -> None:
        first = make()
        self._agents = list(first.possible_agents)
        count = len(self._agents)
        if num_envs % count:
            first.close()
            raise TeamsError(
                f"num_envs is {num_envs}; allowed is a multiple of {count}, the number of agents of "
                f"{type(first).__name__}",
                count,
            )
        self.num_envs, self._envs = num_envs, [first, *(make() for _ in range(num_envs // count - 1))]
        # Asked for once: some make a new space whenever they are asked.
        observed, acted = (
            [space_of(agent) for agent in self._agents]
            for space_of in (first.observation_space, first.action_space)
        )
        for what, each in (("observation", observed), ("action", acted)):
            if different := [
                agent for agent, space in zip(self._agents, each, strict=True) if space != each[0]
            ]:
                raise ValueError(
                    f"{different[0]} has another {what} space than {self._agents[0]}; agents that share a "
                    "policy must be equal"
                )
        self.single_observation_space, self.single_action_space = observed[0], acted[0]
        self.observation_space, self.action_space = observed[0], spaces.Tuple(acted * len(self._envs))
        self._last: list[Any] = [None] * num_envs
        self._alive = np.ones(num_envs, np.bool_)

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        masks: list[Any] = [None] * self.num_envs
        for copy in range(len(self._envs)):
            self._begin(copy, None if seed is None else seed + copy, masks)
        return self._stacked(self._last), self._infos(masks)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        given = list(iterate(_batched(self.single_action_space), actions))
        rewards = np.zeros(self.num_envs)
        terminated, truncated, idle = (np.zeros(self.num_envs, np.bool_) for _ in range(3))
        idle |= ~self._alive
        final: NDArray[Any] = np.full(self.num_envs, None, object)
        masks: list[Any] = [None] * self.num_envs
        for copy, env in enumerate(self._envs):
            slots = {agent: copy * len(self._agents) + i for i, agent in enumerate(self._agents)}
            living = {agent: given[slot] for agent, slot in slots.items() if self._alive[slot]}
            seen, paid, ended, cut, infos = env.step(living)
            for agent in living:
                slot = slots[agent]
                rewards[slot], terminated[slot], truncated[slot] = paid[agent], ended[agent], cut[agent]
                self._last[slot] = final[slot] = seen[agent]
                masks[slot] = infos.get(agent, {}).get("action_mask")
                self._alive[slot] = not (ended[agent] or cut[agent])
            if not any(self._alive[slot] for slot in slots.values()) or not env.agents:
                self._cut_short(slots, truncated, terminated)
                self._begin(copy, None, masks)
        infos = {**self._infos(masks), "final_obs": final, "idle": idle, "over": ~self._alive}
        return self._stacked(self._last), rewards, terminated, truncated, infos

    def render(self) -> None:
        return None

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _cut_short(self, slots: Mapping[Any, int], truncated: Any, terminated: Any) -> None:
        """Agents that the environment has dropped without saying that they ended."""
        for slot in slots.values():
            if self._alive[slot]:
                truncated[slot] = not terminated[slot]

    def _begin(self, copy: int, seed: int | None, masks: list[Any]) -> None:
        seen, infos = self._envs[copy].reset(seed=seed)
        if absent := [agent for agent in self._agents if agent not in seen]:
            raise ValueError(
                f"there is no observation of {absent[0]}; all of possible_agents must be there when an "
                "episode begins"
            )
        for i, agent in enumerate(self._agents):
            slot = copy * len(self._agents) + i
            self._last[slot], self._alive[slot] = seen[agent], True
            masks[slot] = infos.get(agent, {}).get("action_mask")

    def _infos(self, masks: list[Any]) -> dict[str, Any]:
        """Of those that act next: one that is over has no mask any more."""
        there = all(mask is not None for mask, alive in zip(masks, self._alive, strict=True) if alive)
        return {"action_mask": masks} if there else {}

    def _stacked(self, observations: list[Any]) -> Any:
        return _stack(self.single_observation_space, observations)


def _batched(space: Any) -> Any:
    from gymnasium.vector.utils import batch_space

    return batch_space(space, 1)


def _stack(space: Any, values: list[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _stack(part, [value[key] for value in values]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_stack(part, [value[i] for value in values]) for i, part in enumerate(space.spaces))
    return np.stack([np.asarray(value) for value in values])
