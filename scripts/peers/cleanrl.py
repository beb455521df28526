"""CleanRL's structure with a hybrid agent made by hand: what one gets by adapting its single-file PPO.

Written anew after the published structure (Huang et al., *CleanRL*, JMLR 2022, `ppo.py`): one file, an agent
of two networks with orthogonal weights, storage tensors, GAE backwards over the steps, shuffled minibatches,
advantages standardised in each, clipped values, `approx_kl` and `clipfrac` read in each, Adam with eps 1e-5.
What a user would change for hybrid actions: a Categorical beside the Normal, and the sum of both
log-probabilities in one ratio. The synthetic environment is called with tensors, as CleanRL's Isaac Gym
variant does; a Gymnasium environment through `SyncVectorEnv` and arrays, as its `ppo.py` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from equipoise.scripts.peers.task import Task, orthogonal, synthetic, tower

PACKAGES = ("torch", "numpy", "gymnasium")


class Agent(nn.Module):
    """Actions are `[B, 1 + P]` float32: the choice, then the parameters."""

    def __init__(self, inputs: int, choices: int, parameters: int) -> None:
        super().__init__()
        self.choices = choices
        self.actor = orthogonal(tower(inputs, choices + parameters), 0.01)
        self.critic = orthogonal(tower(inputs, 1), 1.0)
        self.log_std = nn.Parameter(torch.full((parameters,), -0.5))

    def value(self, observation: Tensor) -> Tensor:
        value: Tensor = self.critic(observation)
        return value.squeeze(-1)

    def act(self, observation: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Action, its log-probability, entropy and value."""
        outputs = self.actor(observation)
        logits, mean = outputs[:, : self.choices], outputs[:, self.choices :]
        discrete = Categorical(logits=logits)
        if not mean.shape[1]:
            choice = discrete.sample() if action is None else action[:, 0]
            whole = choice.unsqueeze(1).float()
            return whole, discrete.log_prob(choice), discrete.entropy(), self.value(observation)
        continuous = Normal(mean, self.log_std.exp().expand_as(mean))
        if action is None:
            action = torch.cat([discrete.sample().unsqueeze(1), continuous.sample()], 1)
        log_prob = discrete.log_prob(action[:, 0]) + continuous.log_prob(action[:, 1:]).sum(1)
        entropy = discrete.entropy() + continuous.entropy().sum(1)
        return action, log_prob, entropy, self.value(observation)


