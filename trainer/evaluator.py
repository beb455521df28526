"""Evaluates the policy during a run and at its end, and remembers the best so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from equipoise.envs import process_wide
from equipoise.envs.checked import close
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import BatchedEnv
from equipoise.envs.references import References
from equipoise.trainer.evaluation import Acting, Evaluation, evaluate
from equipoise.trainer.first_look import FirstLook, RandomReturn, look_at
from equipoise.trainer.footage import Frame, can_render
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.seeding import evaluation_seed, final_evaluation_seed
from equipoise.trainer.system import distributed, torch_switches

FILM_STEPS = 2_000
"""Most steps that the film at the end of a run shows."""


class Evaluator:
    """Evaluates the policy in environments of its own, and remembers the best return so far.

    Only the first of several processes measures, but all of them call `interim` and `look`.

    Args:
        make_env: number of environments -> environment.
        num_envs: most environments to step together.
        seed: of the run.
        episodes, final_episodes: of each policy, in an evaluation during the run and in the one at its end.
        max_steps: see `evaluate`.
        best_by: which of the two policies decides what is the best so far.
    """

    def __init__(
        self,
        policy: Policy,
        make_env: Callable[[int], BatchedEnv],
        num_envs: int,
        references: References | None,
        seed: int,
        episodes: int,
        final_episodes: int,
        max_steps: int,
        best_by: Literal["deterministic", "sampled"] = "deterministic",
    ) -> None:
        self._policy, self._make_env, self._num_envs = policy, make_env, num_envs
        self._references, self._seed = references, seed
        self._episodes, self._final_episodes, self._max_steps = episodes, final_episodes, max_steps
        self._env: BatchedEnv | None = None
        self._asked_for = 0
        self._short_episodes = False
        self.best_by, self.best_return = best_by, -math.inf
        self.random: RandomReturn | None = None
        """What random actions achieve; known once `look` has been called."""

    def _judged(self, result: Evaluation) -> float:
        """The mean return by which policies are compared."""
        return (result.sampled if self.best_by == "sampled" and result.sampled else result).return_mean

    def is_best(self, result: Evaluation) -> bool:
        """Whether it is better than all interim evaluations so far."""
        return self._judged(result) > self.best_return

    def look(self) -> FirstLook | None:
        """A first look at the environment for evaluations, with random actions, in the process that measures.

        Its failures show here, before training and not after it. Draws nothing from the generators of the
        process. Raises `EnvError`.
        """
        self._prepare()
        with distributed.failing_together(), process_wide.preserved():
            if distributed.rank() > 0:
                return None
            env = self._environment(min(2 * max(self._episodes, self._final_episodes), self._num_envs))
            seed = evaluation_seed(self._seed)
            with torch_switches.kept(type(env).__name__), process_wide.preserved(seed):
                look = look_at(env, seed)
            if self.random is None:
                known = self._references
                self.random = look.random_return if known is None else RandomReturn(known.random, None)
            self._short_episodes = not look.unfinished
            return look

    def untrained(self) -> Evaluation | None:
        """Evaluate the policy before it has learned anything, in the process that measures. None if the first
        look found episodes so long that waiting for their end would delay the start of training."""
        with distributed.failing_together():
            if not self._short_episodes:
                return None
            return self.run(self._episodes, evaluation_seed(self._seed))

    def interim(self, metrics: dict[str, float]) -> bool:
        """Evaluate and say whether the policy is the best so far. Adds the results to `metrics`, by tag."""
        best = False
        if distributed.rank() == 0:
            started = time.perf_counter()
            result = self.run(self._episodes, evaluation_seed(self._seed))
            best = self.is_best(result)
            self.best_return = max(self._judged(result), self.best_return)
            metrics |= result.tagged()
            metrics["time/evaluate"] = time.perf_counter() - started
        return bool(distributed.all_reduce_max(torch.tensor(int(best))))

    def final(self) -> Evaluation | None:
        """Evaluate the final policy, on episodes that were not used to choose the best."""
        if distributed.rank() > 0:
            return None
        return self.run(self._final_episodes, final_evaluation_seed(self._seed))

    def _prepare(self) -> None:
        """Make the environment and take one step."""
        with distributed.failing_together(), process_wide.preserved():
            if distributed.rank() > 0:
                return
            try:
                self.run(max(self._episodes, self._final_episodes), evaluation_seed(self._seed), max_steps=1)
            except (EnvError, ValueError) as error:
                raise EnvError(
                    f"{error} (in the environment for evaluations, which exists beside the one for training)"
                ) from error

    def film(self) -> list[Frame]:
        """Pictures of the first final episode, from an environment of its own; none if it cannot be rendered.

        Rendering errors propagate.
        """
        visible = self._env is not None and can_render(self._env)
        self.close()
        if not visible:
            return []
        self._env, self._asked_for = self._make_env(1), 1
        most = min(self._max_steps, FILM_STEPS)
        return self.run(1, final_evaluation_seed(self._seed), most, True, "deterministic").frames

    def run(
        self,
        episodes: int,
        seed: int,
        max_steps: int | None = None,
        render: bool = False,
        acting: Acting = "both",
    ) -> Evaluation:
        """Evaluate the policy as it is now, on `episodes` episodes for each way to act."""
        env = self._environment(min(episodes * (2 if acting == "both" else 1), self._num_envs))
        most = max_steps or self._max_steps
        with torch_switches.kept(type(env).__name__), process_wide.preserved(seed):
            return evaluate(self._policy, env, episodes, seed, self._references, render, most, acting)

    def _environment(self, num_envs: int) -> BatchedEnv:
        if self._env is not None and self._asked_for != num_envs:
            self.close()
        if self._env is None:
            self._env, self._asked_for = self._make_env(num_envs), num_envs
        return self._env

    def close(self) -> None:
        """Close the environments and end their processes."""
        if self._env is not None:
            close(self._env)
            self._env = None

    def state_dict(self) -> dict[str, Any]:
        random = None if self.random is None else list(self.random)
        return {"best_return": self.best_return, "best_by": self.best_by, "random": random}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("best_by", "deterministic") == self.best_by:  # else nothing that compares
            self.best_return = state["best_return"]
        if state.get("random") is not None:
            self.random = RandomReturn(*state["random"])
