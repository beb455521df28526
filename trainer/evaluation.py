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

from equipoise.envs.checked import CheckedEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import BatchedEnv, DiagnosticEnv, NativeAction
from equipoise.envs.references import References
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.seeding import evaluation_seed, final_evaluation_seed

EPISODE_LIMIT = 100_000
"""Steps after which an episode is taken to have no end. The longest limit that is in use is Atari's: 27,000
steps, half an hour of play."""


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
    frames: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]

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

    Args:
        make_env: number of environments -> environment.
        num_envs: at most so many step together.
        seed: of the run.
        episodes, final_episodes: of an evaluation in between, and of the one at the end.
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
    ) -> None:
        self._policy, self._make_env, self._num_envs = policy, make_env, num_envs
        self._references, self._seed = references, seed
        self._episodes, self._final_episodes = episodes, final_episodes
        self._env: BatchedEnv | None = None
        self.best_return = -math.inf

    def is_best(self, result: Evaluation) -> bool:
        """Whether it is better than all interim evaluations so far."""
        return result.return_mean > self.best_return

    def interim(self) -> tuple[dict[str, float], bool]:
        """The metrics by tag, and whether the policy is the best so far."""
        started = time.perf_counter()
        result = self.run(self._episodes, evaluation_seed(self._seed))
        better = self.is_best(result)
        self.best_return = max(result.return_mean, self.best_return)
        metrics = {f"evaluation/{name}": value for name, value in result.named().items()}
        return metrics | {"time/evaluate": time.perf_counter() - started}, better

    def final(self) -> Evaluation:
        """Of the policy at the end, on episodes by which none was chosen, with frames of the first one."""
        return self.run(self._final_episodes, final_evaluation_seed(self._seed), render=True)

    def run(self, episodes: int, seed: int, render: bool = False) -> Evaluation:
        """Deterministic episodes of the policy as it is."""
        num_envs = min(episodes, self._num_envs)
        if self._env is not None and self._env.num_envs != num_envs:
            self.close()
        if self._env is None:
            self._env = self._make_env(num_envs)
        return evaluate(self._policy, self._env, episodes, seed, self._references, render)

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
) -> Evaluation:
    """Run the deterministic policy until every environment has finished its share of `episodes`.

    The shares are fixed beforehand, from each environment's first episode on: taking whichever end first
    would favour short ones. With `render`, frames of the first episode of environment 0 are kept, if the
    environment can be seen at all.

    Raises:
        EnvError: the environment misbehaved, or an episode has not ended in `EPISODE_LIMIT` steps.
    """
    # A Gymnasium environment made without a render mode cannot; batched ones always can.
    render = render and getattr(env, "render_mode", "rgb_array") is not None
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
    ended: list[tuple[Tensor, Tensor, Tensor]] = []
    by_step: dict[str, list[Tensor]] = {}
    frames = [env.render(0)] if render else []
    while not bool((finished >= share).all()):
        step = checked.step(act(observation, action_mask))
        observation, action_mask = step.observation, step.action_mask
        counts, done = finished < share, step.terminated | step.truncated
        running, lengths = running + step.rewards @ weights, lengths + 1.0
        ended.append((running, lengths, done & counts))
        for name, metric in step.metrics.items():
            rows = counts.view(-1, *([1] * (metric.dim() - 1)))
            by_step.setdefault(name, []).append(metric.where(rows, torch.nan))
        running, lengths = running.masked_fill(done, 0.0), lengths.masked_fill(done, 0.0)
        finished = finished + done
        # Asked this rarely because the host waits for the answer: of a later episode it may be late.
        if len(ended) % EPISODE_LIMIT == 0:
            _refuse_endless(env, (lengths >= EPISODE_LIMIT) & (finished < share))
        if render and not int(finished[0]):
            frames.append(env.render(0))
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
        frames=frames,
    )


def _refuse_endless(env: BatchedEnv, endless: Tensor) -> None:
    if bool(endless.any()):
        name = getattr(env, "id", type(env).__name__)
        raise EnvError(
            f"{name}: environment {int(endless.int().argmax())}: an episode of the evaluation has not ended "
            f"in {EPISODE_LIMIT:,} steps. Where episodes may go on for ever, a time limit is needed: "
            "max_episode_steps where the environment is registered (or in env.kwargs), or "
            "gymnasium.wrappers.TimeLimit"
        )
