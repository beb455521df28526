"""What an environment must offer: batched tensors in, batched tensors out.

Shapes: `N` environments, `O` width of a flattened observation, `K` reward components, `H` categorical
heads, `C` the largest number of choices of a head, `P` continuous parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import gymnasium
import numpy as np
import torch
from torch import Tensor

from equipoise.envs.dependent_masks import ActionMask

NativeAction: TypeAlias = "Tensor | tuple[NativeAction, ...] | dict[str, NativeAction]"
"""An action in the structure and the units of `action_space`, every leaf with a leading `N`.

A `Discrete` leaf is `[N]` int64, a `MultiDiscrete`, `MultiBinary` or integer `Box` leaf `[N, *shape]` int64,
a float `Box` leaf `[N, *shape]` float32. In the place of a `OneOf` is `(which option, (each of them))`.
"""

RelevanceTable: TypeAlias = Sequence[Sequence[Sequence[int]]]
"""`table[head][choice]` lists the parameters that matter when `head` takes `choice`.

Heads, choices and parameters are counted from 0 in the order of the action space (`envs.action_table`). A
parameter that no list names always matters; one that lists of two different heads name is an error.
"""

Relevance: TypeAlias = RelevanceTable | Literal["all"]
"""A table, or `all`: every parameter always matters, whatever the form of the action space. An empty table:
parameters belong to choices where the action space says so (`envs.action_table.ActionTable.options`)."""


class Timestep(NamedTuple):
    """What one step gives. Where an episode ended, `observation` is already the first of the next one."""

    observation: Tensor
    """`[N, O]` float32."""
    rewards: Tensor
    """`[N, K]` float32, in the environment's own units."""
    terminated: Tensor
    """`[N]` bool: the episode reached an end of its own. Wins where `truncated` is set too."""
    truncated: Tensor
    """`[N]` bool: the episode was cut off (time limit) and goes on as far as the value is concerned."""
    final_observation: Tensor
    """`[N, O]` float32: the last observation of the ended episode; valid only where one ended."""
    action_mask: ActionMask | None = None
    """`[N, H, C]` bool, or `[N, S]` where `ActionTable.padded` is false: True for a valid choice in
    `observation`; None where every choice is always valid. A head with one valid choice is not a decision: it
    gets no log-probability and no entropy. What is valid may depend on what other heads choose, see
    `envs.dependent_masks`."""
    metrics: Mapping[str, Tensor] = {}
    """Anything worth averaging, `[N, ...]` float32 with NaN where there is nothing to report. `success`,
    reported where an episode ended, is shown as the success rate."""


class BatchedEnv(Protocol):
    """`N` environments that step together on one device, each restarting in the step in which it ends."""

    @property
    def num_envs(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Of one environment. `O` is its flattened width. A set of nodes is a Box `[M, F]` whose feature 0
        is 1 for a node that exists and 0 for an empty slot (all other features are then 0 too)."""
        ...

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Of one environment; `envs.action_table` says what is accepted."""
        ...

    @property
    def reward_names(self) -> tuple[str, ...]:
        """`K` names."""
        ...

    @property
    def reward_weights(self) -> tuple[float, ...]:
        """`K` weights >= 0: the task reward is the weighted sum of the components."""
        ...

    @property
    def relevance(self) -> Relevance | None:
        """None: as an empty table."""
        ...

    def reset(self, seed: int | None = None) -> tuple[Tensor, ActionMask | None]:
        """Start all episodes anew and return `(observation, action_mask)`.

        With a seed everything that follows is reproducible, and environment `i` of a batch goes through
        the same whatever the size of the batch; without one the random streams go on.
        """
        ...

    def step(self, action: NativeAction) -> Timestep: ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` continues bit for bit."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def render(self, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A picture `[height, width, 3]` of environment `index` as it is now."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class SharedEnv(Protocol):
    """An environment that several processes can share out, each with a part of the whole batch."""

    first_env: int
    """Index of this batch's first environment in the whole; set before `reset`, 0 until then. Environment
    `i` of the whole goes through the same in whatever part it is."""


@runtime_checkable
class ScriptedEnv(Protocol):
    """An environment that comes with a scripted expert, the 1 of the normalised score."""

    def expert_action(self) -> NativeAction:
        """The expert's action in the present state of each environment."""
        ...


@runtime_checkable
class DifferentiableEnv(Protocol):
    """An environment in PyTorch whose rewards and observations, the final ones too, are differentiable in
    the floating-point leaves of the action, as far as they depend on them smoothly. `step` changes no tensor
    in place that it has handed out, or that a later step computes with."""

    def detach(self) -> None:
        """Forget how the present states came about: no gradient flows to earlier steps any more."""
        ...


@runtime_checkable
class TimeLimitedEnv(Protocol):
    """An environment that may know how long its episodes can be."""

    time_limit: int | None
    """Steps after which an episode is cut off at the latest; None: nobody knows."""


class Act(Protocol):
    """A policy as an environment's own diagnosis sees it."""

    def __call__(self, observation: Tensor, action_mask: ActionMask | None) -> NativeAction: ...


@runtime_checkable
class IdlingEnv(Protocol):
    """An environment that sometimes does not use the action it gets."""

    def take_idle(self) -> Tensor | None:
        """`[steps, N]` bool since this was last asked, or since `reset`: True where the action was not used,
        as the environment was beginning a new episode, or waited for others. None: all were used."""
        ...


@runtime_checkable
class DiagnosticEnv(Protocol):
    """An environment that can judge a policy by more than its return."""

    def diagnose(self, act: Act) -> dict[str, float]:
        """Figures of a deterministic policy on a fixed set of states; leaves the episodes untouched."""
        ...


@runtime_checkable
class RemarkingEnv(Protocol):
    """An environment that has something to tell the user."""

    def take_remarks(self) -> list[str]:
        """Lines for the terminal that have not been taken before."""
        ...


@runtime_checkable
class IllustratedEnv(Protocol):
    """An environment that can draw what a policy is about to do, and has names for it."""

    @property
    def choice_names(self) -> tuple[str, ...]:
        """Of the choices of each head, in order."""
        ...

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Of the parameters of each head, in order."""
        ...

    def render_action(self, action: NativeAction, index: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Like `render`, with row `index` of `action` drawn where it is going to act."""
        ...
