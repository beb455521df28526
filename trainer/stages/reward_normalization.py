"""Two-tier reward normalization: each component by itself, and then all of them against each other."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from equipoise.envs.arguments import Count, CountOrZero, checked
from equipoise.trainer.data import Metric, Metrics, Rollout
from equipoise.trainer.running_moments import RunningMoments
from equipoise.trainer.stages.protocol import RewardResult
from equipoise.trainer.system import distributed

FACTOR_BOUNDS = (0.1, 10.0)
CONSTANT = 1e-6
"""A spread below this part of the size is rounding: float32 carries seven digits."""
ADAPTIVE_STD = 1e-3
"""Below it `adaptive` takes min-max instead of z-score."""


class RewardNormalization:
    """Make the K reward components comparable before the critic sees them.

    Tier 1, each component over each episode's stretch inside the rollout:

    - `scale` divides by the running std over all episodes so far and shifts nothing: it alone keeps the
      order of episodes and what is optimal.
    - `zscore` (r − mean) / std, `minmax` (r − low) / (high − low), `adaptive` z-score, or min-max where
      std < 1e-3; all zeros where the stretch is constant. They erase how good the episode was as a whole,
      make the result depend on T, and shift rewards, which changes what is optimal where episodes can end
      early. Stretches shorter than `min_episode_length` are divided by the running std instead.

    Tier 2, once `scaling_warmup_episodes` episodes have finished: component k × clamp(median std ÷ std_k,
    0.1, 10), std_k being the running std of the component's discounted return after tier 1 (the statistic
    of OpenAI Baselines' VecNormalize); a component whose return never varied keeps 1 and has no say in the
    median.

    Statistics are used as they were before the rollout and updated with it afterwards, over all processes.
    The first rollout, which has none before it, is divided by its own: divided by 1 it would teach the
    critic values in another unit than all that follow, to be unlearned over many iterations. A component
    that never varied is divided by 1.

    Both tiers change how much each component counts. With `preserve_task` the part that is one number for
    the whole rollout is handed on as `factor`, so that the advantages can be freed of it: the critic's
    targets are normalised, what the policy optimises stays the task.
    """

    @checked
    def __init__(
        self,
        *,
        reward_names: Annotated[tuple[str, ...], MinLen(1)],
        num_envs: Count,
        gamma: Annotated[float, Ge(0), Le(1)],
        device: torch.device,
        enable_per_episode_norm: bool = True,
        enable_cross_episode_scaling: bool = True,
        min_episode_length: Count = 5,
        normalization_method: Literal["scale", "zscore", "minmax", "adaptive"] = "scale",
        scaling_warmup_episodes: CountOrZero = 50,
        preserve_task: bool = True,
    ) -> None:
        self.reward_names = reward_names
        self.gamma = gamma
        self.enable_per_episode_norm = enable_per_episode_norm
        self.enable_cross_episode_scaling = enable_cross_episode_scaling
        self.min_episode_length = min_episode_length
        self.normalization_method = normalization_method
        self.scaling_warmup_episodes = scaling_warmup_episodes
        self.preserve_task = preserve_task

        components = (len(reward_names),)
        self._rollouts = 0
        self._episodes = torch.zeros((), dtype=torch.int64, device=device)
        self._reward_moments = RunningMoments(components, device)
        self._return_moments = RunningMoments(components, device)
        self._discounted = torch.zeros(num_envs, *components, dtype=torch.float64, device=device)

    @torch.no_grad()
    def rewards(self, rollout: Rollout) -> RewardResult:
        """`[T, N, K]` normalised rewards, and the factor `[K]` that the advantages must be divided by."""
        raw = rollout.rewards.to(torch.float64)
        unit = running_unit(self._reward_moments if self._rollouts else self._moments_of(raw))
        balance = self._cross_episode_factor()
        constant = balance  # what multiplies a component over the whole rollout
        tier1 = raw
        if self.enable_per_episode_norm:
            tier1 = self._per_episode(raw, rollout.done, unit)
            if self.normalization_method == "scale":
                constant = balance / unit
        dtype = rollout.rewards.dtype
        factor = constant if self.preserve_task else torch.ones_like(constant)
        undoable = not self.enable_per_episode_norm or self.normalization_method == "scale"
        metrics = self._metrics(balance, unit)
        self._observe(raw, tier1, rollout.done)
        applied = constant.to(dtype) if undoable else None
        return RewardResult((tier1 * balance).to(dtype), factor.to(dtype), metrics, applied)

    @staticmethod
    def _moments_of(rewards: Tensor) -> RunningMoments:
        moments = RunningMoments(tuple(rewards.shape[2:]), rewards.device)
        moments.update(rewards)
        return moments

    def _per_episode(self, rewards: Tensor, done: Tensor, unit: Tensor) -> Tensor:
        scaled = rewards / unit
        if self.normalization_method == "scale":
            return scaled
        stretch = stretches(rewards, done)
        constant = stretch.std <= CONSTANT * torch.maximum(stretch.low.abs(), stretch.high.abs())
        zscore = (rewards - stretch.mean) / torch.where(constant, 1.0, stretch.std)
        minmax = (rewards - stretch.low) / torch.where(constant, 1.0, stretch.high - stretch.low)
        if self.normalization_method == "zscore":
            normalised = zscore
        elif self.normalization_method == "minmax":
            normalised = minmax
        else:
            normalised = torch.where(stretch.std < ADAPTIVE_STD, minmax, zscore)
        normalised = torch.where(constant, 0.0, normalised)
        return torch.where(stretch.length < self.min_episode_length, scaled, normalised)

    def _cross_episode_factor(self) -> Tensor:
        """`[K]` of tier 2, 1 until it is warm."""
        factor = balancing_factors(self._return_moments.std)
        if not self.enable_cross_episode_scaling:
            return torch.ones_like(factor)
        return torch.where(self._episodes >= self.scaling_warmup_episodes, factor, 1.0)

    def _observe(self, raw: Tensor, tier1: Tensor, done: Tensor) -> None:
        discounted = self._discounted_returns(tier1, done)
        self._return_moments.update(discounted)
        self._reward_moments.update(raw)
        self._episodes += distributed.all_reduce_sum(done.sum())
        self._rollouts += 1

    def _discounted_returns(self, rewards: Tensor, done: Tensor) -> Tensor:
        """`[T, N, K]` Σ γ^i r_{t−i} back to the start of the episode, which may lie in an earlier rollout."""
        keep = self.gamma * (~done).to(rewards.dtype).unsqueeze(-1)
        returns = torch.empty_like(rewards)
        torch.add(rewards[0], self._discounted, out=returns[0])
        for t in range(1, len(rewards)):
            torch.addcmul(rewards[t], keep[t - 1], returns[t - 1], out=returns[t])
        self._discounted = keep[-1] * returns[-1]
        return returns

    def _metrics(self, balance: Tensor, unit: Tensor) -> Metrics:
        low, high = FACTOR_BOUNDS
        by_component = {
            "factor": balance,
            "at_bound": ((balance <= low) | (balance >= high)).double(),
            "reward_std": unit,
            "return_std": self._return_moments.std,
        }
        metrics = {
            f"reward_normalization/{metric}/{name}": Metric(values[k], "last")
            for metric, values in by_component.items()
            for k, name in enumerate(self.reward_names)
        }
        metrics["reward_normalization/episodes"] = Metric(self._episodes.clone(), "last")
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "rollouts": self._rollouts,
            "episodes": self._episodes.clone(),
            "rewards": deepcopy(self._reward_moments.state_dict()),
            "returns": deepcopy(self._return_moments.state_dict()),
            "discounted": self._discounted.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["discounted"].shape[1:] != self._discounted.shape[1:]:
            raise ValueError(
                f"reward normalization for {self._discounted.shape[1]} components cannot take the state of "
                f"{state['discounted'].shape[1]}"
            )
        self._rollouts = state["rollouts"]
        self._episodes.copy_(state["episodes"])
        self._reward_moments.load_state_dict(state["rewards"])
        self._return_moments.load_state_dict(state["returns"])
        if len(state["discounted"]) == len(self._discounted):  # else all environments are new
            self._discounted = state["discounted"].to(self._discounted.device, copy=True)


class Stretch(NamedTuple):
    """Of the part of its episode inside the rollout that a step belongs to, per component: `[T, N, K]`."""

    length: Tensor
    mean: Tensor
    std: Tensor
    """Population std."""
    low: Tensor
    high: Tensor


def stretches(rewards: Tensor, done: Tensor) -> Stretch:
    """Statistics of the episodes in `rewards` `[T, N, K]`, `done` `[T, N]` being True at each last step."""
    episode = (done.cumsum(0) - done.long()).unsqueeze(-1).expand_as(rewards)

    def over(values: Tensor, reduction: str) -> Tensor:
        pooled = torch.zeros_like(values).scatter_reduce(0, episode, values, reduction, include_self=False)
        return pooled.gather(0, episode)

    length = over(torch.ones_like(rewards), "sum")
    mean = over(rewards, "sum") / length
    std = (over((rewards - mean).square(), "sum") / length).sqrt()
    return Stretch(length, mean, std, over(rewards, "amin"), over(rewards, "amax"))


def running_unit(moments: RunningMoments) -> Tensor:
    """`[K]` running std, 1 where a component has not varied so far."""
    size = (moments.var + moments.mean.square()).sqrt()
    return torch.where(moments.std > CONSTANT * size, moments.std, 1.0)


def balancing_factors(std: Tensor) -> Tensor:
    """`[K]` clamp(median std ÷ std, 0.1, 10); the median of an even count is the mean of the middle two.

    A component without spread gets 1 and is left out of the median.
    """
    varied = std > 0
    median = torch.where(varied, std, torch.nan).nanquantile(0.5)
    return torch.where(varied, (median / std).clamp(*FACTOR_BOUNDS), 1.0)
