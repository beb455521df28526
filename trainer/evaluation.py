"""Deterministic episodes on fresh seeds, and what they say of a policy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equipoise.envs.checked import CheckedEnv
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import BatchedEnv, DiagnosticEnv, NativeAction
from equipoise.envs.references import References
from equipoise.trainer.policy.actor_critic import ActorCritic

SEED_OFFSET = 1_000_003
"""Training uses the run's own seed: evaluation must never see its episodes."""

EPISODE_LIMIT = 100_000
"""Steps after which an episode is taken to have no end. The longest limit that is in use is Atari's: 27,000
steps, half an hour of play."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of complete episodes; None where the environment has no such metric."""

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


def normalized_score(mean_return: float, references: References | None) -> float | None:
    if references is None or references.expert is None or references.expert == references.random:
        return None
    return (mean_return - references.random) / (references.expert - references.random)


@torch.inference_mode()
def evaluate(
    policy: ActorCritic,
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
