"""Gymnasium's vector environments, EnvPool's and PettingZoo's parallel ones as a `BatchedEnv`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from equipoise.envs import process_wide
from equipoise.envs.action_bounds import ActionBounds, bounded
from equipoise.envs.action_table import ActionTable
from equipoise.envs.dependent_masks import ActionMask
from equipoise.envs.gymnasium_adapter.bounds import Bounds, CheckBounds
from equipoise.envs.gymnasium_adapter.given_masks import MaskError, as_action_mask
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.gymnasium_adapter.making import name_of
from equipoise.envs.gymnasium_adapter.mask_sources import METHOD, OBSERVATION
from equipoise.envs.gymnasium_adapter.native_actions import native_arrays, some_arrays
from equipoise.envs.gymnasium_adapter.observations import Floats, ObservationLayout
from equipoise.envs.gymnasium_adapter.rewards import vector_remark
from equipoise.envs.protocol import NativeAction, Relevance, Timestep
from equipoise.envs.references import References, read_references
from equipoise.envs.vectorised.making import Autoreset, autoreset_of, make_vectorised, time_limit_of
from equipoise.envs.vectorised.masks import Masks
from equipoise.envs.vectorised.restarting import Restarting


class VectorisedEnv(Restarting):
    """What `gymnasium.make_vec`, EnvPool or PettingZoo make, and anything else with their interface.

    An episode that has ended begins anew in the same step where the environment can do that (SAME_STEP) or
    resets the copies that it is told to (DISABLED). One that does so in the step after (NEXT_STEP) ignores
    the action of that step, which is told by `take_idle` and must not be learned from.

    Args:
        id: as `gymnasium.make_vec` takes it.
        make: instead of `id`, a callable or `module:name`, called with `num_envs` and `kwargs`. What it gives
            may also be a parallel environment of PettingZoo, see `parallel.Agents`.
        kwargs: for the constructor.
        autoreset: `same_step`, `next_step` or `disabled`, where the environment's `metadata` do not say.
        reward_weights: of the `K` numbers of a reward; None: 1 for each.
        relevance, reference_returns, check_bounds, ignore, action_bounds: as of `GymnasiumEnv`.
        render_mode: `rgb_array` for `render()`.

    Raises:
        ValueError: arguments or spaces that do not fit.
        EnvError: the environment misbehaves.
    """

    def __init__(
        self,
        id: str | None = None,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        make: str | Callable[..., Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        autoreset: Autoreset | None = None,
        reward_weights: Sequence[float] | None = None,
        relevance: Relevance | None = None,
        reference_returns: Mapping[str, Any] | Sequence[Any] | None = None,
        check_bounds: CheckBounds = "tell",
        ignore: Sequence[str | float] = (),
        action_bounds: ActionBounds | None = None,
        render_mode: str | None = None,
    ) -> None:
        if (id is None) == (make is None):
            raise ValueError(f"id is {id!r} and make is {make!r}; give one of them")
        name = id if id is not None else make if isinstance(make, str) else name_of(make)
        super().__init__(name, num_envs, reward_weights)
        self.device = torch.device(device)
        self.reference_returns: References | None = read_references(reference_returns)
        self.relevance: Relevance | None = relevance
        self.render_mode = render_mode
        rendering = {} if render_mode is None else {"render_mode": render_mode}
        self._make = partial(make_vectorised, self.id, make, num_envs)
        self._kwargs = {**rendering, **(kwargs or {})}
        self._env = self._make(self._kwargs)
        self._autoreset = autoreset_of(self._env, autoreset)
        self.time_limit = time_limit_of(self._env)
        native = getattr(self._env, "single_action_space", self._env.action_space)
        self.action_space = native if action_bounds is None else bounded(native, action_bounds)
        self._table = ActionTable(self.action_space)
        self.native_observation_space = getattr(
            self._env, "single_observation_space", self._env.observation_space
        )
        self._layout = ObservationLayout(self.native_observation_space, ignore)
        self.ignored = self._layout.ignore
        self._bounds = Bounds(self._layout, num_envs, check_bounds)
        self.observation_space = self._layout.box()
        self._masks = Masks(self._table, self.native_observation_space, num_envs)
        self._remarks: list[str] = []
        self._told = set[str]()
        self._ended = np.zeros(num_envs, np.bool_)
        self._idle: list[NDArray[np.bool_]] = []
        if reward_weights is None:
            self.count_rewards(self._reward_size())
            self._tell(vector_remark(self.reward_names))
        elif len(self.reward_weights) > 1:
            self._refuse_vectors()

    @property
    def mask_in_observation(self) -> bool:
        """Known from the first `reset` on."""
        return self._masks.source == OBSERVATION

    @property
    def observation_layout(self) -> list[dict[str, Any]]:
        return self._layout.describe()

    def reset(self, seed: int | None = None) -> tuple[Tensor, ActionMask | None]:
        self._seed = self._seed if seed is None else seed
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._idle.clear()
        if seed is not None and self._of_envpool():
            # It ignores the seed of a reset, and training and evaluations would see the same episodes.
            self._env.close()
            self._env, seed = self._make({**self._kwargs, "seed": seed % 2**31}), None
        observation, infos = self._env.reset(seed=seed)
        rows = self._tensor(self._rows(observation))
        self._tell(self._masks.find(self._env, observation, infos))
        return rows, self._mask(self._masks.given(observation, infos))

    def step(self, action: NativeAction) -> Timestep:
        self._steps += 1
        given = self._table.actions_of(native_arrays(action, self._table))
        observation, rewards, terminated, truncated, infos = self._env.step(given)
        # Copies: many hand out the same arrays in every step.
        terminated, truncated = (np.array(flag, np.bool_) for flag in (terminated, truncated))
        idle = self._ended if self._autoreset == "next_step" else np.asarray(infos.get("idle", False))
        rewards = np.where(idle.reshape(-1, 1), 0.0, self._rewards(rewards)).astype(np.float32)
        terminated &= ~idle
        truncated &= ~idle
        self._idle.append(np.broadcast_to(idle, (self.num_envs,)))
        self._ended = terminated | truncated
        rows, final = self._rows(observation), None
        metrics = self._success(infos)
        masks: Any = None
        if self._masks.source != METHOD:
            masks = self._masks.given(observation, infos)
        if self._ended.any():
            final = self._final_rows(rows, infos)
            if self._autoreset == "disabled":
                observation, begun = self._env.reset(options={"reset_mask": self._ended.copy()})
                rows = self._rows(observation)
                new = self._masks.given(observation, begun) if masks is not None else None
                if new is not None:
                    masks = [new[i] if self._ended[i] else mask for i, mask in enumerate(masks)]
        if self._masks.source == METHOD:  # of the episodes that go on from here
            masks = self._masks.given(observation, infos)
        flat = self._tensor(rows)
        return Timestep(
            flat,
            self._tensor(rewards),
            self._tensor(terminated),
            self._tensor(truncated),
            flat if final is None else self._tensor(final),
            self._mask(masks, self._ended if self._autoreset == "next_step" else infos.get("over")),
            metrics,
        )

    def take_idle(self) -> Tensor | None:
        """`[steps, N]` since this was last asked, or since `reset`; None where no action was ignored."""
        idle, self._idle = self._idle, []
        return torch.from_numpy(np.stack(idle)) if idle and any(step.any() for step in idle) else None

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        pictures = self._env.render()
        if not isinstance(pictures, list | tuple | np.ndarray) or len(pictures) != self.num_envs:
            raise NotImplementedError(f"{self.id} gives no picture of each copy")
        return np.asarray(pictures[index], np.uint8)

    def take_remarks(self) -> list[str]:
        remarks, self._remarks = self._remarks, []
        told, self._bounds.remark = self._bounds.remark, None
        return [*remarks, told] if told else remarks

    def close(self) -> None:
        self._env.close()

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def _rows(self, observation: Any) -> Floats:
        try:
            rows, outside = self._layout.rows(observation, self.num_envs)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            self._fail(0, f"observations do not fit {self.native_observation_space}: {error}")
        self._bounds.begin()
        self._refuse_faulty(rows, range(self.num_envs))
        if outside is not None:
            self._bounds.note([outside[0]], outside[1])
        return rows

    def _refuse_faulty(self, rows: Floats, indices: Sequence[int], field: str = "") -> None:
        if (fault := self._bounds.fault(rows, indices)) is not None:
            self._fail(fault[0], field + fault[1])

    def _final_rows(self, rows: Floats, infos: Mapping[str, Any]) -> Floats:
        """Valid where an episode ended: what `step` gave, unless that belongs to the next one already."""
        if self._autoreset != "same_step":
            return rows
        final, there = np.zeros_like(rows), np.flatnonzero(self._ended).tolist()
        last = infos.get("final_obs", infos.get("final_observation"))
        if last is None:
            self._fail(there[0], "its episode has ended, and the infos have no final_obs")
        if isinstance(last, np.ndarray) and last.dtype != object and last.shape[0] == self.num_envs:
            last = list(last)
        for index in there:
            final[index] = self._layout.row(last[index])[0]
        self._refuse_faulty(final[there], there, "final ")
        return final

    def _rewards(self, rewards: Any) -> NDArray[np.float64]:
        """`[N, K]`."""
        values = np.asarray(rewards, np.float64).reshape(self.num_envs, -1)
        if values.shape[1] != len(self.reward_weights):
            found = f"rewards have shape {np.shape(rewards)}, not {len(self.reward_weights)} each"
            ones = ",".join("1" * values.shape[1])
            self._fail(0, f"{found}; env.reward_weights=[{ones}] takes each by itself")
        if not np.isfinite(values).all():
            index, _ = np.argwhere(~np.isfinite(values))[0]
            self._fail(int(index), "its reward is not finite")
        return values

    def _mask(self, masks: Any, unused: Any = None) -> ActionMask | None:
        """Args: see `Masks.read`; `masks`: None where there are none."""
        if self._masks.source is None:
            return None
        if masks is None:
            self._fail(0, "infos lack 'action_mask', which must come with every observation or with none")
        try:
            own, tables = self._masks.read(masks, unused)
            return as_action_mask(self._tensor(own), tables)
        except MaskError as error:
            self._fail(0, f"{self._masks.source}: {error}")

    def _tell(self, remarks: Sequence[str]) -> None:
        """Keep what has not been told before: a run is reset several times."""
        self._remarks += [line for line in remarks if line not in self._told]
        self._told |= set(remarks)

    def _of_envpool(self) -> bool:
        return any(cls.__module__.startswith("envpool") for cls in type(self._env).__mro__)

    def _reward_size(self) -> int:
        """How many numbers a reward holds, seen in a step that does not count."""
        try:
            with process_wide.preserved():
                observation, infos = self._env.reset(seed=None if self._of_envpool() else 0)
                self._tell(self._masks.find(self._env, observation, infos))
                given = self._masks.given(observation, infos) if self._masks.source else None
                mask = (self._masks.of_all_choices(), []) if given is None else self._masks.read(given)
                rewards = self._env.step(self._table.actions_of(some_arrays(self._table, *mask)))[1]
            return int(np.asarray(rewards, np.float64).reshape(self.num_envs, -1).shape[1])
        except (Exception, SystemExit):  # user code: may raise anything, and is told when it does so again
            self._refuse_vectors()
            with contextlib.suppress(Exception):
                self._env.close()
            self._env = self._make(self._kwargs)
            return 1

    def _refuse_vectors(self) -> None:
        """Raises ValueError where a reward holds several numbers, of which a `SyncVectorEnv` takes one."""
        if not isinstance(self._env, SyncVectorEnv):
            return
        count, one = 1, self._env.envs[0]
        with contextlib.suppress(Exception), process_wide.preserved():  # the same
            one.reset(seed=0)
            reward: Any = one.step(one.action_space.sample())[1]
            count = np.size(reward)
        if count > 1:
            self.close()
            raise ValueError(
                f"{self.id}: a reward holds {count} numbers, and Gymnasium's SyncVectorEnv takes one; "
                "env=gymnasium in the place of env=vector learns from each"
            )

    def _success(self, infos: Mapping[str, Any]) -> dict[str, Tensor]:
        last = infos.get("final_info") if self._autoreset == "same_step" else infos
        for key in ("is_success", "success"):
            if isinstance(last, Mapping) and key in last and self._ended.any():
                values = np.where(self._ended, np.asarray(last[key], np.float32), np.nan)
                return {"success": self._tensor(values.astype(np.float32))}
        return {}

    def _fail(self, index: int, what: str) -> NoReturn:
        raise EnvError(f"{self.id}: environment {index}, step {self._steps}: {what}")
