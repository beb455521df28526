"""Runs episodes of a policy, deterministic or sampled, and sums up how well it did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from equipoise.envs.checked import CheckedEnv
from equipoise.envs.dependent_masks import ActionMask
from equipoise.envs.protocol import Act, BatchedEnv, DiagnosticEnv, NativeAction
from equipoise.envs.references import References
from equipoise.trainer.data import Actions
from equipoise.trainer.footage import Footage, Frame, can_render
from equipoise.trainer.idle_steps import IdleSteps
from equipoise.trainer.policy.player import Player
from equipoise.trainer.policy.protocol import Policy

Acting = Literal["deterministic", "sampled", "both"]
"""How a policy acts: the likeliest choices and mean parameters, or a sample as in training."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of complete episodes; None where the environment has no such metric."""

    returns: list[float]
    lengths: list[float]
    score: float | None
    """Mean return on a scale where 0 = random policy, 1 = scripted expert."""
    success_rate: float | None
    metrics: dict[str, float]
    """Means of the environment's own metrics, and of its diagnosis."""
    frames: list[Frame]
    unfinished: int = 0
    """Episodes cut off at the largest number of steps; they count as they stood."""
    sampled: Evaluation | None = None
    """The sampled policy's result, where this is the deterministic one's and both were measured."""

    @property
    def return_mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def return_std(self) -> float:
        return float(np.std(self.returns))

    def tagged(self) -> dict[str, float]:
        """All that there is, by TensorBoard's tags."""
        return {f"evaluation/{name}": value for name, value in self.named().items()}

    def named(self) -> dict[str, float]:
        """All that there is, by name."""
        unfinished = float(self.unfinished) or None
        optional = {"score": self.score, "success": self.success_rate, "unfinished_episodes": unfinished}
        known = {name: value for name, value in optional.items() if value is not None}
        if self.sampled is not None:
            kept = ("return", "score", "success")
            known |= {f"sampled_{name}": x for name, x in self.sampled.named().items() if name in kept}
        return {"return": self.return_mean, **self.metrics, **known}


def normalized_score(mean_return: float, references: References | None) -> float | None:
    if references is None or references.expert is None or references.expert == references.random:
        return None
    return (mean_return - references.random) / (references.expert - references.random)


def evaluate(
    policy: Policy,
    env: BatchedEnv,
    episodes: int,
    seed: int,
    references: References | None = None,
    render: bool = False,
    max_steps: int = 30_000,
    acting: Acting = "deterministic",
) -> Evaluation:
    """Run the policy until every environment has finished its share of `episodes`.

    The shares are fixed in advance, from each environment's first episode on: counting whichever episodes end
    first would favour short ones. An episode that has not ended after `max_steps` counts as it stands, and is
    its environment's last one. With `render`, pictures of the first episode of environment 0 are kept, if it
    can be rendered. `acting` = both: `episodes` of each policy, side by side in two halves of the
    environments; the result is the deterministic policy's, with the other one in `sampled`.

    Raises:
        EnvError: the environment misbehaved.
    """
    shares = _shares(episodes, env, acting)
    if acting == "both" and not all(bool(share.any()) for share in shares.values()):  # a single environment
        one, other = (
            evaluate(
                policy, env, episodes, seed, references, render and how == "deterministic", max_steps, how
            )
            for how in POLICIES
        )
        return replace(one, sampled=other)
    generator = torch.Generator(env.device).manual_seed(seed)
    player = Player(policy)
    record = _play(
        player, _behaviour(player, policy, shares, generator), env, shares, seed, render, max_steps
    )
    results = {how: record.evaluation(share, references) for how, share in shares.items() if share.any()}
    if "deterministic" not in results:
        return results["sampled"]
    result = results["deterministic"]
    if isinstance(env, DiagnosticEnv):
        with torch.inference_mode():
            own = env.diagnose(lambda seen, mask: policy.to_native(policy.act(seen, mask)))
        result = replace(result, metrics=result.metrics | _finite(own))
    return replace(result, sampled=results.get("sampled"))


POLICIES: tuple[Literal["deterministic", "sampled"], ...] = ("deterministic", "sampled")