class Env(Protocol):
    """What the loop needs of an environment; shapes `[N, O]`, `[N, 1 + P]`, `[N]`."""

    observation: Tensor
    inputs: int
    choices: int
    parameters: int

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Reward, and 1 where an episode ended; `observation` is then the next one."""
        ...


class Tensors:
    """The synthetic task."""

    inputs, choices, parameters = 32, 6, 4

    def __init__(self, num_envs: int) -> None:
        self.env = synthetic(num_envs)
        self.observation, _ = self.env.reset()

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        timestep = self.env.step((action[:, 0].long(), action[:, 1:].clamp(-1, 1)))
        self.observation = timestep.observation
        return timestep.rewards.sum(1), (timestep.terminated | timestep.truncated).float()


class Arrays:
    """A Gymnasium environment with a `Discrete` action space."""

    parameters = 0

    def __init__(self, id: str, num_envs: int) -> None:
        def make() -> gymnasium.Env[Any, Any]:
            return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(id))

        same_step = gymnasium.vector.AutoresetMode.SAME_STEP
        self.env = gymnasium.vector.SyncVectorEnv([make] * num_envs, autoreset_mode=same_step)
        self.inputs = int(np.prod(self.env.single_observation_space.shape or ()))
        space = self.env.single_action_space
        assert isinstance(space, gymnasium.spaces.Discrete)
        self.choices = int(space.n)
        self.observation = torch.as_tensor(self.env.reset(seed=1)[0], dtype=torch.float32)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor]:
        observation, reward, terminated, truncated, _ = self.env.step(action[:, 0].long().numpy())
        self.observation = torch.as_tensor(observation, dtype=torch.float32)
        done = torch.as_tensor(np.logical_or(terminated, truncated), dtype=torch.float32)
        return torch.as_tensor(reward, dtype=torch.float32), done


class PPO:
    """One call is one iteration."""

    def __init__(self, task: Task, env: Env) -> None:
        torch.manual_seed(1)
        self.task, self.env = task, env
        self.agent = Agent(env.inputs, env.choices, env.parameters)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=task.learning_rate, eps=1e-5)
        size = (task.steps, task.envs)
        self.observations = torch.zeros(*size, env.inputs)
        self.actions = torch.zeros(*size, 1 + env.parameters)
        self.log_probs, self.rewards = torch.zeros(size), torch.zeros(size)
        self.dones, self.values = torch.zeros(size), torch.zeros(size)
        self.figures: dict[str, float] = {}

    def __call__(self) -> None:
        self.collect()
        advantages = self.advantages()
        samples = (
            self.observations.flatten(0, 1),
            self.actions.flatten(0, 1),
            self.log_probs.flatten(),
            self.values.flatten(),
            advantages.flatten(),
            (advantages + self.values).flatten(),
        )
        figures: list[tuple[Any, Any]] = []
        indices = np.arange(self.task.samples)
        for _ in range(self.task.epochs):
            np.random.shuffle(indices)
            for start in range(0, self.task.samples, self.task.minibatch):
                chosen = indices[start : start + self.task.minibatch]
                figures.append(self.read(*self.learn(*(column[chosen] for column in samples))))
        divergences, clipped = zip(*figures, strict=True)
        self.figures = {"approx_kl": float(divergences[-1]), "clipfrac": float(sum(clipped)) / len(clipped)}
        self.figures["reward"] = self.rewards.mean().item()

    def collect(self) -> None:
        for step in range(self.task.steps):
            self.observations[step] = self.env.observation
            with torch.no_grad():
                action, log_prob, _, value = self.agent.act(self.env.observation)
            self.actions[step], self.log_probs[step], self.values[step] = action, log_prob, value
            self.rewards[step], self.dones[step] = self.env.step(action)

    @torch.no_grad()
    def advantages(self) -> Tensor:
        """`[T, N]`, by GAE; an episode that ended is worth nothing more, truncated or not."""
        gamma, gae_lambda = self.task.gamma, self.task.gae_lambda
        advantages = torch.zeros_like(self.rewards)
        next_value, advantage = self.agent.value(self.env.observation), torch.zeros(self.task.envs)
        for step in reversed(range(self.task.steps)):
            going_on = 1.0 - self.dones[step]
            delta = self.rewards[step] + gamma * next_value * going_on - self.values[step]
            advantages[step] = advantage = delta + gamma * gae_lambda * going_on * advantage
            next_value = self.values[step]
        return advantages

    def learn(
        self,
        observation: Tensor,
        action: Tensor,
        old_log_prob: Tensor,
        old_value: Tensor,
        advantage: Tensor,
        target: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One minibatch; the divergence from the policy that acted, and the fraction of ratios that were
        clipped."""
        _, log_prob, entropy, value = self.agent.act(observation, action)
        log_ratio = log_prob - old_log_prob
        ratio, clip = log_ratio.exp(), self.task.clip
        with torch.no_grad():
            divergence = ((ratio - 1) - log_ratio).mean()
            clipped = ((ratio - 1).abs() > clip).float().mean()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        policy_loss = torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)).mean()
        near = old_value + (value - old_value).clamp(-clip, clip)
        value_loss = 0.5 * torch.max((value - target).square(), (near - target).square()).mean()
        loss = policy_loss + self.task.value_coefficient * value_loss
        loss = loss - self.task.entropy_coefficient * entropy.mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.agent.parameters(), self.task.max_grad_norm)
        self.optimizer.step()
        return divergence, clipped

    def read(self, divergence: Tensor, clipped: Tensor) -> tuple[Any, Any]:
        """In every minibatch, as the original does."""
        return divergence.item(), clipped.item()


def build(task: Task) -> Callable[[], None]:
    env = Tensors(task.envs) if task.env == "synthetic" else Arrays(task.env, task.envs)
    return PPO(task, env)
