"""Gymnasium's vector environments, EnvPool's and PettingZoo's parallel ones as a `BatchedEnv`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from equipoise.envs.action_bounds import ActionBounds, bounded
from equipoise.envs.action_table import ActionTable
from equipoise.envs.gymnasium_adapter.bounds import Bounds, CheckBounds
from equipoise.envs.gymnasium_adapter.guard import EnvError
from equipoise.envs.gymnasium_adapter.making import name_of
from equipoise.envs.gymnasium_adapter.mask_sources import KEY, OBSERVATION, READ_FROM_OBSERVATION
from equipoise.envs.gymnasium_adapter.masks import MaskError, read_mask
from equipoise.envs.gymnasium_adapter.native_actions import native_arrays
from equipoise.envs.gymnasium_adapter.observations import Floats, ObservationLayout
from equipoise.envs.protocol import NativeAction, Relevance, Timestep
from equipoise.envs.references import References, read_references
from equipoise.envs.vectorised.making import Autoreset, autoreset_of, make_vectorised
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
        reward_weights: of the `K` numbers of a reward; None: it is one number.
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
        native = getattr(self._env, "single_action_space", self._env.action_space)
        self.action_space = native if action_bounds is None else bounded(native, action_bounds)
        self._table = ActionTable(self.action_space)
        choices = np.array(self._table.choices, np.int64)
        self._every_choice = np.arange(choices.max(initial=0)) < choices[:, None]
        """`[H, C]`: the mask that forbids nothing."""
        self.native_observation_space = getattr(
            self._env, "single_observation_space", self._env.observation_space
        )
        self._layout = ObservationLayout(self.native_observation_space, ignore)
        self.ignored = self._layout.ignore
        self._bounds = Bounds(self._layout, num_envs, check_bounds)
        self.observation_space = self._layout.box()
        self._masked = self.mask_in_observation = False
        """Known from the first `reset` on."""
        self._remarks: list[str] = []
        self._ended = np.zeros(num_envs, np.bool_)
        self._idle: list[NDArray[np.bool_]] = []

    @property
    def observation_layout(self) -> list[dict[str, Any]]:
        return self._layout.describe()

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        self._seed = self._seed if seed is None else seed
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._idle.clear()
        of_envpool = any(cls.__module__.startswith("envpool") for cls in type(self._env).__mro__)
        if seed is not None and of_envpool:
            # It ignores the seed of a reset, and training and evaluations would see the same episodes.
            self._env.close()
            self._env, seed = self._make({**self._kwargs, "seed": seed % 2**31}), None
        observation, infos = self._env.reset(seed=seed)
        rows = self._tensor(self._rows(observation))
        self._find_masks(observation, infos)
        return rows, self._mask(self._masks_in(observation, infos))

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
        metrics, masks = self._success(infos), self._masks_in(observation, infos)
        if self._ended.any():
            final = self._final_rows(rows, infos)
            if self._autoreset == "disabled":
                observation, begun = self._env.reset(options={"reset_mask": self._ended.copy()})
                rows = self._rows(observation)
                new = self._masks_in(observation, begun) if masks is not None else None
                if new is not None:
                    masks = [new[i] if self._ended[i] else mask for i, mask in enumerate(masks)]
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

    def _find_masks(self, observation: Any, infos: Mapping[str, Any]) -> None:
        """In the infos, or else in the observation, as PettingZoo has them."""
        self._masked, self.mask_in_observation = "action_mask" in infos, False
        space = self.native_observation_space
        if not self._table.num_heads:
            self._masked = False
        elif not self._masked and isinstance(space, spaces.Dict) and KEY in space.spaces:
            try:
                read_mask(observation[KEY][0], self._table)
            except MaskError as error:
                self._remarks.append(f"{OBSERVATION} is not used as a mask, only as an input: it {error}")
            else:
                self._remarks.append(READ_FROM_OBSERVATION)
                self._masked = self.mask_in_observation = True

    def _masks_in(self, observation: Any, infos: Mapping[str, Any]) -> Any:
        return observation[KEY] if self.mask_in_observation else infos.get("action_mask")

    def _mask(self, masks: Any, unused: Any = None) -> Tensor | None:
        """Args:
        masks: one for each environment; None: there are none.
        unused: `[N]`, whose next action is ignored: what their masks say does not matter.
        """
        if not self._masked:
            return None
        if masks is None:
            self._fail(0, "infos lack 'action_mask', which must come with every observation or with none")
        try:
            unused = np.zeros(self.num_envs, np.bool_) if unused is None else unused
            rows = [
                self._every_choice if unused[i] else read_mask(mask, self._table)
                for i, mask in enumerate(masks)
            ]
            return self._tensor(np.stack(rows))
        except MaskError as error:
            where = OBSERVATION if self.mask_in_observation else "infos['action_mask']"
            self._fail(0, f"{where}: {error}")

    def _success(self, infos: Mapping[str, Any]) -> dict[str, Tensor]:
        last = infos.get("final_info") if self._autoreset == "same_step" else infos
        for key in ("is_success", "success"):
            if isinstance(last, Mapping) and key in last and self._ended.any():
                values = np.where(self._ended, np.asarray(last[key], np.float32), np.nan)
                return {"success": self._tensor(values.astype(np.float32))}
        return {}

    def _fail(self, index: int, what: str) -> NoReturn:
        raise EnvError(f"{self.id}: environment {index}, step {self._steps}: {what}")
