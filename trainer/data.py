"""The data's shape. One legend for the whole project:

`T` rollout steps · `N` parallel environments · `B` minibatch samples · `K` reward components ·
`V` value heads (`K`, or `K + 1` with one for the task reward) · `H` categorical heads · `C` the largest
number of choices of a head · `S` choices of all heads together · `P` continuous entries · `D` continuous
decisions (`H`, or `H + 1` with one for the parameters that belong to no head) · `O` observation width ·
`M` numbers that a memory keeps of an episode.

Tensors are float32 on the run's device, masks are bool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Reduction = Literal["mean", "last", "sum", "max", "geometric_mean"]


class Metric(NamedTuple):
    """A metric to log: a device scalar, and how the scalars of one iteration become one number."""

    value: Tensor
    reduction: Reduction = "mean"


Metrics = Mapping[str, Metric]
"""Full TensorBoard tag (`entropy/coefficient`) -> metric. NaN means: nothing to report."""


def critic_heads(reward_names: Sequence[str], num_values: int) -> tuple[str, ...]:
    """Names of the critic's `V` heads: the reward components, and `task` for one of the task reward."""
    task = "task" if "task" not in reward_names else "task_reward"
    return (*reward_names, task)[:num_values]


class Actions(NamedTuple):
    """Hybrid actions in the policy's own terms; the leading shape `...` is `[N]`, `[B]` or `[T, N]`."""

    discrete: Tensor
    """`[..., H]` int64: the choice of each head."""
    continuous: Tensor
    """`[..., P]`: samples as they were drawn. Of a Gaussian they lie in the normalised space, where [-1, 1]
    is the native range; of other families see `trainer.policy.continuous`."""


class Pathwise(NamedTuple):
    """What the derivative through the simulator says of the parameters; the leading shape is `[T, N]` or
    `[B]`."""

    gradient: Tensor
    """`[..., P]`: d(return) / d(sample), in units of the task; in a minibatch in those of its advantages."""
    noise: Tensor
    """`[..., P]`: the sample is mean + std · noise."""
    std: Tensor
    """`[..., P]` when the action was taken."""
    share: Tensor
    """`[..., 1]`: of this estimate in the continuous side's gradient, the rest is the score function's."""


class Sequences(NamedTuple):
    """How a memory goes through samples that are `n` sequences of `T` steps, `B = T·n`, step by step."""

    state: Tensor
    """`[n, M]`: what it knows before the first step."""
    begins: Tensor
    """`[T, n]` bool: an episode begins with the step, and nothing is known any more."""

    def of(self, chosen: Tensor) -> Sequences:
        """The sequences `chosen` `[n']`."""
        return Sequences(self.state.index_select(0, chosen), self.begins.index_select(1, chosen))


@dataclass
class Rollout:
    """What one iteration collects, allocated once and written in place."""

    observations: Tensor
    """`[T, N, O]` as the environment gave them, or `[T, N, bytes]` uint8 where the policy packs pictures."""
    actions: Actions
    """`[T, N, H]` and `[T, N, P]`."""
    action_mask: Tensor
    """`[T, N, H, C]` or `[T, N, S]` bool, see `HybridSpace.valid_choices`: valid choices."""
    discrete_log_prob: Tensor
    """`[T, N, H]`: log-probability of each choice taken, 0 where a head had no decision to make."""
    continuous_log_prob: Tensor
    """`[T, N, D]`: joint log-probability of the relevant parameters of each decision, 0 where none was."""
    rewards: Tensor
    """`[T, N, K]` raw, in the environment's units; never changed by a stage."""
    terminated: Tensor
    """`[T, N]` bool."""
    truncated: Tensor
    """`[T, N]` bool; `terminated` wins where both are set."""
    final_observations: Tensor
    """Likewise, valid where an episode ended."""
    last_observation: Tensor
    """Likewise, `[N, …]` after the last step."""
    reward_weights: Tensor
    """`[K]`: the environment's, `task_reward = Σ weights · rewards`."""
    reward_names: tuple[str, ...] = ()
    """`K` names: the environment's, for messages and metrics."""
    idle: Tensor | None = None
    """`[T, N]` bool: the environment did not use the action, so this step teaches nothing. None: it used
    all."""
    pathwise: Pathwise | None = None
    """None: the environment was not differentiated."""
    sequences: Sequences | None = None
    """Of the policy's memory, with `n = N`; None: it has none."""
    last_state: Tensor | None = None
    """`[N, M]`: what it knows when it sees `last_observation`."""

    @property
    def done(self) -> Tensor:
        """`[T, N]` bool: an episode ended, in whatever way."""
        return self.terminated | self.truncated

    @property
    def task_reward(self) -> Tensor:
        """`[T, N]`: the weighted sum, never normalised, on which scores and `best.pt` are based."""
        return self.rewards @ self.reward_weights


class Targets(NamedTuple):
    """How good the actions of a rollout were, judged by the critic as it was when they were taken."""

    rollout: Rollout
    rewards: Tensor
    """`[T, N, V]`: what the critic is trained on, after the rewards stage."""
    values: Tensor
    """`[T, N, V]` in the units of `rewards` (not normalised)."""
    returns: Tensor
    """`[T, N, V]`: the value targets, in the units of `rewards`."""
    advantages: Tensor
    """`[T, N, K]`: of each reward component, without the factor of the rewards stage."""
    applied: Tensor | None = None
    """`[K]`: what the raw rewards were multiplied with; None: no one number for each component."""
    task_advantages: Tensor | None = None
    """`[T, N]`: of the task reward; only where a stage asked for it."""


class Minibatch(NamedTuple):
    """Samples of a rollout, in random order."""

    inputs: Tensor
    """`[B, O]` observations, normalised as the policy wants them; packed ones stay bytes."""
    actions: Actions
    action_mask: Tensor
    """`[B, H, C]` or `[B, S]` bool."""
    discrete_log_prob: Tensor
    """`[B, H]` when the action was taken."""
    continuous_log_prob: Tensor
    """`[B, D]` when the action was taken."""
    advantages: Tensor
    """`[B]` standardised, one number for both action types."""
    values: Tensor
    """`[B, V]` when the action was taken, in normalised units: the v_old of value clipping."""
    returns: Tensor
    """`[B, V]` the value targets, in normalised units."""
    pathwise: Pathwise | None = None
    sequences: Sequences | None = None
    """Of the policy's memory; None: it has none."""


class Term(NamedTuple):
    """A loss term before its reduction: the mean of `values` over `mask`."""

    values: Tensor
    """Any shape, or an already reduced scalar."""
    mask: Tensor | None = None
    """Broadcastable to `values`; None: every entry counts."""
