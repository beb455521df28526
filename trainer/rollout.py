"""Collecting: the policy acts in all environments for T steps; nothing is read back to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equipoise.envs.checked import CheckedEnv, close
from equipoise.envs.dependent_masks import ActionMask, DependentMask, from_plain, to_plain
from equipoise.envs.gymnasium_adapter import GymnasiumEnv
from equipoise.envs.protocol import BatchedEnv, RemarkingEnv
from equipoise.envs.vectorised import VectorisedEnv
from equipoise.trainer.compilation import Compiled, Setting
from equipoise.trainer.data import Actions, Metric, Metrics, Rollout, Sequences, Targets
from equipoise.trainer.episodes import LENGTH, Unfinished, count_episodes, short_ones_only
from equipoise.trainer.idle_steps import IdleSteps
from equipoise.trainer.policy.head_after_head import check_order
from equipoise.trainer.policy.player import forget
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.policy.storage import Storage
from equipoise.trainer.spaces import HybridSpace


def allocate(
    env: BatchedEnv, space: HybridSpace, steps: int, width: int, storage: Storage | None = None
) -> Rollout:
    """A rollout of `steps` × `env.num_envs`, whose buffers every iteration writes anew."""
    size, device = (steps, env.num_envs), env.device

    def floats(*shape: int) -> Tensor:
        return torch.zeros(*size, *shape, device=device)

    def rows() -> Tensor:
        return floats(width) if storage is None else floats(storage.width).to(torch.uint8)

    return Rollout(
        observations=rows(),
        actions=Actions(floats(space.num_heads).to(torch.int64), floats(space.num_continuous)),
        action_mask=space.valid_choices.expand(*size, *space.valid_choices.shape),
        discrete_log_prob=floats(space.num_heads),
        continuous_log_prob=floats(space.num_decisions),
        rewards=floats(len(env.reward_names)),
        terminated=floats().to(torch.bool),
        truncated=floats().to(torch.bool),
        final_observations=rows(),
        last_observation=rows()[0],
        reward_weights=torch.tensor(env.reward_weights, dtype=torch.float32, device=device),
        reward_names=tuple(env.reward_names),
    )


@dataclass
class Carry:
    """What one rollout leaves for the next."""

    observation: Tensor
    """`[N, O]`."""
    action_mask: ActionMask | None
    """`[N, H, C]` or `[N, S]`, or one that depends on choices."""
    unfinished: Unfinished
    ended: Tensor
    """`[N]` int64: how many episodes have ended since all environments were reset."""
    state: Tensor
    """`[N, M]`: what the policy's memory knows before it sees `observation`."""


ActorOutput = tuple[Tensor, Tensor, Tensor]
"""Logits `[N, H, C]` or `[N, S]`, mean `[N, P]` and log-std `[N, P]`, or `[P]` where it is the same in all
states."""


Acting = Callable[..., tuple[ActorOutput, Tensor | None, Actions, Tensor]]
"""What `Collector._act` is: gives the heads, the mask where it depends on choices, the actions, and the state
of the memory."""


class Step(NamedTuple):
    """What one step in all environments returns, `[N, ...]` each; or the buffers it is written to."""

    action_mask: Tensor | None
    """What the choices left valid, where the mask depends on them; else it is known beforehand."""
    discrete: Tensor
    continuous: Tensor
    logits: Tensor
    mean: Tensor
    log_std: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Tensor


