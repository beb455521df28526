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
from equipoise.envs.dependent_masks import ActionMask, DependentMask, MaskingEnv, complete, in_order
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
        self._table, self._masking = ActionTable(env.action_space), isinstance(env, MaskingEnv)
        every_choice = torch.tensor(self._table.every_choice, device=env.device)
        self._every_choice = every_choice.expand(env.num_envs, *every_choice.shape)
        self._mask_shape = tuple(self._every_choice.shape)
        self._tables: list[tuple[int, tuple[int, ...]]] | None = None
        self._expected: tuple[tuple[str, tuple[int, ...], torch.dtype], ...] = (
            ("observation", width, torch.float32),
            ("rewards", (env.num_envs, len(env.reward_names)), torch.float32),
            ("terminated", batch, torch.bool),
            ("truncated", batch, torch.bool),
            ("final_observation", width, torch.float32),
        )

    def reset(self, seed: int | None = None) -> tuple[Tensor, ActionMask | None]:
        result = self._call("reset", seed)
        if not isinstance(result, tuple) or len(result) != 2:
            self._fail("reset must return (observation, action mask or None)")
        observation, mask = result
        mask = self.complete(mask)
        self._check("observation", observation, *self._expected[0][1:])
        self._masked = mask is not None
        self._check_mask(mask)
        return observation, mask

    def step(self, action: NativeAction) -> Timestep:
        if not torch.compiler.is_compiling():  # where all of this is looked at once
            self._steps += 1
        timestep = self._call("step", action)
        if not isinstance(timestep, Timestep):
            if getattr(timestep, "_fields", None) != Timestep._fields:
                self._fail(f"step returned a {type(timestep).__name__}; it must be a Timestep")
            timestep = Timestep(*timestep)  # in a checkout `envs.protocol` is the same module imported again
        for name, shape, dtype in self._expected:
            self._check(name, getattr(timestep, name), shape, dtype)
        if self._masking:
            timestep = timestep._replace(action_mask=self.complete(timestep.action_mask))
        self._check_mask(timestep.action_mask)
        return timestep

    def detach(self) -> None:
        """Of a `DifferentiableEnv`."""
        self._call("detach")

    def complete(self, mask: ActionMask | None) -> ActionMask | None:
        """See `dependent_masks.complete`."""
        return complete(self.env, mask, self._every_choice) if self._masking else mask

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self.env, method)(*arguments)
        except (EnvError, KeyboardInterrupt):
            raise
        except BaseException as error:  # user code: may raise anything, SystemExit too
            self._fail(f"{method} raised {type(error).__name__}: {error}", error)

    def _check(self, name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if not isinstance(value, Tensor):
            self._fail(f"{name} is a {type(value).__name__}; it must be a tensor")
        if value.shape != shape or value.dtype != dtype or value.device.type != self.env.device.type:
            self._fail(
                f"{name} is {list(value.shape)} {value.dtype} on {value.device}; "
                f"it must be {list(shape)} {dtype} on {self.env.device}"
            )

    def _check_mask(self, mask: ActionMask | None) -> None:
        if (mask is not None) is not self._masked:
            self._fail("action_mask must come with every observation or with none")
        own = mask.own if isinstance(mask, DependentMask) else mask
        if own is not None:
            self._check("action_mask", own, self._mask_shape, torch.bool)
        if isinstance(mask, DependentMask):
            self._check_tables(mask)

    def _check_tables(self, mask: DependentMask) -> None:
        form, choices = [(table.head, table.given) for table in mask.tables], self._table.choices
        if self._tables is None and not torch.compiler.is_compiling():
            try:
                in_order(mask.tables, len(choices))
            except ValueError as error:
                self._fail(str(error))
            self._tables = form
        if form != self._tables or len({head for head, _ in form}) < len(form):
            self._fail(
                f"action_mask has tables (head, given) {form}; they must be {self._tables} in every step"
            )
        for table in mask.tables:
            if isinstance(table.valid, Tensor):
                shape = (self.env.num_envs, *(choices[head] for head in (*table.given, table.head)))
                self._check(f"the mask of head {table.head}", table.valid, shape, torch.bool)

    def _fail(self, what: str, cause: BaseException | None = None) -> NoReturn:
        name = getattr(self.env, "id", None) or type(self.env).__name__
        raise EnvError(f"{name}: step {self._steps}: {what}") from cause
