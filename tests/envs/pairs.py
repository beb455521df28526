"""Environments in which the targets that may be chosen depend on the unit that is chosen before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.dependent_masks import DependentMask, MaskTable
from equipoise.envs.protocol import Timestep

UNITS, TARGETS = 3, 4


class Pairs(gymnasium.Env[Any, Any]):
    """The observation says which targets each unit can reach, drawn anew in every step; a forbidden pair is an
    error. It pays to choose the last target that the unit can reach, and to aim at its number.

    `reverse`: `target` comes first in the action. `form`: of the mask.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    observation_space = spaces.MultiBinary(UNITS * TARGETS)

    def __init__(
        self,
        reverse: bool = False,
        form: Literal["dict", "numbers", "row", "empty", "late"] = "dict",
        render_mode: str | None = None,
    ) -> None:
        parts: dict[str, Any] = {"unit": spaces.Discrete(UNITS), "target": spaces.Discrete(TARGETS)}
        names = [*parts][::-1] if reverse else [*parts]
        self.action_space = spaces.Dict(
            [(name, parts[name]) for name in names] + [("aim", spaces.Box(-1, 1, (1,)))]
        )
        self.reverse, self.form, self.render_mode = reverse, form, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.clock = 0
        return self._observe(), self._info()

    def _observe(self) -> Any:
        self.table = self.np_random.integers(0, 2, (UNITS, TARGETS)).astype(np.int8)
        self.table[np.arange(UNITS), self.np_random.integers(0, TARGETS, UNITS)] = 1
        if self.form == "late" and not self.clock:
            self.table[:] = 1
        return self.table.reshape(-1)

    def _info(self) -> dict[str, Any]:
        table = self.table if self.form != "empty" else self.table * np.array([[1], [0], [1]], np.int8)
        if self.form == "late" and not self.clock:
            return {"action_mask": {"unit": None, "target": None, "aim": None}}
        if self.form == "numbers":  # of the decisions, as they stand in the action
            return {"action_mask": [None, {"given": [0], "mask": table.tolist()}]}
        mask = {"unit": [1, 1, 1], "target": {"given": "unit", "mask": table}, "aim": None}
        return {"action_mask": mask}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        unit, target = int(action["unit"]), int(action["target"])
        if not self.table[unit, target]:
            raise RuntimeError(f"unit {unit} cannot reach target {target}")
        reward = float(target == np.flatnonzero(self.table[unit])[-1])
        reward -= 0.1 * abs(float(action["aim"][0]) - (target / 2 - 0.75))
        self.clock += 1
        return self._observe(), reward, False, self.clock == 8, self._info()

    def render(self) -> Any:
        return np.full((8, 8, 3), 100, np.uint8)


gymnasium.register("test/Pairs-v0", Pairs)


class BatchedPairs:
    """Unit `u` can reach target `t` of environment `i` where (t + u + clock + i) % 4 < 2. `forbidden` counts
    what it should never be given."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Tuple((spaces.MultiDiscrete([UNITS, TARGETS]), spaces.Box(-1, 1, (1,))))
    reward_names, reward_weights, relevance = ("reward",), (1.0,), None

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.num_envs, self.device = num_envs, device
        self._index, self._clock = torch.arange(num_envs, device=device), torch.zeros(num_envs, device=device)

    def _observe(self) -> Tensor:
        return torch.stack([self._clock, self._index % 4.0], dim=-1)

    def _valid(self, unit: Tensor, target: Tensor) -> Tensor:
        shift = (self._clock + self._index).view(-1, *([1] * (target.dim() - 1)))
        return (target + unit + shift) % 4 < 2

    def _mask(self) -> Any:
        own = torch.ones(self.num_envs, 2, TARGETS, dtype=torch.bool, device=self.device)
        own[:, 0, UNITS:] = False
        units, targets = torch.arange(UNITS, device=self.device), torch.arange(TARGETS, device=self.device)
        return DependentMask(
            own, (MaskTable(1, (0,), self._valid(units[None, :, None], targets[None, None])),)
        )

    def reset(self, seed: int | None = None) -> tuple[Tensor, Any]:
        self._clock = torch.zeros_like(self._clock)
        return self._observe(), self._mask()

    def step(self, action: Any) -> Timestep:
        (pair, aim) = action
        unit, target = pair.unbind(1)
        forbidden = (~self._valid(unit, target)).float()
        reward = (target == 3).float() - aim[:, 0].square()
        self._clock = self._clock + 1.0
        ended = self._clock == 5.0
        final, self._clock = self._observe(), self._clock.masked_fill(ended, 0.0)
        none = torch.zeros_like(ended)
        return Timestep(
            self._observe(), reward[:, None], none, ended, final, self._mask(), {"forbidden": forbidden}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"clock": self._clock.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._clock = state["clock"].clone()

    def render(self, index: int = 0) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


class FunctionPairs(BatchedPairs):
    """The same by a function."""

    mask_depends_on: Mapping[int, Sequence[int]] = {1: [0]}

    def _mask(self) -> None:
        return None

    def mask_given(self, head: int, choices: Tensor) -> Tensor:
        assert head == 1
        return self._valid(choices[:, :1], torch.arange(TARGETS, device=self.device)[None])
