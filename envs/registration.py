"""Batched environments as ordinary Gymnasium environments; `envs` says under which names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import load_env_creator
from torch import Tensor

from equipoise.envs.action_table import ActionTable
from equipoise.envs.dependent_masks import ActionMask, DependentMask, complete
from equipoise.envs.protocol import BatchedEnv, NativeAction


class SingleEnv(gymnasium.Env[np.ndarray[Any, Any], Any]):
    """One environment of a batched class, with NumPy in and out.

    The reward is the task reward; `info` has the components under their names, the mean of each metric that
    has something to report, and the `action_mask` `[H, C]` of the observation where there is one.
    `relevance`, `state_dict` and `load_state_dict` are the batched class's own.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self, make: str | Callable[..., BatchedEnv], render_mode: str | None = None, **keywords: Any
    ) -> None:
        """`make` (or `module:name` of it) is called with `num_envs=1` and the other keywords."""
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; allowed: 'rgb_array' or None")
        self.render_mode = render_mode
        creator: Callable[..., Any] = load_env_creator(make) if isinstance(make, str) else make
        self.batched: BatchedEnv = creator(num_envs=1, **keywords)
        self.observation_space = self.batched.observation_space
        self.action_space = self.batched.action_space
        self.relevance = self.batched.relevance
        self._table = ActionTable(self.action_space)
        self._seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**31))  # nobody asked for the same episodes in every run
        self._seeded = True
        observation, mask = self.batched.reset(seed)
        return self._array(observation), self._info(mask)

    @torch.inference_mode()
    def step(self, action: Any) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        step = self.batched.step(self._batched(action))
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        ended = terminated or truncated
        components = step.rewards[0].tolist()
        pairs = zip(self.batched.reward_weights, components, strict=True)
        info = {} if ended else self._info(step.action_mask)
        info.update(zip(self.batched.reward_names, components, strict=True))
        means = ((name, float(value[0].nanmean())) for name, value in step.metrics.items())
        info.update((name, mean) for name, mean in means if not math.isnan(mean))
        observation = self._array(step.final_observation if ended else step.observation)
        return observation, float(sum(w * c for w, c in pairs)), terminated, truncated, info

    def state_dict(self) -> dict[str, Any]:
        return self.batched.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batched.load_state_dict(state)
        self._seeded = True  # the random stream came with the state

    def render(self) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        return self.batched.render(0) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self.batched.close()

    def _batched(self, action: Any) -> NativeAction:
        """The action with a leading dimension of 1, as tensors."""
        leaves = zip(self._table.leaves, self._table.take_apart(action), strict=True)
        return self._table.assemble(
            [
                torch.as_tensor(
                    np.asarray(part),
                    dtype=torch.int64 if leaf.discrete or leaf.rounded else torch.float32,
                    device=self.batched.device,
                )[None]
                for leaf, part in leaves
            ]
        )

    def _array(self, observation: Tensor) -> np.ndarray[Any, Any]:
        return observation[0].cpu().numpy().reshape(self.observation_space.shape)

    def _info(self, mask: ActionMask | None) -> dict[str, Any]:
        every = torch.from_numpy(self._table.every_choice)[None].to(self.batched.device)
        mask = complete(self.batched, mask, every)
        if not isinstance(mask, DependentMask):
            return {} if mask is None else {"action_mask": mask[0].cpu().numpy()}
        choices = self._table.choices
        rows: list[Any] = [row[0] for row in self._table.by_head(mask.own.cpu().numpy())]
        for table in mask.tables:
            valid = table.tabulated(choices, 1, self.batched.device)[0].cpu().numpy()
            rows[table.head] = {"given": list(table.given), "mask": valid & rows[table.head]}
        return {"action_mask": rows}