class Collector:
    """Steps the environments and writes what happens into one rollout, over and over.

    Args:
        env: already built, not yet reset.
        policy: acts; its normaliser must not change while a rollout is collected.
        rollout: the buffers.
        generator: of the exploration noise, on the environment's device.
        seed: of the environments.
        compiling: `trainer.compile`: whole steps, or acting alone if the environment cannot be compiled.
    """

    def __init__(
        self,
        env: BatchedEnv,
        policy: Policy,
        rollout: Rollout,
        generator: torch.Generator,
        seed: int,
        compiling: Setting = "none",
    ) -> None:
        self.env, self.policy, self.rollout, self.generator = env, policy, rollout, generator
        self._checked, self._idle = CheckedEnv(env), IdleSteps(env)
        observation, mask = self._checked.reset(seed)
        self.masked = mask is not None
        """Whether the environment gives action masks."""
        if mask is not None:
            check_order(mask, policy)
            own = mask.own if isinstance(mask, DependentMask) else mask
            rollout.action_mask = own.new_zeros(len(rollout.rewards), *own.shape)
        zeros = torch.zeros(env.num_envs, device=env.device)
        unfinished, state = Unfinished(zeros, zeros.clone()), policy.initial_state(env.num_envs)
        self._now = Carry(observation, mask, unfinished, zeros.to(torch.int64), state)
        if policy.state_size:
            rollout.sequences = Sequences(state.clone(), rollout.done)
            rollout.last_state = state.clone()
        self._heads = _allocate_heads(policy, *rollout.done.shape)
        self._slots = _slots(rollout, self._heads, isinstance(mask, DependentMask))
        in_python = isinstance(env, GymnasiumEnv | VectorisedEnv)
        self.act = Compiled(compiling, "acting", self._act, env.device)
        self.step = Compiled(
            compiling,
            "a step of the rollout",
            partial(self._step, self._act),
            env.device,
            otherwise=partial(self._step, self.act.call),
            obstacle=f"{type(env).__name__} computes in Python" if in_python else None,
        )

    @torch.inference_mode()
    def collect(self, after_step: Callable[[], object] = lambda: None) -> tuple[Rollout, list[Metrics]]:
        """Fill the rollout with the next T steps; the metrics of each are for `episode_means`."""
        rollout, now = self.rollout, self._now
        steps, num_envs = rollout.done.shape
        gumbel, normal = _noise(self.policy, steps, num_envs, self.generator)
        log_std = self.policy.global_log_std()
        found: list[Metrics] = []
        if rollout.sequences is not None:
            rollout.sequences.state.copy_(now.state)
        for *noise, observation, mask, slot in zip(
            gumbel, normal, rollout.observations, rollout.action_mask, self._slots, strict=True
        ):
            observation.copy_(self.policy.pack(now.observation))
            if isinstance(now.action_mask, Tensor):
                mask.copy_(now.action_mask)
            step, metrics = self.step.call(*noise, log_std)
            after_step()
            if rollout.sequences is not None and (idle := self._idle.latest()) is not None:
                now.state = forget(now.state, idle)
            for place, value in zip(slot, step, strict=True):
                if place is not None and value is not None:
                    place.copy_(value)
            # Copies: an environment may write over its own at the next step.
            found.append({f"episode/{name}": Metric(metric.clone()) for name, metric in metrics.items()})
        rollout.last_observation.copy_(self.policy.pack(now.observation))
        _write_log_probs(rollout, self._heads, self.policy)
        rollout.idle = self._idle.all()
        ended, now.unfinished = count_episodes(
            rollout.task_reward, rollout.done, now.unfinished, rollout.idle
        )
        now.ended = now.ended + rollout.done.sum(0)
        found.append({"episode/return": Metric(ended.returns), LENGTH: Metric(ended.lengths)})
        if rollout.sequences is not None and rollout.last_state is not None:
            rollout.last_state.copy_(now.state)
            over = rollout.done if rollout.idle is None else rollout.done | rollout.idle
            rollout.sequences.begins[1:] = over[:-1]
        return rollout, found

    def _step(
        self,
        act: Acting,
        gumbel: Tensor,
        normal: Tensor,
        log_std: Tensor | None,
    ) -> tuple[Step, Mapping[str, Tensor]]:
        """Act once; also returns the environment's own metrics."""
        now = self._now
        given = now.observation, now.state, now.action_mask
        heads, mask, actions, state = act(*given, gumbel, normal, log_std)
        timestep = self._checked.step(self.policy.to_native(actions))
        now.observation, now.action_mask = timestep.observation, timestep.action_mask
        if self.policy.state_size:
            now.state = forget(state, timestep.terminated | timestep.truncated)
        final = self.policy.pack(timestep.final_observation)
        outcome = timestep.rewards, timestep.terminated, timestep.truncated, final
        return Step(mask, *actions, *heads, *outcome), timestep.metrics

    def _act(
        self,
        observation: Tensor,
        state: Tensor,
        action_mask: ActionMask | None,
        gumbel: Tensor,
        normal: Tensor,
        log_std: Tensor | None,
    ) -> tuple[ActorOutput, Tensor | None, Actions, Tensor]:
        inputs, state = self.policy.remember(self.policy.normalize(observation), state)
        acting = self.policy.acting(inputs, action_mask, log_std)
        actions = acting.sample(gumbel, normal)
        taken_from = acting.given(actions.discrete)
        mask = taken_from.action_mask if isinstance(action_mask, DependentMask) else None
        return (taken_from.logits, taken_from.mean, taken_from.log_std), mask, actions, state

    def judged(self, targets: Targets) -> Metrics:
        """Hears what this rollout was worth, before anything learns from it; what it has to say of that."""
        return {}

    def learned(self, metrics: Mapping[str, float]) -> None:
        """Hears the metrics of the iteration that has learned from this rollout."""

    @property
    def short_episodes_only(self) -> Tensor:
        """Whether the episodes collected so far are a misleading sample: see `episodes.short_ones_only`."""
        return short_ones_only(self._now.ended)

    def state_dict(self) -> dict[str, Any]:
        returns, lengths = self._now.unfinished
        return {
            "env": self.env.state_dict(),
            "observation": self._now.observation.clone(),
            "action_mask": to_plain(self._now.action_mask),
            "episode_return": returns.clone(),
            "episode_length": lengths.clone(),
            "episodes_ended": self._now.ended.clone(),
            "state": self._now.state.clone(),
            "generator": self.generator.get_state(),
        }

    def exchange(self, env: BatchedEnv, seed: int) -> None:
        """Continue in other environments of the same spaces, with new episodes; closes the former ones."""
        close(self.env)
        self.env, self._checked, self._idle = env, CheckedEnv(env), IdleSteps(env)
        self._begin_anew(seed)

    def _begin_anew(self, seed: int | None = None) -> None:
        now = self._now
        now.observation, now.action_mask = self._checked.reset(seed)
        now.unfinished = Unfinished(*map(torch.zeros_like, now.unfinished))
        now.ended, now.state = torch.zeros_like(now.ended), torch.zeros_like(now.state)

    @property
    def notice(self) -> str | None:
        """Why training does not continue exactly after `load_state_dict`; None: it does."""
        return getattr(self.env, "notice", None)

    def take_remarks(self) -> list[str]:
        """What the environment has to tell the user since the last call."""
        return self.env.take_remarks() if isinstance(self.env, RemarkingEnv) else []

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`, or with new episodes if its `env` is None."""
        device, now = self.env.device, self._now
        self.generator.set_state(state["generator"].cpu())
        if state["env"] is not None:
            self.env.load_state_dict(state["env"])
        if state["env"] is None or self.notice is not None:
            self._begin_anew()
            return
        now.observation = state["observation"].to(device)
        mask = from_plain(state["action_mask"], device)
        if isinstance(mask, Tensor):
            mask = self.policy.space.laid_out(mask)
        now.action_mask = self._checked.complete(mask)
        now.unfinished = Unfinished(state["episode_return"].to(device), state["episode_length"].to(device))
        now.ended = state["episodes_ended"].to(device)
        if self.policy.state_size:
            now.state = state["state"].to(device)


def _allocate_heads(policy: Policy, steps: int, num_envs: int) -> ActorOutput:
    """`[T, ...]`: buffers for the actor's outputs, whose log-probabilities are computed all at once."""
    space = policy.space
    each = (num_envs,) if policy.global_log_std() is None else ()

    def floats(*shape: int) -> Tensor:
        return torch.zeros(steps, *shape, device=space.device)

    logits = floats(num_envs, *space.valid_choices.shape)
    return logits, floats(num_envs, space.num_continuous), floats(*each, space.num_continuous)


def _slots(rollout: Rollout, heads: ActorOutput, with_mask: bool) -> list[Step]:
    """Where each step is written: views of the buffers, made once."""
    masks = rollout.action_mask if with_mask else [None] * len(rollout.rewards)
    outcome = rollout.rewards, rollout.terminated, rollout.truncated, rollout.final_observations
    return [Step(*views) for views in zip(masks, *rollout.actions, *heads, *outcome, strict=True)]


def _write_log_probs(rollout: Rollout, heads: ActorOutput, policy: Policy) -> None:
    """Compute those of all steps at once, which saves many small operations in each step."""
    logits, mean, log_std = heads
    choices, parameters, mask = (part.flatten(0, 1) for part in (*rollout.actions, rollout.action_mask))
    log_std = log_std[0] if log_std.dim() == 2 else log_std.flatten(0, 1)  # one for all states, or not
    distribution = policy.as_distribution(logits.flatten(0, 1), mean.flatten(0, 1), log_std, mask)
    discrete = distribution.discrete_log_prob(choices)
    continuous = distribution.continuous_log_prob(parameters, policy.space.relevant(choices))
    rollout.discrete_log_prob.copy_(discrete.view_as(rollout.discrete_log_prob))
    rollout.continuous_log_prob.copy_(continuous.view_as(rollout.continuous_log_prob))


@torch.inference_mode()
def _noise(policy: Policy, steps: int, num_envs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Standard Gumbel `[T, N, H, C]` or `[T, N, S]` and normal `[T, N, P, *family.noise]` noise for a whole
    rollout."""
    space = policy.space
    shape = (steps, num_envs, *space.valid_choices.shape)
    gumbel = torch.empty(shape, device=generator.device).exponential_(generator=generator).log_().neg_()
    each = (space.num_continuous, *policy.family.noise)
    normal = torch.empty((steps, num_envs, *each), device=generator.device)
    return gumbel, normal.normal_(generator=generator)
