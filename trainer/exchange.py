"""The training environment with other arguments, in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from equipoise.envs import process_wide
from equipoise.envs.checked import close
from equipoise.envs.protocol import BatchedEnv
from equipoise.trainer.rollout import Collector
from equipoise.trainer.seeding import changed_seed


class ChangingEnvironment:
    """Exchanges the environments that a collector steps.

    Args:
        make: (arguments, number of environments) -> environment; a number of None is this process's share.
        seed: of the first environments.
    """

    def __init__(
        self, collector: Collector, make: Callable[[Mapping[str, Any], int | None], BatchedEnv], seed: int
    ) -> None:
        self._collector, self._make, self._seed = collector, make, seed
        self.kwargs: dict[str, Any] = {}
        """Arguments that differ from the configuration's."""
        self._changes = 0

    def try_out(self, kwargs: Mapping[str, Any]) -> None:
        """Make one environment with these arguments. Raises `EnvError` or ValueError where that fails."""
        with process_wide.preserved():
            env = self._make(kwargs, 1)
            self._check(env)
            close(env)

    def change(self, kwargs: Mapping[str, Any]) -> bool:
        """Continue in environments with these arguments; returns False if they have them already.

        All episodes start over. Raises as `try_out`.
        """
        if dict(kwargs) == self.kwargs:
            return False
        self._changes += 1
        env = self._make(kwargs, None)
        self._check(env)
        self.kwargs = dict(kwargs)
        self._collector.exchange(env, changed_seed(self._seed, self._changes))
        return True

    def _check(self, env: BatchedEnv) -> None:
        for name in ("observation_space", "action_space", "reward_names"):
            old, new = getattr(self._collector.env, name), getattr(env, name)
            if old != new:
                close(env)
                raise ValueError(
                    f"the {name} would change from {old} to {new}, but the policy stays the same"
                )

    def state_dict(self) -> dict[str, Any]:
        return {"kwargs": dict(self.kwargs), "changes": self._changes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Comes before the collector's: the state of environments fits those that wrote it."""
        self._changes = state["changes"] - 1
        if not self.change(state["kwargs"]):
            self._changes = state["changes"]
