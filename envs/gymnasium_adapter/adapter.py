"""Any Gymnasium environment as a `BatchedEnv`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.envs import process_wide
from equipoise.envs.action_bounds import ActionBounds, bounded
from equipoise.envs.action_table import ActionTable
from equipoise.envs.dependent_masks import ActionMask
from equipoise.envs.gymnasium_adapter.bounds import Bounds, CheckBounds
from equipoise.envs.gymnasium_adapter.declared import declared_relevance, declared_time_limit, plain
from equipoise.envs.gymnasium_adapter.each_kwargs import EachKwargs, given_back_on_failure, take_numbers
from equipoise.envs.gymnasium_adapter.given_masks import MaskError, TablesOfCopies, as_action_mask
from equipoise.envs.gymnasium_adapter.group import Local, MakeOne, Notes
from equipoise.envs.gymnasium_adapter.guard import Contract, EnvError
from equipoise.envs.gymnasium_adapter.making import Maker, closed_in_the_end, name_of
from equipoise.envs.gymnasium_adapter.mask_sources import OBSERVATION
from equipoise.envs.gymnasium_adapter.native_actions import native_arrays
from equipoise.envs.gymnasium_adapter.observations import Floats, ObservationLayout
from equipoise.envs.gymnasium_adapter.reward_sizes import measured
from equipoise.envs.gymnasium_adapter.rewards import (
    Components,
    Weights,
    rewards_of,
    unannounced,
    vector_remark,
)
from equipoise.envs.gymnasium_adapter.sources import sources
from equipoise.envs.gymnasium_adapter.workers import Workers, cores
from equipoise.envs.gymnasium_adapter.wrapping import read_wrappers
from equipoise.envs.protocol import NativeAction, Relevance, Timestep
from equipoise.envs.references import read_references

VERSION = 2
"""Of what `state_dict` holds."""


class GymnasiumEnv:
    """`num_envs` copies of a Gymnasium environment, one after the other or in several processes.

    Read from `info`, where the environment gives it:
      `action_mask`: 0/1 or bool for each choice, of the observation it comes with, from `reset` on, in a form
        that `masks.read_mask` takes. Where `info` has none: the method `action_masks()` of the environment
        or of a wrapper, or the part `action_mask` of a `Dict` observation.
      `is_success` or `success` where an episode ends: the metric `success`.
      the keys of `reward_components`, at every step.

    Args:
        id: as registered with Gymnasium; `module:Name-v0` imports `module` first.
        make: instead of `id`, what gives an environment when called: a callable, or `module:name`.
        vectorization: `sync`: one after the other in this process; `async`: in processes of their own.
        num_workers: of these, with several environments each; None: as many as this machine has cores for
            this process, but no more than there are environments. `num_envs`: a process for each.
        kwargs: for the environment's constructor (and what `gymnasium.make` takes: `max_episode_steps`).
            `{index}` in a text differs from copy to copy, see `each_kwargs.EachKwargs`; `{_target_: …}` is
            an object, see `objects.built`.
        kwargs_each: keywords that differ: `{level: [1, 2, 3]}`.
        wrappers: put around each copy in this order: names of `gymnasium.wrappers`, `module.Class`, or
            `{_target_: …, keyword: …}`.
        reward_components: keys of `info` that are the `K` reward components, with their weights (1 if only
            names are given, a list of them for an array, else one for all its numbers); the reward itself is
            then left aside. None: it is the one component, or, where it is a vector, each of its numbers is
            one.
        reward_weights: of a vector's numbers, in order or by name; 1 if none is given. They are called as the
            environment's `reward_space` says, or `reward_0`, `reward_1`, …
        relevance: see `envs.protocol.Relevance`; None: the attribute `relevance` of the environment or of a
            wrapper, if any (the outermost one counts). Empty: no table, not even the environment's.
        reference_returns: `random` and `expert` (may be None), see `envs.references.References`.
        timeout: seconds that one environment in another process may take to answer; None: for ever.
        check_bounds: what becomes of finite observations outside of the observation space: `tell` counts
            them, says so once and uses them, `strict` (or true) makes them an error, `off` (or false) uses
            them. An integer outside of its range counts as the nearest one.
        ignore: parts of the observation to leave out, by name: `[mission]`, or `[sensors.text]` for a nested
            one, `[1]` for one of a `Tuple`.
        action_bounds: see `envs.action_bounds.bounded`.
        render_mode: `rgb_array` for `render()`.
        reward_sizes: how many numbers the reward and the keys of `info` hold, as another one's `found_out`
            has it; None: a first step tells.

    Raises:
        ValueError: unknown id, a constructor that fails, or arguments and spaces that do not fit.
        EnvError: from then on, whatever the environment does wrong.
    """

    def __init__(
        self,
        id: str | None = None,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        make: str | Callable[..., Any] | None = None,
        vectorization: Literal["sync", "async"] = "sync",
        kwargs: Mapping[str, Any] | None = None,
        kwargs_each: Mapping[str, Sequence[Any]] | None = None,
        wrappers: Sequence[str | Mapping[str, Any]] = (),
        reward_components: Components | None = None,
        reward_weights: Weights | None = None,
        relevance: Relevance | None = None,
        reference_returns: Mapping[str, Any] | Sequence[Any] | None = None,
        num_workers: int | None = None,
        timeout: float | None = 60.0,
        check_bounds: CheckBounds = "tell",
        ignore: Sequence[str | float] = (),
        action_bounds: ActionBounds | None = None,
        render_mode: str | None = None,
        reward_sizes: Mapping[str, int] | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        if vectorization not in ("sync", "async"):
            raise ValueError(f"vectorization is {vectorization!r}; allowed are 'sync' and 'async'")
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}; it must be at least 1, or None for the cores")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}; it must be above 0 seconds, or None for no limit")
        if (id is None) == (make is None):
            raise ValueError(f"id is {id!r} and make is {make!r}; give one of them")
        id = self.id = id if id is not None else make if isinstance(make, str) else name_of(make)
        self.num_envs = num_envs
        self.first_env = 0
        self.device = torch.device(device)
        self.reference_returns = read_references(reference_returns)
        self.notice: str | None = None
        """Set by `load_state_dict` where the state could not be restored exactly: what is different."""

        numbers, self._give_back = take_numbers(self, num_envs)
        make_one = Maker(
            id,
            make,
            EachKwargs(kwargs or {}, kwargs_each or {}, numbers),
            read_wrappers(wrappers),
            render_mode,
        )
        with given_back_on_failure(self._give_back), process_wide.preserved():
            probe = make_one(0)
        self._remarks: list[str] = []
        self._coarse_told = False
        self.relevance: Relevance | None = plain(relevance)
        with given_back_on_failure(self._give_back), closed_in_the_end(probe, id, self._remarks):
            self.action_space = probe.action_space
            if action_bounds is not None:
                self.action_space = bounded(probe.action_space, action_bounds)
            self._table = ActionTable(self.action_space)
            self._layout = ObservationLayout(probe.observation_space, ignore)
            self._bounds = Bounds(self._layout, num_envs, check_bounds)
            self.time_limit = declared_time_limit(probe)
            if relevance is None:
                self.relevance, remark = declared_relevance(probe)
                self._remarks += [remark] if remark else []
            contract = Contract(id, self._layout, self._bounds.check, probe.action_space, self._table)
            drawn = int(np.random.randint(2**31))  # the seed of what constructors draw

            def start(count: int, contract: Contract, make: MakeOne = make_one) -> Local | Workers:
                if vectorization == "sync":
                    return Local(make, contract, count, drawn)
                return Workers(make_one, contract, count, min(num_workers or cores(), count), drawn, timeout)

            # In another process where the environments are to be: it may die, or never answer.
            if reward_sizes is None:
                reward_sizes = measured(
                    lambda given: start(1, given, lambda _: probe),
                    contract,
                    unannounced(reward_components, reward_weights),
                )
            rewards = rewards_of(probe, reward_components, reward_weights, reward_sizes)
            if reward_components is None and reward_weights is None:
                self._remarks += vector_remark(rewards.names)
        self.found_out = {"reward_sizes": reward_sizes}
        """Keywords that spare another one of the same environment the looking."""
        self.reward_names, self.reward_weights = rewards.names, rewards.weights
        self.native_observation_space = probe.observation_space
        """As the environment itself has it; `observation_space` is that of the flat rows."""
        self.ignored = self._layout.ignore
        """The parts of it that the rows lack."""
        self.observation_space = self._layout.box()
        self.render_mode = render_mode
        self._masked = False
        self._tables = TablesOfCopies(self._table, num_envs)
        self.mask_in_observation = False
        """Whether the masks are part of the observations; known from the first `reset` on."""
        self.numbers_for_arrays = False
        """Whether a number is sent for a box of one entry; known from the first step on."""
        self._seed: int | None = None
        self._steps = 0  # since the start of this process, as `Guard` counts too
        self._steps_before = 0

        with given_back_on_failure(self._give_back):
            self.envs = start(num_envs, replace(contract, rewards=rewards))

    @property
    def observation_layout(self) -> list[dict[str, Any]]:
        """What of an observation lies in which columns of a row, see `ObservationLayout.describe`."""
        return self._layout.describe()

    @staticmethod
    def imports(section: Mapping[str, Any]) -> list[str]:
        """The code that runs when an environment is made with the keywords in `section`, see `sources`.

        The configuration in a checkpoint is held against this: it must list whatever a keyword names.
        """
        return list(sources(section))

    def reset(self, seed: int | None = None) -> tuple[Tensor, ActionMask | None]:
        self._seed = self._seed if seed is None else seed
        seeds = [
            None if seed is None else seed_of(seed, self.first_env + index) for index in range(self.num_envs)
        ]
        notes = self.envs.reset(seeds)
        self._masked = bool(self.envs.exchange.masked.any())
        rows = self._looked_at(self.envs.exchange.rows)
        self._tell(notes)
        mask = self._action_mask(notes)
        if (coarse := self._bounds.coarse(rows)) and not self._coarse_told:
            self._coarse_told = True
            self._remarks.append(coarse)
        return self._tensor(rows), mask

    def step(self, action: NativeAction) -> Timestep:
        self._steps += 1
        given = self.envs.exchange
        for place, array in zip(given.actions, native_arrays(action, self._table), strict=True):
            place[...] = array
        notes = self.envs.step()
        rows = self._looked_at(given.rows)
        self._tell(notes)
        ended = given.terminated | given.truncated
        return Timestep(
            flat := self._tensor(rows),
            self._tensor(self._rewards()),
            self._tensor(given.terminated.copy()),
            self._tensor(given.truncated.copy()),
            self._tensor(self._final_rows(ended)) if ended.any() else flat,
            self._action_mask(notes),
            self._metrics(),
        )

    def _tell(self, notes: Notes) -> None:
        """Keep what the environments say of themselves, for the user."""
        for index, said in notes:
            if "mask_source" in said:
                self.mask_in_observation = said["mask_source"] == OBSERVATION
            self.numbers_for_arrays |= "numbers_for_arrays" in said
            if "outside" in said:
                self._bounds.note([index], said["outside"])
            new = said.get("remarks", "").split("\n")
            self._remarks += [line for line in new if line and line not in self._remarks]

    def state_dict(self) -> dict[str, Any]:
        """Plain values. `exact` says whether they hold the environments' states (see `snapshot.py`); where
        they do not, `reason` says why."""
        state = {"version": VERSION, "id": self.id, "num_envs": self.num_envs, "seed": self._seed}
        state["steps"] = self._steps_before + self._steps
        snapshots = self.envs.snapshots()
        reasons = [snapshot for snapshot in snapshots if isinstance(snapshot, str)]
        if reasons:
            return {**state, "exact": False, "reason": reasons[0]}
        return {**state, "exact": True, "envs": list(snapshots)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit where the state is exact. Where it is not, all episodes begin anew on random
        streams of their own and `notice` says so: call `reset()` for the observation to go on from.

        Raises:
            ValueError: the state is of another environment or another number of them.
        """
        for name in ("id", "num_envs"):
            if state[name] != getattr(self, name):
                raise ValueError(f"the saved state has {name} {state[name]!r}, not {getattr(self, name)!r}")
        # Also for exact states: an environment may make part of itself only when it is first reset.
        self.reset(seed=seed_of(state["seed"] or 0, state["steps"]))
        self._seed, self._steps_before = state["seed"], state["steps"] - self._steps
        reasons = [state.get("reason", "its state is of another version of the adapter")]
        if state["exact"] and state.get("version") == VERSION:
            reasons = [why for why in self.envs.restore(list(state["envs"])) if why is not None]
        self.notice = None
        if reasons:
            self.notice = f"{self.id} cannot be resumed exactly, episodes begin anew: {reasons[0]}"

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        if self.render_mode is None:
            raise ValueError(f"{self.id} was made without a render_mode; pass render_mode='rgb_array'")
        picture = self.envs.render(index)
        if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3:
            raise EnvError(f"{self.id}: environment {index}: render gave no [height, width, 3] picture")
        return picture.astype(np.uint8, copy=False)

    def take_remarks(self) -> list[str]:
        remarks, self._remarks = self._remarks, []
        told, self._bounds.remark = self._bounds.remark, None
        return [*remarks, told] if told else remarks

    def close(self) -> None:
        """Raises EnvError where an environment fails in it."""
        self._give_back()
        self.envs.close()

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def _looked_at(self, rows: Floats) -> Floats:
        """A copy: `rows` is written anew in the next step."""
        self._bounds.begin()
        self._refuse_faulty(rows, range(self.num_envs))
        return rows.copy()

    def _refuse_faulty(self, flat: Floats, indices: Sequence[int], field: str = "") -> None:
        if (fault := self._bounds.fault(flat, indices)) is not None:
            self._fail(fault[0], field + fault[1])

    def _fail(self, index: int, what: str) -> NoReturn:
        self.envs.close(terminate=True)
        raise EnvError(f"{self.id}: environment {index}, step {self._steps}: {what}")

    def _final_rows(self, ended: NDArray[np.bool_]) -> Floats:
        final = self.envs.exchange.final_rows.copy()
        there = np.flatnonzero(ended).tolist()
        self._refuse_faulty(final[there], there, "final ")
        return final

    def _rewards(self) -> Floats:
        """`[N, K]`."""
        with np.errstate(over="ignore"):  # told below, as an error
            values = self.envs.exchange.rewards.astype(np.float32)
        # The sum of squares is the cheaper question; where it overflows the other one is still asked.
        if not math.isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
            index, component = np.argwhere(~np.isfinite(values))[0]
            self._fail(
                int(index),
                f"reward component {self.reward_names[component]!r} is {values[index, component]} as float32;"
                " rewards must be finite",
            )
        return values

    def _action_mask(self, notes: Notes) -> ActionMask | None:
        there = self.envs.exchange.masked
        if not self._masked and not there.any():
            return None
        if not there.all():
            self._fail(
                int(np.argmin(there)),
                "info lacks 'action_mask', which must come with every observation or with none",
            )
        try:
            tables = self._tables.join({i: said["mask_tables"] for i, said in notes if "mask_tables" in said})
        except MaskError as error:
            self._fail(0, f"the action mask {error}")
        return as_action_mask(self._tensor(self.envs.exchange.mask.copy()), tables)

    def _metrics(self) -> dict[str, Tensor]:
        metrics = {}
        if self._bounds.count:
            metrics["outside_bounds"] = self._tensor(self._bounds.last)
        success = self.envs.exchange.success
        if not np.isnan(success).all():
            metrics["success"] = self._tensor(success.copy())
        return metrics


def seed_of(seed: int, index: int) -> int:
    """A seed of 31 bits (older environments take no more) that depends on (seed, index) alone."""
    return int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0]) >> 1
