"""Collecting: the policy acts in all environments for T steps; nothing is read back to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from equipoise.envs.checked import CheckedEnv
from equipoise.envs.protocol import BatchedEnv, RemarkingEnv
from equipoise.trainer.compilation.compiling import Compiling
from equipoise.trainer.compilation.graphs import Graphed
from equipoise.trainer.data import Actions, Metric, Metrics, Rollout
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.protocol import Policy
from equipoise.trainer.spaces import HybridSpace
from equipoise.trainer.system import distributed


class NonFiniteError(ValueError):
    """An environment gave NaN or an infinite number."""


def allocate(env: BatchedEnv, space: HybridSpace, steps: int, width: int, num_values: int) -> Rollout:
    """A rollout of `steps` × `env.num_envs`, whose buffers every iteration writes anew."""
    size, components, device = (steps, env.num_envs), len(env.reward_names), env.device

    def floats(*shape: int) -> Tensor:
        return torch.zeros(*size, *shape, device=device)

    return Rollout(
        observations=floats(width),
        actions=Actions(floats(space.num_heads).to(torch.int64), floats(space.num_continuous)),
        action_mask=space.valid_choices.expand(*size, *space.valid_choices.shape),
        discrete_log_prob=floats(space.num_heads),
        continuous_log_prob=floats(space.num_decisions),
        rewards=floats(components),
        terminated=floats().to(torch.bool),
        truncated=floats().to(torch.bool),
        final_observations=floats(width),
        last_observation=floats(width)[0],
        reward_weights=torch.tensor(env.reward_weights, dtype=torch.float32, device=device),
        values=floats(num_values),
        advantages=floats(components),
    )


@dataclass
class Carry:
    """What one rollout leaves for the next."""

    observation: Tensor
    """`[N, O]`."""
    action_mask: Tensor | None
    """`[N, H, C]`."""
    episode_return: Tensor
    """`[N]`: of the episode that goes on."""
    episode_length: Tensor
    """`[N]`."""


class _Step(NamedTuple):
    """What one step in all environments gives, `[N, ...]` each, or where it is written."""

    choices: Tensor
    parameters: Tensor
    logits: Tensor
    mean: Tensor
    log_std: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_observation: Tensor


Acted = tuple[tuple[Tensor, Tensor, Tensor], Actions]
"""What the actor puts out (logits, mean, log-std), and the actions drawn from it."""


class Collector:
    """Steps the environments and writes what happens into one rollout, over and over.

    Args:
        env: already built, not yet reset.
        policy: acts; its normaliser must not change while a rollout is collected.
        rollout: the buffers.
        generator: of the exploration noise, on the environment's device.
        seed: of the environments.
        compiling: `trainer.compile`; `default` records a step, or acting alone where the environment cannot
            be recorded, `cudagraphs` a whole rollout.
    """

    def __init__(
        self,
        env: BatchedEnv,
        policy: Policy,
        rollout: Rollout,
        generator: torch.Generator,
        seed: int,
        compiling: Literal["none", "default", "cudagraphs"] = "none",
    ) -> None:
        self.env = env
        self._checked = CheckedEnv(env)
        self.policy = policy
        self.rollout = rollout
        self.generator = generator
        observation, mask = self._checked.reset(seed)
        if mask is not None:
            rollout.action_mask = mask.new_zeros(len(rollout.rewards), *mask.shape)
        zeros = torch.zeros(env.num_envs, device=env.device)
        self._now = Carry(observation, mask, zeros, zeros.clone())
        self._all_steps: Callable[..., list[Metrics]] = self._run
        self._one_step: Callable[..., tuple[_Step, Mapping[str, Tensor]]] = self._step
        self._graphs: Graphed[Any] | None = None
        self._acting: Graphed[Acted] | None = None
        owners = [self._now, env]
        if compiling == "default":
            self._graphs = Graphed(compiling, "a step of the rollout", self._step, owners, env.device)
            self._one_step = partial(self._graphs, None)
            if self._graphs.compiling.notice is None:
                self._acting = Graphed(compiling, "acting", self._act, [], env.device)
        elif compiling == "cudagraphs":
            self._graphs = Graphed(compiling, "the rollout", self._run, owners, env.device)
            self._all_steps = partial(self._graphs, None)
        self._heads = self._allocate_heads()
        self._slots = self._take_apart()

    @property
    def compiling(self) -> list[Compiling]:
        """How far `trainer.compile` has come; empty for `none`."""
        return [graphs.compiling for graphs in (self._graphs, self._acting) if graphs is not None]

    def collect(self) -> tuple[Rollout, list[Metrics]]:
        """Fill the rollout with the next T steps; the metrics of each are for `episode_means`."""
        return self.rollout, self._all_steps(*self._noise(*self.rollout.terminated.shape))

    @torch.inference_mode()
    def _run(self, gumbel: Tensor, normal: Tensor) -> list[Metrics]:
        rollout, now = self.rollout, self._now
        log_std = self.policy.global_log_std()
        ended: list[Metrics] = []
        for *noise, observation, mask, slot in zip(
            gumbel, normal, rollout.observations, rollout.action_mask, self._slots, strict=True
        ):
            observation.copy_(now.observation)
            if now.action_mask is not None:
                mask.copy_(now.action_mask)
            step, metrics = self._one_step(*noise, log_std)
            for place, value in zip(slot, step, strict=True):
                place.copy_(value)
            # Copies: a graph writes over its own at the next step.
            ended.append({f"episode/{name}": Metric(metric.clone()) for name, metric in metrics.items()})
        rollout.last_observation.copy_(now.observation)
        self._remember_log_probs()
        return [*ended, self._count()]

    @torch.inference_mode()
    def _step(
        self, gumbel: Tensor, normal: Tensor, log_std: Tensor | None
    ) -> tuple[_Step, Mapping[str, Tensor]]:
        """Act once; also gives the environment's own metrics."""
        now, act = self._now, self._act
        if (
            self._acting is not None
            and self._graphs is not None
            and self._graphs.compiling.notice is not None
        ):
            act = partial(self._acting, None)
        heads, actions = act(now.observation, now.action_mask, gumbel, normal, log_std)
        timestep = self._checked.step(self.policy.space.to_native(actions))
        now.observation, now.action_mask = timestep.observation, timestep.action_mask
        outcome = timestep.rewards, timestep.terminated, timestep.truncated, timestep.final_observation
        return _Step(*actions, *heads, *outcome), timestep.metrics

    def _how_to_act(self) -> Callable[..., Acted]:
        """By a graph of its own where the environment cannot be recorded with it."""
        graphs, acting = self._graphs, self._acting
        if graphs is None or acting is None or graphs.compiling.notice is None:
            return self._act
        return partial(acting, None)

    @torch.inference_mode()
    def _act(
        self,
        observation: Tensor,
        action_mask: Tensor | None,
        gumbel: Tensor,
        normal: Tensor,
        log_std: Tensor | None,
    ) -> Acted:
        heads = self.policy.actor(self.policy.normalize(observation), log_std)
        return heads, self.policy.as_distribution(*heads, action_mask=action_mask).sample(gumbel, normal)

    def _allocate_heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Room for the heads of all steps, whose log-probabilities are taken at once."""
        space, (steps, num_envs) = self.policy.space, self.rollout.terminated.shape
        each = (num_envs,) if self.policy.global_log_std() is None else ()

        def floats(*shape: int) -> Tensor:
            return torch.zeros(steps, *shape, device=self.env.device)

        parameters = space.num_continuous
        logits = floats(num_envs, space.num_heads, space.max_choices)
        return logits, floats(num_envs, parameters), floats(*each, parameters)

    def _take_apart(self) -> list[_Step]:
        """Where each step is written: views of the buffers, made once."""
        rollout = self.rollout
        outcome = rollout.rewards, rollout.terminated, rollout.truncated, rollout.final_observations
        return [_Step(*views) for views in zip(*rollout.actions, *self._heads, *outcome, strict=True)]

    def _remember_log_probs(self) -> None:
        """Of all steps at once: many small operations less in the loop."""
        rollout, space = self.rollout, self.policy.space
        logits, mean, log_std = self._heads
        choices, parameters, mask = (part.flatten(0, 1) for part in (*rollout.actions, rollout.action_mask))
        log_std = log_std[0] if log_std.dim() == 2 else log_std.flatten(0, 1)  # one for all states, or not
        distribution = HybridDistribution(space, logits.flatten(0, 1), mean.flatten(0, 1), log_std, mask)
        discrete = distribution.discrete_log_prob(choices)
        continuous = distribution.continuous_log_prob(parameters, space.relevant(choices))
        rollout.discrete_log_prob.copy_(discrete.view_as(rollout.discrete_log_prob))
        rollout.continuous_log_prob.copy_(continuous.view_as(rollout.continuous_log_prob))

    @torch.inference_mode()
    def _noise(self, steps: int, num_envs: int) -> tuple[Tensor, Tensor]:
        """Standard Gumbel `[T, N, H, C]` and normal `[T, N, P]` noise for a whole rollout."""
        space, device = self.policy.space, self.env.device
        shape = (steps, num_envs, space.num_heads, space.max_choices)
        gumbel = -torch.empty(shape, device=device).exponential_(generator=self.generator).log_()
        normal = torch.empty((steps, num_envs, space.num_continuous), device=device)
        return gumbel, normal.normal_(generator=self.generator)

    def _count(self) -> Metrics:
        """`[T, N]`: the returns and lengths of the episodes that ended in this rollout, NaN elsewhere."""
        rollout = self.rollout
        done = rollout.done
        rewards = (rollout.rewards @ rollout.reward_weights).double()
        # [T + 1, N]: up to the beginning of each step, with what the first episodes had before this rollout.
        totals = torch.cat([self._now.episode_return.double()[None], rewards]).cumsum(0)
        ends = torch.arange(1, len(done) + 1, device=done.device)[:, None]
        began = torch.cat([torch.zeros_like(ends[:1]).expand_as(done[:1]), (ends * done).cummax(0).values])[
            :-1
        ]
        first = began == 0
        returns = totals[1:] - totals.gather(0, began).masked_fill(first, 0.0)
        lengths = ends - began + self._now.episode_length * first
        last = done[-1]
        self._now.episode_return = returns[-1].float().masked_fill(last, 0.0)
        self._now.episode_length = lengths[-1].masked_fill(last, 0.0)
        return {
            "episode/return": Metric(returns.float().where(done, torch.nan)),
            "episode/length": Metric(lengths.where(done, torch.nan)),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "env": self.env.state_dict(),
            "observation": self._now.observation.clone(),
            "action_mask": None if self._now.action_mask is None else self._now.action_mask.clone(),
            "episode_return": self._now.episode_return.clone(),
            "episode_length": self._now.episode_length.clone(),
            "generator": self.generator.get_state(),
        }

    @property
    def notice(self) -> str | None:
        """What is not as it was since `load_state_dict`: set where the environment cannot go on exactly."""
        return getattr(self.env, "notice", None)

    def take_remarks(self) -> list[str]:
        """What the environment has to tell the user since this was last asked."""
        return self.env.take_remarks() if isinstance(self.env, RemarkingEnv) else []

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = self.env.device
        self.generator.set_state(state["generator"].cpu())
        self.env.load_state_dict(state["env"])
        if self.notice is not None:
            self._now.observation, self._now.action_mask = self._checked.reset()
            self._now.episode_return.zero_()
            self._now.episode_length.zero_()
            return
        self._now.observation = state["observation"].to(device)
        self._now.action_mask = None if state["action_mask"] is None else state["action_mask"].to(device)
        self._now.episode_return = state["episode_return"].to(device)
        self._now.episode_length = state["episode_length"].to(device)


def episode_means(steps: list[Metrics]) -> Metrics:
    """The mean over all steps and processes of what is not NaN; a step need not have every metric."""
    sums = {}
    for tag in dict.fromkeys(tag for step in steps for tag in step):
        metrics = torch.stack([step[tag].value for step in steps if tag in step])
        sums[tag] = torch.stack([metrics.nansum(), (~metrics.isnan()).sum()])
    return {tag: Metric(whole / count) for tag, (whole, count) in distributed.all_reduce_sums(sums).items()}


_AFTER = "observation after the last step"


def check_finite(rollout: Rollout, reward_names: tuple[str, ...], env_steps: int) -> None:
    """Refuse a rollout with NaN or infinite rewards or observations before anything learns from it.

    Raises:
        NonFiniteError: names the earliest: the field, the component, the environment and the step.
    """
    ended = rollout.done.unsqueeze(-1)
    fields = {  # in the order in which they come about within a step
        "observation": rollout.observations,
        "reward": rollout.rewards,
        "final observation": torch.where(ended, rollout.final_observations, 0.0),
        _AFTER: rollout.last_observation.unsqueeze(0),
    }
    # One number for the host while all is well: a sum is finite only if every entry is.
    if bool(torch.stack([field.sum() for field in fields.values()]).isfinite().all()):
        return
    found = []
    for name, field in fields.items():
        bad = (~field.isfinite()).nonzero()
        if len(bad):
            step, env, column = (int(index) for index in bad[0])
            what = f"{name} {reward_names[column]!r}" if name == "reward" else f"{name} [{column}]"
            shift = len(rollout.rewards) if name == _AFTER else 0
            found.append((step + shift, what, env, float(field[step, env, column])))
    if found:
        step, what, env, value = min(found, key=lambda entry: entry[0])
        raise NonFiniteError(
            f"{what} is {value} in environment {env}, step {step} of the rollout that began at {env_steps} "
            "env steps; observations and rewards must be finite"
        )
