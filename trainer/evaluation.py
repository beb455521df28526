"""Deterministic episodes on fresh seeds, and what they say of a policy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.envs import process_wide
from equipoise.envs.checked import CheckedEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import BatchedEnv, DiagnosticEnv, NativeAction
from equipoise.envs.references import References
from equipoise.trainer.footage import Footage, Frame, can_render
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.seeding import evaluation_seed, final_evaluation_seed
from equipoise.trainer.system import distributed, torch_switches

FILM_STEPS = 2_000
"""Steps that the film of a run's end shows at most."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of complete episodes; None where the environment has no such metric."""

    returns: list[float]
    lengths: list[float]
    score: float | None
    """Of the mean return: 0 = random policy, 1 = scripted expert."""
    success_rate: float | None
    metrics: dict[str, float]
    """Means of the environment's own metrics, and of its diagnosis."""
    frames: list[Frame]
    unfinished: int = 0
    """Episodes that had not ended after the most steps allowed, and count as they were."""

    @property
    def return_mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def return_std(self) -> float:
        return float(np.std(self.returns))

    def named(self) -> dict[str, float]:
        """All that there is, by the names of TensorBoard's tags `evaluation/…`."""
        optional = {"score": self.score, "success": self.success_rate}
        known = {name: value for name, value in optional.items() if value is not None}
        return {"return": self.return_mean, **self.metrics, **known}


class Evaluator:
    """Measures the policy of a run, in environments of its own, and knows the best return so far.

    Of several processes the first one measures; `interim` and `prepare` are for all of them to call.

    Args:
        make_env: number of environments -> environment.
        num_envs: at most so many step together.
        seed: of the run.
        episodes, final_episodes: of an evaluation in between, and of the one at the end.
        max_steps: see `evaluate`.
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
    ) -> None:
        self._policy, self._make_env, self._num_envs = policy, make_env, num_envs
        self._references, self._seed = references, seed
        self._episodes, self._final_episodes, self._max_steps = episodes, final_episodes, max_steps
        self._env: BatchedEnv | None = None
        self.best_return = -math.inf

    def is_best(self, result: Evaluation) -> bool:
        """Whether it is better than all interim evaluations so far."""
        return result.return_mean > self.best_return

    def interim(self, metrics: dict[str, float]) -> bool:
        """Whether the policy is the best so far. What was measured is added to `metrics`, by tag."""
        best = False
        if distributed.rank() == 0:
            started = time.perf_counter()
            result = self.run(self._episodes, evaluation_seed(self._seed))
            best = self.is_best(result)
            self.best_return = max(result.return_mean, self.best_return)
            metrics |= {f"evaluation/{name}": value for name, value in result.named().items()}
            metrics["time/evaluate"] = time.perf_counter() - started
        return bool(distributed.all_reduce_max(torch.tensor(int(best))))

    def final(self) -> Evaluation | None:
        """Of the policy at the end, on episodes by which none was chosen."""
        if distributed.rank() > 0:
            return None
        return self.run(self._final_episodes, final_evaluation_seed(self._seed))

    def prepare(self) -> None:
        """Make the environment and take one step: if that fails, it should not be after the training.

        Draws nothing from the generators of the process. Raises `EnvError`.
        """
        with distributed.failing_together(), process_wide.preserved():
            if distributed.rank() > 0:
                return
            try:
                self.run(max(self._episodes, self._final_episodes), evaluation_seed(self._seed), max_steps=1)
            except (EnvError, ValueError) as error:
                raise EnvError(
                    "the environment for evaluations, which exists beside the one for training, failed: "
                    f"{error}"
                ) from error

    def film(self) -> list[Frame]:
        """Pictures of the first closing episode, by an environment of its own; none if they cannot be had.

        Rendering errors propagate.
        """
        visible = self._env is not None and can_render(self._env)
        self.close()
        if not visible:
            return []
        self._env = self._make_env(1)
        most = min(self._max_steps, FILM_STEPS)
        return self.run(1, final_evaluation_seed(self._seed), most, render=True).frames

    def run(self, episodes: int, seed: int, max_steps: int | None = None, render: bool = False) -> Evaluation:
        """Deterministic episodes of the policy as it is."""
        num_envs = min(episodes, self._num_envs)
        if self._env is not None and self._env.num_envs != num_envs:
            self.close()
        if self._env is None:
            self._env = self._make_env(num_envs)
        most = max_steps or self._max_steps
        with torch_switches.kept(type(self._env).__name__), process_wide.preserved(seed):
            return evaluate(self._policy, self._env, episodes, seed, self._references, render, most)

    def close(self) -> None:
        """Let go of the environments and their processes."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def state_dict(self) -> dict[str, Any]:
        return {"best_return": self.best_return}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best_return = state["best_return"]


