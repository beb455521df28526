"""What the benchmark environments share: a batch of episodes, each restarting in the step that ends it.

An environment states its rules as three functions of a whole batch (`start`, `advance`, `observe`) over a
state that is a named tuple of tensors `[N, ...]`; nothing is changed in place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import gymnasium
import numpy as np
import torch
from torch import Tensor

from equipoise.envs.protocol import NativeAction, Relevance, Timestep
from equipoise.envs.random_numbers import StreamPerEnv

State = TypeVar("State", bound=tuple[Tensor, ...])


class Outcome(NamedTuple, Generic[State]):
    """Where a step leads, before any restart."""

    state: State
    rewards: Sequence[Tensor]
    """`K` tensors `[N]`."""
    terminated: Tensor
    truncated: Tensor
    success: Tensor
    """`[N]` bool, or float for a share; looked at only where the episode ended."""


def where(mask: Tensor, chosen: State, other: State) -> State:
    """Field by field, `chosen` in the environments of `mask` `[N]` and `other` elsewhere."""
    fields = (
        torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(chosen, other, strict=True)
    )
    return cast(State, cast(Any, type(chosen))._make(fields))


def hybrid(action: NativeAction) -> tuple[Tensor, Tensor]:
    """The two leaves of a `Tuple(discrete, Box)` action."""
    if isinstance(action, tuple) and len(action) == 2:
        choice, parameters = action
        if isinstance(choice, Tensor) and isinstance(parameters, Tensor):
            return choice, parameters
    raise TypeError(f"action: a tuple of two tensors (choice, parameters) is expected, got {type(action)}")


class EpisodicEnv(ABC, Generic[State]):
    """The part of `envs.protocol.BatchedEnv` that does not depend on the rules."""

    observation_space: gymnasium.spaces.Box
    action_space: gymnasium.Space[Any]
    reward_names: tuple[str, ...]
    reward_weights: tuple[float, ...]
    relevance: Relevance | None = None
    first_env = 0

    def __init__(self, num_envs: int, device: str | torch.device = "cpu") -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs: {num_envs}; at least 1 is needed")
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.random = StreamPerEnv(num_envs, self.device)
        self._state: State | None = None

    @abstractmethod
    def start(self) -> State:
        """First states of `N` new episodes."""

    @abstractmethod
    def advance(self, state: State, action: NativeAction) -> Outcome[State]:
        """One step of all episodes."""

    @abstractmethod
    def observe(self, state: State) -> Tensor:
        """`[N, O]` float32."""

    @abstractmethod
    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]: ...

    @property
    def state(self) -> State:
        if self._state is None:
            raise RuntimeError(f"{type(self).__name__}: call reset() first")
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state

    def reset(self, seed: int | None = None) -> tuple[Tensor, Tensor | None]:
        if seed is not None:
            self.random.seed(seed, self.first_env)
        self.state = self.start()
        return self.observe(self.state), None

    def step(self, action: NativeAction) -> Timestep:
        outcome = self.advance(self.state, action)
        done = outcome.terminated | outcome.truncated
        self.state = where(done, self.start(), outcome.state)
        return Timestep(
            observation=self.observe(self.state),
            rewards=torch.stack([reward.float() for reward in outcome.rewards], dim=1),
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            final_observation=self.observe(outcome.state),
            metrics={"success": torch.where(done, outcome.success.float(), torch.nan)},
        )

    def detach(self) -> None:
        """See `envs.protocol.DifferentiableEnv`."""
        self.state = cast(Any, type(self.state))._make(part.detach() for part in self.state)

    def state_dict(self) -> dict[str, Any]:
        fields = cast(Any, self.state)._asdict()
        return {
            "state": {name: value.clone() for name, value in fields.items()},
            "random": self.random.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        template = cast(Any, self.start())
        loaded = state["state"]
        for name, value in template._asdict().items():
            if name not in loaded or loaded[name].shape != value.shape:
                raise ValueError(
                    f"{type(self).__name__}: state {name!r}: expected a tensor {list(value.shape)}, "
                    f"got {list(loaded[name].shape) if name in loaded else 'none'}"
                )
        self.state = type(template)(**{n: loaded[n].to(self.device).clone() for n in template._fields})
        self.random.load_state_dict(state["random"])

    def close(self) -> None:
        """Nothing is held open."""
