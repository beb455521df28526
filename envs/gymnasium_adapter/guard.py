"""What every single environment is wrapped in: nothing wrong gets past it, and errors say whose they are.

It sits in the worker process where there is one, so that the index of the environment is known and that
only what the trainer needs of `info` travels. Gymnasium's batching would turn a wrong dtype into another
value and a wrong shape into an error without an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import gymnasium
import numpy as np

from equipoise.envs.action_table import ActionTable
from equipoise.envs.gymnasium_adapter import closing, own_spaces, snapshot
from equipoise.envs.gymnasium_adapter.given_masks import MaskError
from equipoise.envs.gymnasium_adapter.mask_sources import INFO, MaskSource
from equipoise.envs.gymnasium_adapter.observations import Floats, ObservationLayout, as_array
from equipoise.envs.gymnasium_adapter.plain_values import NotPlainError
from equipoise.envs.gymnasium_adapter.rewards import ONE, Rewards
from equipoise.envs.gymnasium_adapter.scalars import with_numbers
from equipoise.envs.gymnasium_adapter.shared_streams import SharedStreams
from equipoise.envs.process_wide import Streams

_PROCESS_WIDE, _SHARED = 2, 3
"""Tell these streams from others that are made of the same seed."""


class EnvError(RuntimeError):
    """An environment misbehaved; the message gives its id, index and step, and the offending field."""


@dataclass(frozen=True)
class Contract:
    """What is expected of an environment, the same for all of a batch."""

    id: str
    layout: ObservationLayout
    check_bounds: str
    """`strict`, `tell` or `off`, see `bounds.Bounds`."""
    action_space: gymnasium.Space[Any]
    """As the environments have it; `actions` is of what a policy may use of it."""
    actions: ActionTable
    rewards: Rewards = ONE


class Guard(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Checks what one environment returns, makes a flat row `[O]` of its observation, and reduces `info` to
    what the trainer reads: `components` `[K]`, `action_mask` `[H, C]`, `mask_tables`, `success`, `outside`
    (an integer of the observation was outside of its space), and what `MaskSource.decide` gives.

    Args:
        streams: what the environment finds in the generators of the whole process. They stay in force: who
            steps environments in its own process puts its own back.

    Raises:
        EnvError: from `reset` and `step`, whatever went wrong in the environment.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], index: int, contract: Contract, streams: Streams
    ) -> None:
        super().__init__(env)
        self._index, self._contract, self._layout = index, contract, contract.layout
        self.observation_space = contract.layout.flat_box()
        self._streams, self._shared = streams, SharedStreams(env)
        self._masks = MaskSource(env, contract.actions)
        self._steps = 0
        self._beyond_told = contract.layout.flat
        self._numbers_for_arrays = False
        self._plain_reward = contract.rewards.plain

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if not self._steps and self.env.action_space != self._contract.action_space:
            self._fail(f"its action space is {self.env.action_space}, not {self._contract.action_space}")
        if seed is not None:
            self._streams.begin(seed, _PROCESS_WIDE)
            self._shared.begin(seed, _SHARED)
        self._enter_streams()
        try:
            if seed is not None:
                own_spaces.seed_spaces(self.env, seed)
            result = self.env.reset(seed=seed, options=options)
        except (Exception, SystemExit) as error:
            self._fail(f"reset raised {type(error).__name__}: {error}", error)
        self._leave_streams()
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            self._fail("reset must return (observation, info)")
        row, said = self._row(result[0])
        said |= self._masks.decide(*result)
        self._look_beyond(result[0], said)
        return row, said | self._mask(*result)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._enter_streams()
        try:
            result = self._env_step(action)
        except (Exception, SystemExit) as error:
            self._fail(f"step raised {type(error).__name__}: {error}", error)
        self._leave_streams()
        if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
            self._fail("step must return (observation, reward, terminated, truncated, info)")
        observation, reward, terminated, truncated, info = result
        row, said = self._row(observation)
        if self._steps == 1 and self._numbers_for_arrays:
            said["remarks"] = "a box of one entry gets a number: the environment takes no array there"
            said["numbers_for_arrays"] = True
        if not self._beyond_told:
            self._look_beyond(observation, said)
        if type(reward) is not float or not self._plain_reward:
            reward, components = self._read_reward(reward, info)
            said |= components
        if not (type(terminated) is bool and type(truncated) is bool):
            terminated = self._to_bool("terminated", terminated)
            truncated = self._to_bool("truncated", truncated)
        said |= self._success(info) if terminated or truncated else self._mask(observation, info)
        return row, reward, terminated, truncated, said

    def _env_step(self, action: Any) -> Any:
        """Some take numbers for boxes of one entry, and no arrays: they refuse the very first action."""
        if self._numbers_for_arrays:
            return self.env.step(with_numbers(self.env.action_space, action))
        try:
            return self.env.step(action)
        except Exception as refusal:
            numbers = with_numbers(self.env.action_space, action)
            if self._steps > 1 or numbers is action:
                raise
            try:
                result = self.env.step(numbers)
            except Exception:
                raise refusal from None
        self._numbers_for_arrays = True
        return result

    def render(self) -> Any:
        try:
            return self.env.render()
        except (Exception, SystemExit) as error:
            self._fail(f"render raised {type(error).__name__}: {error}", error)

    def close(self) -> None:
        try:
            closing.close(self.env)
        except (Exception, SystemExit) as error:
            self._fail(f"close raised {type(error).__name__}: {error}", error)

    def snapshot(self) -> dict[str, Any] | str:
        """The environment's state as plain values, or the reason why it cannot be had."""
        try:
            streams = {"process_wide": self._streams.state_dict(), "shared": self._shared.encoded()}
            return {**snapshot.take(self.env), **streams}
        except (NotPlainError, ValueError) as reason:
            return str(reason)

    def restore(self, state: Mapping[str, Any]) -> str | None:
        """Put a snapshot back; the reason why it cannot be, if so."""
        if "process_wide" in state:  # not in checkpoints of older versions
            self._streams.load_state_dict(state["process_wide"])
        if "shared" in state:
            self._shared.restore(state["shared"])
        try:
            snapshot.restore(self.env, state)
        except NotPlainError as reason:
            return str(reason)
        return None

    def _enter_streams(self) -> None:
        self._streams.enter()
        self._shared.enter()

    def _leave_streams(self) -> None:
        self._streams.leave()
        self._shared.leave()

    def _fail(self, what: str, cause: BaseException | None = None) -> NoReturn:
        raise EnvError(
            f"{self._contract.id}: environment {self._index}, step {self._steps}: {what}"
        ) from cause

    def _row(self, observation: Any) -> tuple[Floats, dict[str, Any]]:
        try:
            row, outside = self._layout.row(observation)
        except ValueError as error:
            self._fail(f"{error}{self._layout.way_out(observation)}")
        if outside is not None and self._contract.check_bounds == "strict":
            self._fail(f"{outside}; env.check_bounds=tell would use the nearest")
        return row, {} if outside is None else {"outside": outside}

    def _look_beyond(self, observation: Any, said: dict[str, Any]) -> None:
        """Tell, once, of parts of an observation that its space does not have."""
        if self._beyond_told or not (names := ", ".join(self._layout.beyond(observation))):
            return
        if self._contract.check_bounds == "strict":
            self._fail(f"{names} is not in the observation space; env.check_bounds=tell would leave it out")
        self._beyond_told = True
        said["remarks"] = "\n".join(
            [*said.get("remarks", "").splitlines(), f"{names} is not in the observation space and not used"]
        )

    def _read_reward(self, reward: Any, info: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        try:
            numbers = self._contract.rewards.read(reward, info)
        except ValueError as error:
            self._fail(str(error))
        return (float(numbers[0]), {}) if self._plain_reward else (0.0, {"components": numbers})

    def _to_bool(self, field: str, flag: Any) -> bool:
        """Published environments return 0 and 1, too, of which Gymnasium only warns."""
        flags = as_array(flag)
        if flags.size != 1 or flags.dtype.kind not in "biu" or flags.item() not in (0, 1):
            self._fail(f"{field} is {flag!r} of type {type(flag).__name__}, expected a bool, or 0 or 1")
        return bool(flags.item())

    def _success(self, info: dict[str, Any]) -> dict[str, Any]:
        for key in ("is_success", "success"):
            if key in info:
                value = info[key]
                plain = isinstance(value, int | float | np.generic | np.ndarray)
                number = np.asarray(value if plain else None)
                if number.size != 1 or number.dtype.kind not in "fiub":
                    self._fail(
                        f"info[{key!r}] is {value!r}; allowed is one bool or number, or an array of one;"
                        " leave the key out where there is nothing to report"
                    )
                return {"success": float(number.item())}
        return {}

    def _mask(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        try:
            mask = self._masks.read(observation, info)
        except (Exception, SystemExit) as error:
            said = str(error) if isinstance(error, MaskError) else f"raised {type(error).__name__}: {error}"
            self._fail(f"{self._masks.source or INFO} {said}", error)
        if mask is None:
            return {}
        tables = {"mask_tables": mask.tables} if mask.tables else {}
        return {"action_mask": mask.own, **tables}
