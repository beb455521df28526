"""Batched PyTorch environments of Isaac Lab's and rsl_rl's shape: everything stays on the device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.action_bounds import ActionBounds, bounded
from equipoise.envs.action_table import ActionTable
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.gymnasium_adapter.making import found_at, name_of
from equipoise.envs.gymnasium_adapter.native_actions import some_arrays
from equipoise.envs.gymnasium_adapter.objects import built
from equipoise.envs.protocol import NativeAction, Relevance, Timestep
from equipoise.envs.references import References, read_references
from equipoise.envs.vectorised.restarting import Restarting


class DeviceEnv(Restarting):
    """Copies that begin anew by themselves, and whose `step(actions)` takes and gives tensors of all of them:

      Isaac Lab: `observations, rewards, terminated, truncated, extras`,
      rsl_rl: `observations, rewards, dones, extras` with `extras["time_outs"]`.

    Observations are a tensor, or a mapping of them (`{"policy": …}`), whose parts come side by side. Neither
    library gives the last one of an episode (if somebody does: `extras["final_obs"]`, in the same form): for
    the value of what a time limit cut off, the one before it stands in, as in rsl_rl's own PPO.

    Args:
        make: a callable or `module:name`; gets `num_envs` and `device` if it takes them, and `kwargs`.
        observe: the parts of the observation that the policy sees; None: `policy` where there is one, or all.
        action_bounds: where the policy's range lies in an action space without bounds.
        reward_weights: of the `K` numbers of a reward; None: 1 for each.
        relevance, reference_returns: as of `GymnasiumEnv`.

    Raises:
        ValueError: it cannot be made, or its shapes are others.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        make: str | Callable[..., Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        observe: Sequence[str] | None = None,
        action_bounds: ActionBounds = (-1.0, 1.0),
        reward_weights: Sequence[float] | None = None,
        relevance: Relevance | None = None,
        reference_returns: Mapping[str, Any] | Sequence[Any] | None = None,
    ) -> None:
        if make is None:
            raise ValueError("make is missing: module:callable, which gives the environment")
        super().__init__(make if isinstance(make, str) else name_of(make), num_envs, reward_weights)
        self.device = torch.device(device)
        self.relevance: Relevance | None = relevance
        self.reference_returns: References | None = read_references(reference_returns)
        self.render_mode = None
        self._observe = observe
        self._env = _made(self.id, make, num_envs, self.device, kwargs or {})
        if getattr(self._env, "num_envs", None) != num_envs:
            raise ValueError(f"{self.id} gives {getattr(self._env, 'num_envs', 'no')} copies, not {num_envs}")
        self.action_space = _actions_of(self._env, action_bounds)
        self._last = self._row(self._begin(None))
        if reward_weights is None:
            self.count_rewards(self._reward_size())
        width = self._last.shape[1]
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def reset(self, seed: int | None = None) -> tuple[Tensor, None]:
        self._seed = self._seed if seed is None else seed
        self._last = self._row(self._begin(seed))
        return self._last, None

    def step(self, action: NativeAction) -> Timestep:
        self._steps += 1
        observations, rewards, *flags, extras = self._env.step(action)
        if len(flags) == 2:
            terminated, truncated = (flag.to(torch.bool) for flag in flags)
        else:
            done = flags[0].to(torch.bool)
            truncated = extras.get("time_outs", torch.zeros_like(done)).to(torch.bool)
            terminated = done & ~truncated
        final = self._row(extras["final_obs"]) if "final_obs" in extras else self._last
        self._last = self._row(observations)
        ended = terminated | truncated
        success = extras.get("is_success", extras.get("success"))
        metrics = {}
        if isinstance(success, Tensor) and success.shape == ended.shape:
            metrics["success"] = success.to(torch.float32).masked_fill(~ended, torch.nan)
        shape, rewards = tuple(rewards.shape), rewards.to(torch.float32).reshape(self.num_envs, -1).clone()
        if (count := rewards.shape[1]) != len(self.reward_weights):
            found = f"rewards have shape {shape}, not {len(self.reward_weights)} each"
            named = f"env.reward_weights=[{','.join('1' * count)}] takes each by itself"
            raise EnvError(f"{self.id}: step {self._steps}: {found}; {named}")
        return Timestep(self._last, rewards, terminated, truncated, final, None, metrics)

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        raise NotImplementedError(f"{self.id} gives no picture of each copy")

    def close(self) -> None:
        if hasattr(self._env, "close"):
            self._env.close()

    def _begin(self, seed: int | None) -> Any:
        takes = inspect.signature(self._env.reset).parameters
        if seed is not None and "seed" not in takes and callable(getattr(self._env, "seed", None)):
            self._env.seed(seed)
        given = self._env.reset(**({"seed": seed} if seed is not None and "seed" in takes else {}))
        return given[0] if isinstance(given, tuple) else given

    def _reward_size(self) -> int:
        """How many numbers a reward holds, seen in a step that does not count."""
        table = ActionTable(self.action_space)
        free = np.stack([table.every_choice] * self.num_envs)
        leaves = [torch.from_numpy(array).to(self.device) for array in some_arrays(table, free)]
        try:
            rewards = self._env.step(table.assemble(leaves))[1]
            return int(rewards.reshape(self.num_envs, -1).shape[1])
        except (Exception, SystemExit):  # user code: may raise anything, and is told when it does so again
            return 1

    def _row(self, observations: Any) -> Tensor:
        """`[N, O]`, a copy: many write over theirs in every step."""
        parts = [observations]
        if not isinstance(observations, Tensor):  # a dict, or a TensorDict
            there = list(observations.keys())
            names = self._observe or (["policy"] if "policy" in there else there)
            if missing := [name for name in names if name not in there]:
                raise ValueError(f"observe: {self.id} has no part {missing[0]!r}; there are {there}")
            parts = [observations[name] for name in names]
        return torch.cat([part.to(torch.float32).reshape(self.num_envs, -1) for part in parts], 1).clone()


def _made(
    id: str, make: str | Callable[..., Any], num_envs: int, device: torch.device, kwargs: Mapping[str, Any]
) -> Any:
    try:
        call = found_at(make) if isinstance(make, str) else make
        parameters = inspect.signature(call).parameters.values()
        every = any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        names = {parameter.name for parameter in parameters}
        ours = {"num_envs": num_envs, "device": str(device)}
        given = built(dict(kwargs))
        return call(**{name: value for name, value in ours.items() if every or name in names}, **given)
    except (Exception, SystemExit) as error:  # user code: may raise anything
        raise ValueError(
            f"{id!r} could not be made with {dict(kwargs)}: {type(error).__name__}: {error}"
        ) from error


def _actions_of(env: Any, bounds: ActionBounds) -> gymnasium.Space[Any]:
    space = getattr(env, "single_action_space", None)
    if space is None:
        space = spaces.Box(-np.inf, np.inf, (int(env.num_actions),), np.float32)
    unbounded = isinstance(space, spaces.Box) and not space.is_bounded()
    return bounded(space, bounds) if unbounded else cast(gymnasium.Space[Any], space)
