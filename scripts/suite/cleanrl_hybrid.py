"""What one gets by adapting CleanRL's single-file PPO to a hybrid action by hand, with its own defaults.

Structure and settings are those of the published `ppo_continuous_action.py` (Huang et al., *CleanRL*, JMLR
2022): one environment, 2,048 steps, 10 epochs of 32 minibatches, learning rate 3e-4 falling to 0, clip 0.2,
no entropy bonus, observations and rewards normalised and clipped at 10, two tanh layers of 64 for actor and
critic. The hybrid part is what a user would write: a `Categorical` for each discrete number beside a `Normal`
for all others, one ratio of the sum, actions clipped to their bounds. Masks are not used.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from equipoise.envs.action_table import ActionTable
from equipoise.scripts.peers.task import orthogonal, tower
from equipoise.scripts.suite.episodes import Act

STEPS, EPOCHS, MINIBATCHES = 2048, 10, 32
RATE, GAMMA, LAMBDA, CLIP, VALUE, LARGEST_NORM = 3e-4, 0.99, 0.95, 0.2, 0.5, 0.5


class Actions:
    """An action space as a row of numbers: choices, then parameters from -1 to 1."""

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.table = ActionTable(space)
        self.heads = list(self.table.choices)
        boxes = [leaf for leaf in self.table.leaves if not leaf.discrete]
        self.low, self.high = (
            np.array([number for leaf in boxes for number in getattr(leaf, side)]) for side in ("low", "high")
        )

    def native(self, row: NDArray[Any]) -> Any:
        """From `[H + P]`, the parameters clipped to their bounds."""
        choices, unit = row[: len(self.heads)], np.clip(row[len(self.heads) :], -1, 1)
        numbers = self.low + (unit + 1) / 2 * (self.high - self.low)
        arrays = []
        for leaf in self.table.leaves:
            own = slice(leaf.first, leaf.first + leaf.count)
            values = (
                choices[own] + leaf.start if leaf.discrete else np.clip(numbers[own], leaf.low, leaf.high)
            )
            arrays.append(values.astype(leaf.dtype).reshape(1, *leaf.shape))
        return self.table.action_of(arrays, 0)


class Agent(nn.Module):
    def __init__(self, inputs: int, actions: Actions) -> None:
        super().__init__()
        self.heads, self.parameters_ = actions.heads, len(actions.low)
        self.actor = orthogonal(tower(inputs, sum(self.heads) + self.parameters_), 0.01)
        self.critic = orthogonal(tower(inputs, 1), 1.0)
        self.log_std = nn.Parameter(torch.zeros(self.parameters_))

    def value(self, observation: Tensor) -> Tensor:
        value: Tensor = self.critic(observation)
        return value.squeeze(-1)

    def act(
        self, observation: Tensor, row: Tensor | None = None, mode: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Rows `[B, H + P]` and their log-probabilities `[B]`."""
        outputs = self.actor(observation)
        logits, mean = outputs.split([sum(self.heads), self.parameters_], -1)
        choices = [Categorical(logits=part) for part in logits.split(self.heads, -1)]
        normal = Normal(mean, self.log_std.exp().expand_as(mean))
        if row is None:
            picked = [c.probs.argmax(-1) if mode else c.sample() for c in choices]
            row = torch.cat(
                [*(p.unsqueeze(-1).float() for p in picked), mean if mode else normal.sample()], -1
            )
        log_prob = normal.log_prob(row[:, len(self.heads) :]).sum(-1)
        for i, choice in enumerate(choices):
            log_prob = log_prob + choice.log_prob(row[:, i])
        return row, log_prob


def learn(make: Any, seed: int, total: int) -> tuple[Act, list[float], list[float]]:
    """Train; returns how the policy acts, and at which step each training episode ended with which return."""
    torch.manual_seed(seed)
    raw = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.FlattenObservation(make()))
    normal = gymnasium.wrappers.NormalizeObservation(raw)
    rewarded = gymnasium.wrappers.NormalizeReward(normal, gamma=GAMMA)
    actions = Actions(raw.unwrapped.action_space)
    inputs = int(np.prod(raw.observation_space.shape or ()))
    agent = Agent(inputs, actions)
    optimizer = torch.optim.Adam(agent.parameters(), lr=RATE, eps=1e-5)
    steps, returns = [], []
    observation, _ = rewarded.reset(seed=seed)
    done = 0.0
    iterations = max(total // STEPS, 1)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = RATE * (1 - iteration / iterations)
        rows: list[tuple[Tensor, ...]] = []
        for step in range(STEPS):
            seen = _clipped(observation)
            with torch.no_grad():
                row, log_prob = agent.act(seen)
                value = agent.value(seen)
            observation, reward, terminated, truncated, info = rewarded.step(actions.native(row[0].numpy()))
            scaled = torch.tensor([min(max(float(reward), -10.0), 10.0)])
            rows.append((seen, row, log_prob, value, scaled, torch.tensor([done])))
            done = float(terminated or truncated)
            if done:
                steps.append(float(iteration * STEPS + step + 1))
                returns.append(float(info["episode"]["r"]))
                observation, _ = rewarded.reset()
        with torch.no_grad():
            _update(
                agent, optimizer, [torch.cat(column) for column in zip(*rows, strict=True)], observation, done
            )

    def act(observation: Any, info: dict[str, Any], deterministic: bool) -> Any:
        flat = spaces.flatten(raw.unwrapped.observation_space, observation)
        scaled = (flat - normal.obs_rms.mean) / np.sqrt(normal.obs_rms.var + normal.epsilon)
        with torch.no_grad():
            row, _ = agent.act(_clipped(scaled), mode=deterministic)
        return actions.native(row[0].numpy())

    return act, steps, returns


def _clipped(observation: Any) -> Tensor:
    return torch.as_tensor(np.clip(observation, -10, 10), dtype=torch.float32).reshape(1, -1)


def _update(
    agent: Agent, optimizer: torch.optim.Optimizer, columns: list[Tensor], after: Any, done: float
) -> None:
    seen, rows, log_probs, values, rewards, dones = columns
    advantages, advantage = torch.zeros_like(rewards), torch.zeros(())
    next_value, going_on = agent.value(_clipped(after))[0], 1.0 - done
    for step in reversed(range(STEPS)):
        delta = rewards[step] + GAMMA * next_value * going_on - values[step]
        advantages[step] = advantage = delta + GAMMA * LAMBDA * going_on * advantage
        next_value, going_on = values[step], 1.0 - float(dones[step])
    targets = advantages + values
    for _ in range(EPOCHS):
        for chosen in torch.randperm(STEPS).chunk(MINIBATCHES):
            with torch.enable_grad():
                loss = _loss(
                    agent, *(t[chosen] for t in (seen, rows, log_probs, values, advantages, targets))
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), LARGEST_NORM)
            optimizer.step()


def _loss(
    agent: Agent, seen: Tensor, rows: Tensor, old: Tensor, values: Tensor, advantages: Tensor, targets: Tensor
) -> Tensor:
    _, log_prob = agent.act(seen, rows)
    ratio = (log_prob - old).exp()
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    policy = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
    value = agent.value(seen)
    near = values + (value - values).clamp(-CLIP, CLIP)
    return policy + VALUE * 0.5 * torch.max((value - targets).square(), (near - targets).square()).mean()