def _shares(episodes: int, env: BatchedEnv, acting: Acting) -> dict[str, Tensor]:
    """How many episodes of each policy each environment runs, `[N]`."""
    rows = torch.arange(env.num_envs, device=env.device)
    first = {"deterministic": env.num_envs, "sampled": 0, "both": (env.num_envs + 1) // 2}[acting]
    shares: dict[str, Tensor] = {}
    for how, mine in zip(POLICIES, (rows < first, rows >= first), strict=True):
        each, more = divmod(episodes, max(int(mine.sum()), 1))
        shares[how] = (each + (mine.cumsum(0) <= more).to(torch.int64)) * mine
    return shares


def _behaviour(
    player: Player, policy: Policy, shares: Mapping[str, Tensor], generator: torch.Generator
) -> Act:
    sampled = (shares["sampled"] > 0)[:, None]
    if not bool(sampled.any()):
        return lambda observation, mask: policy.to_native(player.acting(observation, mask).mode())

    def act(observation: Tensor, action_mask: ActionMask | None) -> NativeAction:
        distribution = player.acting(observation, action_mask)
        pairs = zip(distribution.draw(generator), distribution.mode(), strict=True)
        return policy.to_native(Actions(*(drawn.where(sampled, mode) for drawn, mode in pairs)))

    return act


class _Record(NamedTuple):
    """T steps of N environments, `[N, T]` each unless stated."""

    returns: Tensor
    lengths: Tensor
    ended: Tensor
    """Whether an episode that counts ended in the step."""
    overdue: Tensor
    """Whether it was cut off there."""
    metrics: dict[str, Tensor]
    """`[N, T, ...]`, NaN where they do not count."""
    frames: list[Frame]

    def evaluation(self, share: Tensor, references: References | None) -> Evaluation:
        """Sum up the environments that have a `share`."""
        rows = share > 0
        valid = self.ended & rows[:, None]
        returns = self.returns[valid].tolist()
        metrics = {name: float(values[rows].nanmean()) for name, values in self.metrics.items()}
        success = metrics.pop("success", math.nan)
        return Evaluation(
            returns=returns,
            lengths=self.lengths[valid].tolist(),
            score=normalized_score(float(np.mean(returns)), references),
            success_rate=None if math.isnan(success) else success,
            metrics=_finite(metrics),
            frames=self.frames if rows[0] else [],
            unfinished=int(self.overdue[rows].sum()),
        )


@torch.inference_mode()
def _play(
    player: Player,
    act: Act,
    env: BatchedEnv,
    shares: Mapping[str, Tensor],
    seed: int,
    render: bool,
    max_steps: int,
) -> _Record:
    share = torch.stack(list(shares.values())).sum(0)
    checked, idle = CheckedEnv(env), IdleSteps(env)
    observation, action_mask = checked.reset(seed)
    running, lengths = torch.zeros(2, env.num_envs, device=env.device)
    weights = torch.tensor(env.reward_weights, device=env.device)
    finished = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    columns: list[tuple[Tensor, ...]] = []
    by_step: dict[str, list[Tensor]] = {}
    footage = Footage(env) if render and can_render(env) else None
    while not bool((finished >= share).all()):
        step = checked.step(act(observation, action_mask))
        observation, action_mask = step.observation, step.action_mask
        counts, done = finished < share, step.terminated | step.truncated
        player.forget(done)
        begun = idle.latest()
        player.forget(begun)
        counted = 1.0 if begun is None else (~begun).float()
        running, lengths = running + step.rewards @ weights, lengths + counted
        overdue = counts & ~done & (lengths >= max_steps)
        columns.append((running, lengths, (done & counts) | overdue, overdue))
        for name, metric in step.metrics.items():
            rows = counts.view(-1, *([1] * (metric.dim() - 1)))
            by_step.setdefault(name, []).append(metric.where(rows, torch.nan))
        running, lengths = running.masked_fill(done, 0.0), lengths.masked_fill(done, 0.0)
        finished = (finished + done).where(~overdue, share)
        if footage is not None and not int(finished[0]):
            footage.take()
    metrics = {name: torch.stack(steps, dim=1) for name, steps in by_step.items()}
    frames = footage.frames if footage is not None else []
    returns, durations, ended, late = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
    return _Record(returns, durations, ended, late, metrics, frames)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metric for name, metric in metrics.items() if not math.isnan(metric)}