def normalized_score(mean_return: float, references: References | None) -> float | None:
    if references is None or references.expert is None or references.expert == references.random:
        return None
    return (mean_return - references.random) / (references.expert - references.random)


@torch.inference_mode()
def evaluate(
    policy: Policy,
    env: BatchedEnv,
    episodes: int,
    seed: int,
    references: References | None = None,
    render: bool = False,
    max_steps: int = 30_000,
) -> Evaluation:
    """Run the deterministic policy until every environment has finished its share of `episodes`.

    The shares are fixed beforehand, from each environment's first episode on: taking whichever end first
    would favour short ones. An episode that has not ended after `max_steps` counts as it is then, and is its
    environment's last one. With `render`, pictures of the first episode of environment 0 are kept, if there
    can be any.

    Raises:
        EnvError: the environment misbehaved.
    """
    each, more = divmod(episodes, env.num_envs)
    share = each + (torch.arange(env.num_envs, device=env.device) < more).to(torch.int64)
    space = policy.space

    def act(observation: Tensor, action_mask: Tensor | None) -> NativeAction:
        return space.to_native(policy.act(observation, action_mask))

    checked = CheckedEnv(env)
    observation, action_mask = checked.reset(seed)
    running, lengths = torch.zeros(2, env.num_envs, device=env.device)
    weights = torch.tensor(env.reward_weights, device=env.device)
    finished = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    unfinished = torch.zeros((), dtype=torch.int64, device=env.device)
    ended: list[tuple[Tensor, Tensor, Tensor]] = []
    by_step: dict[str, list[Tensor]] = {}
    footage = Footage(env) if render and can_render(env) else None
    while not bool((finished >= share).all()):
        step = checked.step(act(observation, action_mask))
        observation, action_mask = step.observation, step.action_mask
        counts, done = finished < share, step.terminated | step.truncated
        running, lengths = running + step.rewards @ weights, lengths + 1.0
        overdue = counts & ~done & (lengths >= max_steps)
        ended.append((running, lengths, (done & counts) | overdue))
        for name, metric in step.metrics.items():
            rows = counts.view(-1, *([1] * (metric.dim() - 1)))
            by_step.setdefault(name, []).append(metric.where(rows, torch.nan))
        running, lengths = running.masked_fill(done, 0.0), lengths.masked_fill(done, 0.0)
        finished, unfinished = (finished + done).where(~overdue, share), unfinished + overdue.sum()
        if footage is not None and not int(finished[0]):
            footage.take()
    returns, durations, valid = (torch.stack(column, dim=1).flatten() for column in zip(*ended, strict=True))
    metrics = {name: float(torch.stack(rows).nanmean()) for name, rows in by_step.items()}
    if isinstance(env, DiagnosticEnv):
        metrics |= env.diagnose(act)
    success = metrics.pop("success", math.nan)
    kept = returns[valid].tolist()
    return Evaluation(
        returns=kept,
        lengths=durations[valid].tolist(),
        score=normalized_score(float(np.mean(kept)), references),
        success_rate=None if math.isnan(success) else success,
        metrics={name: metric for name, metric in metrics.items() if not math.isnan(metric)},
        frames=footage.frames if footage is not None else [],
        unfinished=int(unfinished),
    )
