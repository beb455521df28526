"""What environments have in common whose copies step together and keep their state to themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equipoise.envs.gymnasium_adapter.rewards import numbered
from equipoise.envs.gymnasium_adapter.sources import sources

NO_STATE = "its copies step together, and have no state that can be saved"


class Restarting:
    """A part of a `BatchedEnv` that begins new episodes, on random streams of their own, when it is resumed.

    Args:
        id: for messages and states.
        reward_weights: of the `K` numbers of a reward; None: 1 for each.
    """

    def __init__(self, id: str, num_envs: int, reward_weights: Sequence[float] | None) -> None:
        self.id, self.num_envs = id, num_envs
        self.reward_weights = tuple(map(float, reward_weights)) if reward_weights is not None else (1.0,)
        self.reward_names = numbered("reward", len(self.reward_weights))
        self.notice: str | None = None
        """Set by `load_state_dict`: why the run does not go on exactly."""
        self._steps, self._seed = 0, 0

    def count_rewards(self, count: int) -> None:
        """A reward holds so many numbers, which count alike."""
        self.reward_weights, self.reward_names = (1.0,) * count, numbered("reward", count)

    @staticmethod
    def imports(section: Mapping[str, Any]) -> list[str]:
        """As of `GymnasiumEnv`."""
        return list(sources(section))

    def reset(self, seed: int | None = None) -> Any:
        """Begin new episodes everywhere."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Of the random streams; `exact` and `reason` say that it is not the environment's whole state."""
        counted = {"id": self.id, "num_envs": self.num_envs, "seed": self._seed, "steps": self._steps}
        return {**counted, "exact": False, "reason": NO_STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """All episodes begin anew on other random streams, and `notice` says so."""
        sequence = np.random.SeedSequence(state["seed"], spawn_key=(state["steps"],))
        self.reset(int(sequence.generate_state(1)[0]) >> 1)
        self._seed, self._steps = state["seed"], state["steps"]
        self.notice = f"{self.id} cannot be resumed exactly, episodes begin anew: {NO_STATE}"
