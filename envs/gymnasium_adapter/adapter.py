"""Any Gymnasium environment as a `BatchedEnv`."""

from __future__ import annotations

import difflib
import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from equipoise.envs import process_wide
from equipoise.envs.action_bounds import ActionBounds, bounded
from equipoise.envs.action_table import ActionLeaf, ActionTable
from equipoise.envs.gymnasium_adapter.bounds import Bounds, CheckBounds
from equipoise.envs.gymnasium_adapter.declared import declared_relevance, plain
from equipoise.envs.gymnasium_adapter.guard import Contract, EnvError, Guard
from equipoise.envs.gymnasium_adapter.mask_sources import OBSERVATION
from equipoise.envs.gymnasium_adapter.observations import Floats, ObservationLayout
from equipoise.envs.gymnasium_adapter.own_spaces import own_spaces
from equipoise.envs.gymnasium_adapter.rewards import Components, Weights, rewards_of
from equipoise.envs.gymnasium_adapter.sources import sources
from equipoise.envs.gymnasium_adapter.workers import Workers
from equipoise.envs.protocol import NativeAction, Relevance, Timestep
from equipoise.envs.references import References

VERSION = 2
"""Of what `state_dict` holds."""


class GymnasiumEnv:
    """`num_envs` copies of a Gymnasium environment, one after the other or in a process each.

    Read from `info`, where the environment gives it:
      `action_mask`: 0/1 or bool for each choice, of the observation it comes with, from `reset` on, in a form
        that `masks.read_mask` takes. Where `info` has none: the method `action_masks()` of the environment
        or of a wrapper, or the part `action_mask` of a `Dict` observation.
      `is_success` or `success` where an episode ends: the metric `success`.
      the keys of `reward_components`, at every step.

    Args:
        id: as registered with Gymnasium; `module:Name-v0` imports `module` first.
        make: instead of `id`, what gives an environment when called: a callable, or `module:name`.
        vectorization: `sync` suits fast environments, `async` (a process each) slow ones.
        kwargs: for the environment's constructor (and what `gymnasium.make` takes: `max_episode_steps`).
        reward_components: keys of `info` that are the `K` reward components, with their weights (1 if only
            names are given, a list of them for an array); the reward itself is then left aside. None: it is
            the one component, or, where it is a vector, each of its numbers is one.
        reward_weights: of a vector's numbers, in order or by name; 1 if none is given. How many there are,
            and what they are called, says the environment's `reward_space` (MO-Gymnasium's have one), or
            else this list: `reward_0`, `reward_1`, …
        relevance: see `envs.protocol.Relevance`; None: the attribute `relevance` of the environment or of a
            wrapper, if any (the outermost one counts). Empty: no table, not even the environment's.
        reference_returns: `random` and `expert` (may be None), see `envs.references.References`.
        timeout: seconds that an environment in a process of its own may take to answer; None: for ever.
        check_bounds: what becomes of finite observations outside of the observation space: `tell` counts
            them, says so once and uses them, `strict` (or true) makes them an error, `off` (or false) uses
            them. An integer outside of its range counts as the nearest one.
        ignore: parts of the observation to leave out, by name: `[mission]`, or `[sensors.text]` for a nested
            one.
        action_bounds: see `envs.action_bounds.bounded`.
        render_mode: `rgb_array` for `render()`.

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
        reward_components: Components | None = None,
        reward_weights: Weights | None = None,
        relevance: Relevance | None = None,
        reference_returns: Mapping[str, Any] | Sequence[Any] | None = None,
        timeout: float | None = 60.0,
        check_bounds: CheckBounds = "tell",
        ignore: Sequence[str] = (),
        action_bounds: ActionBounds | None = None,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        if vectorization not in ("sync", "async"):
            raise ValueError(f"vectorization is {vectorization!r}; allowed are 'sync' and 'async'")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}; it must be above 0 seconds, or None for no limit")
        if (id is None) == (make is None):
            raise ValueError(f"id is {id!r} and make is {make!r}; give one of them")
        id = self.id = id if id is not None else make if isinstance(make, str) else _name_of(make)
        self.num_envs = num_envs
        self.first_env = 0
        self.device = torch.device(device)
        self.reference_returns = _references(reference_returns)
        self.notice: str | None = None
        """Set by `load_state_dict` where the state could not be restored exactly: what is different."""

        make_one = functools.partial(_make, id, make, dict(kwargs or {}), render_mode)
        with process_wide.preserved():
            probe = make_one()
        self.action_space = probe.action_space
        if action_bounds is not None:
            self.action_space = bounded(probe.action_space, action_bounds)
        rewards = rewards_of(probe, reward_components, reward_weights)
        self._own_reward = rewards.plain
        self.reward_names, self.reward_weights = rewards.names, rewards.weights
        self.native_observation_space = probe.observation_space
        """As the environment itself has it; `observation_space` is that of the flat rows."""
        self.ignored = tuple(ignore)
        """The parts of it that the rows lack."""
        self._table = ActionTable(self.action_space)
        self._remarks: list[str] = []
        self.relevance: Relevance | None = plain(relevance)
        if relevance is None:
            self.relevance, remark = declared_relevance(probe)
            self._remarks += [remark] if remark else []
        try:
            self._layout = ObservationLayout(probe.observation_space, ignore)
            self._bounds = Bounds(self._layout, num_envs, check_bounds)
        except ValueError as error:
            raise ValueError(f"{id}: {error}") from error
        finally:
            probe.close()
        self.observation_space = self._layout.box()
        self.render_mode = render_mode
        self._masked = False
        self.mask_in_observation = False
        """Whether the masks are part of the observations; known from the first `reset` on."""
        self._seed: int | None = None
        self._steps = 0  # since the start of this process, as `Guard` counts too
        self._steps_before = 0

        contract = Contract(id, self._layout, self._bounds.check, probe.action_space, self._table, rewards)
        taken = set[int]()
        seed = int(np.random.randint(2**31))  # until `reset` is given one: of what constructors draw
        guarded = [
            functools.partial(_make_guarded, make_one, index, contract, taken, seed)
            for index in range(num_envs)
        ]
        with process_wide.preserved():
            self._envs: SyncVectorEnv[Any, Any] | Workers = (
                SyncVectorEnv(guarded, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
                if vectorization == "sync"
                else Workers(id, guarded, timeout)
            )

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

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        self._seed = self._seed if seed is None else seed
        seeds = [
            None if seed is None else _seed_of(seed, self.first_env + index) for index in range(self.num_envs)
        ]
        with process_wide.preserved():
            observation, infos = self._envs.reset(seed=seeds)
        self._masked = "action_mask" in infos
        if "mask_source" in infos:
            self.mask_in_observation = infos["mask_source"][0] == OBSERVATION
        return self._tensor(self._looked_at(observation, infos)), self._action_mask(infos)

    def step(self, action: NativeAction) -> Timestep:
        self._steps += 1
        own = process_wide.Streams()
        try:
            observation, rewards, ended, cut, infos = self._envs.step(_to_numpy(action, self._table))
        finally:
            own.enter()
        flat = self._tensor(self._looked_at(observation, infos))
        final = self._final_observations(infos, flat) if "final_obs" in infos else flat
        return Timestep(
            flat,
            self._tensor(self._rewards(rewards, infos)),
            self._tensor(ended),
            self._tensor(cut),
            final,
            self._action_mask(infos),
            self._metrics(infos),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values. `exact` says whether they hold the environments' states (see `snapshot.py`); where
        they do not, `reason` says why."""
        state = {"version": VERSION, "id": self.id, "num_envs": self.num_envs, "seed": self._seed}
        state["steps"] = self._steps_before + self._steps
        snapshots = self._envs.call("snapshot")
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
        self.reset(seed=_seed_of(state["seed"] or 0, state["steps"]))
        self._seed, self._steps_before = state["seed"], state["steps"] - self._steps
        reasons = [state.get("reason", "its state is of another version of the adapter")]
        if state["exact"] and state.get("version") == VERSION:
            self._envs.set_attr("snapshot", list(state["envs"]))
            reasons = [reason for reason in self._envs.call("not_restored") if reason is not None]
        self.notice = None
        if reasons:
            self.notice = f"{self.id} cannot be resumed exactly, episodes begin anew: {reasons[0]}"

    def render(self, index: int = 0) -> NDArray[np.uint8]:
        if self.render_mode is None:
            raise ValueError(f"{self.id} was made without a render_mode; pass render_mode='rgb_array'")
        if isinstance(self._envs, SyncVectorEnv):
            picture = self._envs.envs[index].render()
        else:
            picture = self._envs.call("render")[index]
        if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3:
            raise EnvError(f"{self.id}: environment {index}: render gave no [height, width, 3] picture")
        return picture.astype(np.uint8, copy=False)

    def take_remarks(self) -> list[str]:
        remarks, self._remarks = self._remarks, []
        told, self._bounds.remark = self._bounds.remark, None
        return [*remarks, told] if told else remarks

    def close(self) -> None:
        self._envs.close()

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def _looked_at(self, rows: Floats, infos: Mapping[str, Any]) -> Floats:
        """A copy: `rows` is written anew in the next step."""
        self._bounds.begin()
        self._refuse_faulty(rows, range(self.num_envs))
        for source in (infos, infos.get("final_info", {})):
            if "remarks" in source:
                lines = [line for said in source["remarks"] for line in (said or "").split("\n") if line]
                self._remarks += dict.fromkeys(lines)
            if "outside" in source:
                there = source["_outside"]
                self._bounds.note(there.nonzero()[0].tolist(), source["outside"][there.argmax()])
        return rows.copy()

    def _refuse_faulty(self, flat: Floats, indices: Sequence[int], field: str = "") -> None:
        if (fault := self._bounds.fault(flat, indices)) is not None:
            self._fail(fault[0], field + fault[1])

    def _fail(self, index: int, what: str) -> NoReturn:
        if isinstance(self._envs, Workers):
            self._envs.close(terminate=True)
        raise EnvError(f"{self.id}: environment {index}, step {self._steps}: {what}")

    def _final_observations(self, infos: Mapping[str, Any], flat: Tensor) -> Tensor:
        final = np.zeros((self.num_envs, self._layout.width), np.float32)
        for index in infos["_final_obs"].nonzero()[0].tolist():
            final[index] = infos["final_obs"][index]
            self._refuse_faulty(final[[index]], [index], "final ")
        return self._tensor(final)

    def _rewards(self, rewards: NDArray[np.float64], infos: Mapping[str, Any]) -> Floats:
        """`[N, K]`. Where an episode ended, what its last step said is under `final_info`."""
        if self._own_reward:
            with np.errstate(over="ignore"):  # told below, as an error
                values = rewards.astype(np.float32)[:, None]
        else:
            values = np.zeros((self.num_envs, len(self.reward_names)), np.float32)
            for source in (infos, infos.get("final_info", {})):
                if "components" in source:
                    there = source["_components"]
                    values[there] = source["components"][there]
        # The sum of squares is the cheaper question; where it overflows the other one is still asked.
        if not math.isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
            index, component = np.argwhere(~np.isfinite(values))[0]
            self._fail(
                int(index),
                f"reward component {self.reward_names[component]!r} is {values[index, component]} as float32;"
                " rewards must be finite",
            )
        return values

    def _action_mask(self, infos: Mapping[str, Any]) -> Tensor | None:
        there = infos.get("_action_mask")
        if there is None and not self._masked:
            return None
        if not self._masked or there is None or not there.all():
            missing = 0 if there is None else int(np.argmin(there))
            self._fail(
                missing, "info lacks 'action_mask', which must come with every observation or with none"
            )
        return self._tensor(infos["action_mask"])

    def _metrics(self, infos: Mapping[str, Any]) -> dict[str, Tensor]:
        metrics = {}
        if self._bounds.count:
            metrics["outside_bounds"] = self._tensor(self._bounds.last)
        last = infos.get("final_info", {})
        if "success" in last:
            success = np.where(last["_success"], last["success"], np.nan).astype(np.float32)
            metrics["success"] = self._tensor(success)
        return metrics


