"""A task that costs next to nothing, so that a benchmark measures the trainer and not the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from equipoise.envs.arguments import Count, checked
from equipoise.envs.drawing import BLUE, Canvas
from equipoise.envs.episodic import hybrid
from equipoise.envs.protocol import NativeAction, Timestep
from equipoise.envs.random_numbers import StreamPerEnv

TABLE = 4096
"""Different observations that there are."""
STRIDE = 1_597
"""From one observation to the next; odd, so that every environment comes past all of them."""


class Synthetic:
    """A hybrid contextual bandit: each observation, random in [-1, 1], tells what is best to do now.

    The first `parameters` numbers of an observation are the parameters that are best; the place of the
    largest of the `choices` numbers after them is the choice that is right. Of `components` rewards the
    first pay mostly for the choice (1 if right, else 0), the last mostly for the parameters (minus their
    mean squared distance). Actions change nothing but the rewards. Every episode is truncated after
    `max_steps` steps; the first ones begin in their middle, so that they do not all end at once.
    """

    relevance = None

    @checked
    def __init__(
        self,
        num_envs: Annotated[int, Ge(1)],
        device: str | torch.device = "cpu",
        observation_width: Annotated[int, Ge(1)] = 32,
        choices: Annotated[int, Ge(1)] = 6,
        parameters: Annotated[int, Ge(1)] = 4,
        components: Annotated[int, Ge(1)] = 3,
        max_steps: Count = 50,
    ) -> None:
        if observation_width < parameters + choices:
            raise ValueError(
                f"observation_width: {observation_width}; at least parameters + choices "
                f"({parameters} + {choices}) is needed"
            )
        self.num_envs, self.device, self.max_steps = num_envs, torch.device(device), max_steps
        self.first_env = 0
        self.observation_space = gymnasium.spaces.Box(-1, 1, (observation_width,), np.float32)
        self.action_space = gymnasium.spaces.Tuple(
            (gymnasium.spaces.Discrete(choices), gymnasium.spaces.Box(-1, 1, (parameters,), np.float32))
        )
        self.reward_names = tuple(f"component_{k}" for k in range(components))
        self.reward_weights = (1.0,) * components
        # The same table for every seed: a seed says where in it an environment begins.
        table = torch.rand(TABLE, observation_width, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self._table = table.to(self.device)
        self._best = self._table[:, :parameters].contiguous()
        self._right = self._table[:, parameters : parameters + choices].argmax(1)
        share = (torch.arange(components, device=self.device) + 0.5) / components
        self._mix = torch.stack((1 - share, -share))
        self._random = StreamPerEnv(num_envs, self.device)
        self._row = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._age = torch.zeros(num_envs, dtype=torch.int64, device=self.device)

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        if seed is not None:
            self._random.seed(seed, self.first_env)
        start = self._random.uniform(2)
        self._row = (start[:, 0] * TABLE).long()
        self._age = (start[:, 1] * self.max_steps).long()
        return self._table.index_select(0, self._row), None

    def step(self, action: NativeAction) -> Timestep:
        choice, parameters = hybrid(action)
        hit = choice == self._right.index_select(0, self._row)
        miss = (parameters - self._best.index_select(0, self._row)).square().mean(1)
        self._row = (self._row + STRIDE) % TABLE
        age = self._age + 1
        truncated = age >= self.max_steps
        self._age = age.masked_fill(truncated, 0)
        # Observations do not depend on what went before: the next one may end an episode or begin one.
        observation = self._table.index_select(0, self._row)
        return Timestep(
            observation=observation,
            rewards=torch.stack((hit.float(), miss), dim=1) @ self._mix,
            terminated=torch.zeros_like(truncated),
            truncated=truncated,
            final_observation=observation,
        )

    def detach(self) -> None:
        """See `envs.protocol.DifferentiableEnv`; the states do not depend on actions."""

    def state_dict(self) -> dict[str, Any]:
        return {"row": self._row.clone(), "age": self._age.clone(), "random": self._random.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("row", "age"):
            if state[name].shape != (self.num_envs,):
                raise ValueError(f"Synthetic: {name}: expected [{self.num_envs}], got {state[name].shape}")
        self._row, self._age = state["row"].to(self.device), state["age"].to(self.device)
        self._random.load_state_dict(state["random"])

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The observation as a bar chart."""
        numbers = self._table[int(self._row[index])].tolist()
        canvas = Canvas(0, len(numbers), -1, 1)
        for place, number in enumerate(numbers):
            canvas.box(place, min(number, 0.0), place + 0.8, max(number, 0.0), BLUE)
        return canvas.array()

    def close(self) -> None:
        """Nothing is held open."""
