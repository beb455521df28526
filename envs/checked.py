"""Calls a batched environment and holds what it returns against `envs.protocol`.

Without this a wrong shape would be broadcast into the buffers and trained on.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NoReturn

import torch
from torch import Tensor

from equipoise.envs.action_table import ActionTable
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.protocol import BatchedEnv, NativeAction, Timestep


def close(env: BatchedEnv) -> None:
    """Close `env`. A failure in it is only told, on stderr: what the environment was for is done by then."""
    try:
        env.close()
    except (Exception, SystemExit) as error:  # user code: may raise anything
        named = "" if isinstance(error, EnvError) else f"{type(env).__name__}: close raised "
        print(f"WARNING: {named}{error}", file=sys.stderr)


class CheckedEnv:
    """`reset` and `step` of `env`; values are not looked at, which would make the host wait for the device.

    Raises:
        EnvError: the environment raised, or a field has another shape, dtype or device than the protocol
            says. Names the environment, the step (from 1, since this object was made) and the field.
    """

    def __init__(self, env: BatchedEnv) -> None:
        self.env = env
        self._steps = 0
        self._masked: bool | None = None
        batch = (env.num_envs,)
        width = (env.num_envs, math.prod(env.observation_space.shape))
        self._mask_shape = (env.num_envs, *ActionTable(env.action_space).every_choice.shape)
        self._expected: tuple[tuple[str, tuple[int, ...], torch.dtype], ...] = (
            ("observation", width, torch.float32),
            ("rewards", (env.num_envs, len(env.reward_names)), torch.float32),
            ("terminated", batch, torch.bool),
            ("truncated", batch, torch.bool),
            ("final_observation", width, torch.float32),
        )

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        try:
            result = self.env.reset(seed)
        except (EnvError, KeyboardInterrupt):
            raise
        except BaseException as error:  # user code: may raise anything, SystemExit too
            self._fail(f"reset raised {type(error).__name__}: {error}", error)
        if not isinstance(result, tuple) or len(result) != 2:
            self._fail("reset must return (observation, action mask or None)")
        observation, mask = result
        self._check("observation", observation, *self._expected[0][1:])
        self._masked = mask is not None
        self._check_mask(mask)
        return observation, mask

    def step(self, action: NativeAction) -> Timestep:
        if not torch.compiler.is_compiling():  # where all of this is looked at once
            self._steps += 1
        try:
            timestep = self.env.step(action)
        except (EnvError, KeyboardInterrupt):
            raise
        except BaseException as error:  # user code: may raise anything, SystemExit too
            self._fail(f"step raised {type(error).__name__}: {error}", error)
        if not isinstance(timestep, Timestep):
            if getattr(timestep, "_fields", None) != Timestep._fields:
                self._fail(f"step returned a {type(timestep).__name__}; it must be a Timestep")
            timestep = Timestep(*timestep)  # in a checkout `envs.protocol` is the same module imported again
        for name, shape, dtype in self._expected:
            self._check(name, getattr(timestep, name), shape, dtype)
        self._check_mask(timestep.action_mask)
        return timestep

    def _check(self, name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if not isinstance(value, Tensor):
            self._fail(f"{name} is a {type(value).__name__}; it must be a tensor")
        if value.shape != shape or value.dtype != dtype or value.device.type != self.env.device.type:
            self._fail(
                f"{name} is {list(value.shape)} {value.dtype} on {value.device}; "
                f"it must be {list(shape)} {dtype} on {self.env.device}"
            )

    def _check_mask(self, mask: Tensor | None) -> None:
        if (mask is not None) is not self._masked:
            self._fail("action_mask must come with every observation or with none")
        if mask is not None:
            self._check("action_mask", mask, self._mask_shape, torch.bool)

    def _fail(self, what: str, cause: BaseException | None = None) -> NoReturn:
        name = getattr(self.env, "id", None) or type(self.env).__name__
        raise EnvError(f"{name}: step {self._steps}: {what}") from cause