def _references(given: Mapping[str, Any] | Sequence[Any] | None) -> References | None:
    if given is None:
        return None
    try:
        random, expert = (given["random"], given["expert"]) if isinstance(given, Mapping) else given
        return References(float(random), None if expert is None else float(expert))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"reference_returns is {given!r}; give `random` and `expert`") from None


def _seed_of(seed: int, index: int) -> int:
    """A seed of 31 bits (older environments take no more) that depends on (seed, index) alone."""
    return int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0]) >> 1


def _name_of(make: object) -> str:
    return str(getattr(make, "__name__", type(make).__name__))


def _make(
    id: str, call: str | Callable[..., Any] | None, kwargs: dict[str, Any], render_mode: str | None
) -> gymnasium.Env[Any, Any]:
    # An environment without pictures need not know the keyword.
    rendering: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        if call is not None:
            env = (_found(call) if isinstance(call, str) else call)(**rendering, **kwargs)
            if not isinstance(env, gymnasium.Env):
                raise TypeError(f"it gives a {type(env).__name__}, which is no gymnasium.Env")
        else:
            # Gymnasium's checker is replaced by `Guard`, which also looks at every step after the first.
            env = gymnasium.make(id, disable_env_checker=True, **rendering, **kwargs)
    except gymnasium.error.UnregisteredEnv as error:
        near = difflib.get_close_matches(id.partition(":")[2] or id, gymnasium.registry, n=3, cutoff=0.5)
        hint = f"; the closest known: {', '.join(near)}" if near else ""
        raise ValueError(
            f"{id!r} is no environment that Gymnasium knows{hint} ('module:Name-v0' imports a module first)"
        ) from error
    except (Exception, SystemExit) as error:  # user code: may raise anything
        raise ValueError(
            f"{id!r} could not be made with {kwargs}: {type(error).__name__}: {error}"
        ) from error
    if render_mode is not None and env.render_mode != render_mode:
        raise ValueError(
            f"{id}: render_mode {render_mode!r} is not one of {env.metadata.get('render_modes')}"
        )
    return env


