"""`equipoise.load`, the `Policy` that it returns, and `equipoise.evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from equipoise.envs.action_table import ActionLeaf
from equipoise.envs.dependent_masks import ActionMask
from equipoise.envs.gymnasium_adapter.given_masks import TablesOfCopies, as_action_mask
from equipoise.envs.gymnasium_adapter.masks import Read, read_mask
from equipoise.envs.gymnasium_adapter.observations import ObservationLayout
from equipoise.envs.gymnasium_adapter.scalars import with_numbers
from equipoise.trainer.evaluate import acting_of, measure, numbers
from equipoise.trainer.policy.player import Player
from equipoise.trainer.restore import load_policy, restore

if TYPE_CHECKING:
    from equipoise.trainer.configuration.keywords import MakeEnv
    from equipoise.training import Run

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def load(
    location: str | Path | Run,
    env: MakeEnv | None = None,
    device: str = "auto",
    allow: Collection[str] = (),
) -> Policy:
    """The trained policy of a run folder or a checkpoint, ready to act.

    >>> policy = equipoise.load("runs/CartPole-v1-even/2026-01-01_12-00-00-s1")
    >>> env = gymnasium.make("CartPole-v1")
    >>> observation, info = env.reset()
    >>> env.step(policy.act(observation))

    It acts without an environment. To be evaluated it needs one; the checkpoint names the one that
    `equipoise.train` was given. If that was a function or class that cannot be imported by name (a lambda, a
    class in a notebook), pass it again as `env`.

    Args:
        location: a run or its folder, whose newest checkpoint is taken, a checkpoint, the folder that
            `equipoise export format=safetensors` has made, or one of these on the Hugging Face hub:
            `hf://user/repo`, or `hf://user/repo@revision`.
        env: makes the environment, as for `train`.
        device: where the network computes: `auto`, `cpu` or `cuda`.
        allow: your modules that the checkpoint may name, such as `["my_package"]`. Otherwise it is treated as
            data: only code of this package and of Gymnasium is imported.

    Raises:
        equipoise.ConfigError: there is no checkpoint that this version of the package can read, or it names
            code that is not allowed.
    """
    if isinstance(location, str | Path):
        return Policy(location, env, device, allow)
    return Policy(location.folder, env or location.env, device, (*location.allow, *allow))


class Policy:
    """A trained policy; `load` describes the arguments.

    Attributes:
        observation_space, action_space: of the environment that it was trained in.
        path: of its checkpoint.
        masked: whether that environment gave action masks.
    """

    def __init__(
        self,
        location: str | Path,
        env: MakeEnv | None = None,
        device: str = "auto",
        allow: Collection[str] = (),
    ) -> None:
        loaded = load_policy(location, device, allow)
        self.path, self.masked = loaded.path, loaded.masked
        self._mask_in_observation = loaded.mask_in_observation
        self._numbers_for_arrays = loaded.numbers_for_arrays
        self.observation_space = loaded.observation_space
        self.action_space = loaded.network.space.native
        self._network, self._table = loaded.network, loaded.network.space.table
        self._player = Player(loaded.network)
        self._layout = ObservationLayout(self.observation_space, loaded.ignored)
        self.env, self.allow = env, tuple(allow)

    def __repr__(self) -> str:
        return f"<Policy {self.path}: {self.observation_space} -> {self.action_space}>"

    def reset(self) -> None:
        """Forget all episodes: the next observation begins one. Only a policy with a memory needs it."""
        self._player = Player(self._network)

    def act(self, observation: Any, mask: Any = None, deterministic: bool = True, done: Any = None) -> Any:
        """The action for an observation, as the environment's `step` takes it.

        >>> action = policy.act(observation)
        >>> action = policy.act(observation, info["action_mask"], deterministic=False)
        >>> actions = policy.act(vector_env.reset()[0])

        A policy with a memory (`policy=gru`) remembers each episode from call to call, one or a whole batch.
        It is told where new ones begin by `done`, or by `reset` before the first observation of each:

        >>> actions = policy.act(observations, done=terminated | truncated)

        Args:
            observation: what `reset` and `step` return, of one environment, or of several in one batch as
                vector environments return it, each array with a leading axis.
            mask: which choices are valid, in any form that `info["action_mask"]` can have, one or a batch;
                None: `observation["action_mask"]`, if the policy was trained with that, else all of them.
            deterministic: the likeliest choices and the mean of each parameter; else a sample, drawn with
                PyTorch's generator.
            done: whether an episode ended before this observation, which is the first of the next one; one
                flag, or one for each of a batch.

        Raises:
            ValueError: the observation or the mask does not fit the environment's spaces, or `done` or the
                size of the batch does not fit what is remembered; the message names the part.
        """
        if mask is None and self._mask_in_observation:
            mask = _mask_in(observation)
        if mask is None and self.masked:
            warnings.warn(
                "the policy was trained with action masks and acts without one now: "
                "policy.act(observation, info['action_mask'])",
                stacklevel=2,
            )
        observation = self._known(self.observation_space, observation)
        size = self._batch_size(self.observation_space, observation)
        count = 1 if size is None else size
        rows = [observation] if size is None else [_element(observation, index) for index in range(size)]
        masks: ActionMask | None = None
        if mask is not None:
            each = [mask] if size is None else [self._mask_of(mask, index) for index in range(size)]
            read = dict(enumerate(self._read_mask(one) for one in each))
            own = torch.from_numpy(np.stack([one.own for one in read.values()])).to(
                self._network.space.device
            )
            tables = TablesOfCopies(self._table, count).join({i: one.tables for i, one in read.items()})
            masks = as_action_mask(own, tables)
        flat = torch.from_numpy(np.concatenate([self._flat(row) for row in rows]).reshape(count, -1))
        self._begin(count, done)
        leaves: list[Any] = self._leaves(flat, masks, deterministic)
        if size is not None:
            return self._table.actions_of(leaves)
        action = self._table.action_of(leaves, 0)
        return with_numbers(self.action_space, action) if self._numbers_for_arrays else action

    def _begin(self, count: int, done: Any) -> None:
        """Forget the episodes that are over, of so many as there are observations now."""
        flags = np.asarray(False if done is None else _arrays(done), np.bool_)
        if flags.shape not in ((), (count,)):
            raise ValueError(f"done has shape {flags.shape}; must be one flag, or one for each of {count}")
        state = self._player.state
        if state is None or not self._network.state_size:
            return
        where = torch.from_numpy(np.broadcast_to(flags, (count,)).copy())
        if bool(where.all()):
            self.reset()
        elif len(state) != count:
            raise ValueError(
                f"{count} observations follow {len(state)}, whose episodes the policy remembers: "
                "policy.reset() lets it begin anew"
            )
        else:
            self._player.forget(where.to(state.device))

    @torch.inference_mode()
    def _leaves(self, flat: Tensor, masks: ActionMask | None, deterministic: bool) -> list[Array]:
        """An array `[B, ...]` for each leaf of the action, for observations `[B, O]` and masks."""
        network, device = self._network, self._network.space.device
        acting = self._player.acting(flat.to(device), masks)
        actions = acting.mode() if deterministic else acting.draw()
        leaves = self._table.take_apart(network.to_native(actions))
        return [_as_array(part, leaf) for part, leaf in zip(leaves, self._table.leaves, strict=True)]

    def _flat(self, observation: Any) -> Array:
        arrays = self._known(self.observation_space, _arrays(observation))
        flat, _ = self._layout.row(arrays)
        if not np.isfinite(flat).all():
            column = int(np.argmin(np.isfinite(flat)))
            name, value = self._layout.name(column), flat[column]
            raise ValueError(f"{name} is {value} as float32; observations must be finite")
        return flat

    def _known(self, space: gymnasium.Space[Any], value: Any, keys: tuple[Any, ...] = ()) -> Any:
        """`value` without what the policy does not look at; None in its place in a tuple."""
        if isinstance(space, spaces.Dict) and isinstance(value, Mapping):
            seen = [key for key in space.spaces if key in value and not self._layout.ignores((*keys, key))]
            return {key: self._known(space[key], value[key], (*keys, key)) for key in seen}
        if isinstance(space, spaces.Tuple) and isinstance(value, tuple) and len(value) == len(space):
            return tuple(
                None if self._layout.ignores((*keys, i)) else self._known(part, value[i], (*keys, i))
                for i, part in enumerate(space.spaces)
            )
        return value

    def _batch_size(self, space: gymnasium.Space[Any], value: Any, keys: tuple[Any, ...] = ()) -> int | None:
        """How many observations `value` holds in a batch; None for a single one."""
        if isinstance(space, spaces.Dict | spaces.Tuple):
            if isinstance(value, list) and isinstance(space, spaces.Dict):
                return len(value)
            parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
            key, part = next(item for item in parts if not self._layout.ignores((*keys, item[0])))
            try:
                return self._batch_size(part, value[key], (*keys, key))
            except (KeyError, IndexError, TypeError):
                return None  # no observation of this space: the check of the layout says why
        return len(value) if len(np.shape(value)) == len(space.shape or ()) + 1 else None

    def _read_mask(self, mask: Any) -> Read:
        try:
            return read_mask(_arrays(mask), self._table, self._mask_in_observation)
        except ValueError as error:
            raise ValueError(f"mask {error}") from None

    def _mask_of(self, masks: Any, index: int) -> Any:
        """The mask of one environment of a batch. A tuple holds one for each part of a tuple action."""
        whole = isinstance(masks, tuple) and not isinstance(self.action_space, spaces.Tuple)
        return masks[index] if whole else _element(masks, index)


def evaluate(
    policy: Policy | Run | str | Path,
    episodes: int = 100,
    *,
    seed: int = 0,
    deterministic: bool | None = None,
    env: MakeEnv | None = None,
    device: str = "auto",
    allow: Collection[str] = (),
) -> dict[str, float | None]:
    """Evaluate a trained policy on fresh episodes.

    >>> equipoise.evaluate(run, episodes=20)["return_mean"]

    Args:
        policy: a policy, a run, a run folder or a checkpoint.
        episodes: how many, for each way to act.
        seed: of the episodes, which training never uses.
        deterministic: True: only the likeliest choices and the means; False: only samples; None: both.
        env, device, allow: see `load`; a policy and a run know theirs.

    Returns:
        `return_mean`, `return_std`, `normalized_score` and `success_rate` (None where the environment has no
        such number), `episode_length` in steps, and the environment's own metrics. If both were measured, the
        same for the sampled policy as `sampled_return_mean` and so on.

    Raises:
        equipoise.ConfigError: the checkpoint or its environment cannot be used.
        RuntimeError: the environment fails.
    """
    if isinstance(policy, str | Path):
        path: str | Path = policy
    else:
        path = policy.path if isinstance(policy, Policy) else policy.folder
        env, allow = env or policy.env, (*allow, *policy.allow)
    return numbers(
        measure(restore(path, device, allow, env), episodes, seed, acting=acting_of(deterministic))
    )


def _mask_in(observation: Any) -> Any:
    """The masks that are part of one observation, of a batch, or of a list of observations."""
    if isinstance(observation, list):
        return [_mask_in(one) for one in observation]
    return observation.get("action_mask") if isinstance(observation, Mapping) else None


def _element(value: Any, index: int) -> Any:
    """Entry `index` of a batch."""
    if isinstance(value, Mapping):
        # Vector environments put beside the entries of an `info` who of them has one.
        told = [key for key in value if not (str(key).startswith("_") and str(key)[1:] in value)]
        return {key: _element(value[key], index) for key in told}
    if isinstance(value, tuple):
        return tuple(_element(part, index) for part in value)
    return None if value is None else value[index]


def _arrays(value: Any) -> Any:
    """`value` with each tensor in it as an array, and each number or list of numbers."""
    if isinstance(value, Mapping):
        return {key: _arrays(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_arrays(part) for part in value)
    return value.numpy(force=True) if isinstance(value, Tensor) else value


def _as_array(part: Tensor, leaf: ActionLeaf) -> Array:
    """As an array of the dtype that the environment expects, within its bounds."""
    array: Array = part.numpy(force=True).astype(leaf.dtype)
    if leaf.low and leaf.dtype != np.float32:
        # No silent clamp but rounding: float32, in which the network computes, does not have every constant.
        low, high = (np.array(bound, leaf.dtype).reshape(leaf.shape) for bound in (leaf.low, leaf.high))
        np.clip(array, low, high, out=array)
    return array