def _found(place: str) -> Callable[..., Any]:
    """What `module:name` names. Raises ImportError or AttributeError."""
    module, _, name = place.partition(":")
    if not name:
        raise ImportError(
            f"{place} was given to equipoise.train as an object that has no name in a module: give it again "
            "from Python, equipoise.load(…, env=…), or define it at the top of a module"
        )
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    call: Callable[..., Any] = found
    return call


def _make_guarded(
    make: functools.partial[gymnasium.Env[Any, Any]],
    index: int,
    contract: Contract,
    taken: set[int],
    seed: int,
) -> Guard:
    streams = process_wide.Streams(seed, index)
    with streams.in_force():
        env = make()
        own_spaces(env, taken)
    return Guard(env, index, contract, streams)


def _to_numpy(action: NativeAction, table: ActionTable) -> list[Any]:
    """The action of each environment, of the space's own dtypes; an environment may keep what it is given."""
    leaves = zip(table.leaves, table.take_apart(action), strict=True)
    arrays = [_leaf_to_numpy(part, leaf) for leaf, part in leaves]
    return [table.action_of(arrays, index) for index in range(len(arrays[0]))]


def _leaf_to_numpy(part: Any, leaf: ActionLeaf) -> NDArray[Any]:
    if not isinstance(part, Tensor) or tuple(part.shape[1:]) != leaf.shape:
        raise ValueError(f"{leaf.path} must be a tensor {['N', *leaf.shape]}")
    array = part.numpy(force=True).astype(leaf.dtype)
    if not leaf.discrete and leaf.dtype != np.float32:
        # No silent clamp but rounding: float32, in which the trainer reckons, does not have every constant.
        low, high = (np.array(bound, leaf.dtype).reshape(leaf.shape) for bound in (leaf.low, leaf.high))
        np.clip(array, low, high, out=array)
    return array
