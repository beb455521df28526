"""The hybrid actor-critic: trunks, one head for choices, one for parameters, one value for each component."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from equipoise.trainer.data import Actions
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.encoders import MLP, NodeSet, NodeSetSummary, linear
from equipoise.trainer.policy.normalization import ObservationNormalizer, ValueNormalizer
from equipoise.trainer.spaces import HybridSpace


class Heads(NamedTuple):
    """What the network puts out. Losses see nothing behind it."""

    logits: Tensor
    """`[B, H, C]`."""
    mean: Tensor
    """`[B, P]` in the normalised space."""
    log_std: Tensor
    """`[P]`, or `[B, P]` where it depends on the state."""
    values: Tensor
    """`[B, V]` in normalised units."""


class ActorCritic(nn.Module):
    """A policy for one `HybridSpace` and a critic with `num_values` heads.

    Args:
        space: of the actions.
        observation_shape: `(O,)`, or `(M, F)` for a set of nodes, of which node `i` owns head `i` and an
            equal share of the parameters, in order.
        num_values: `V`.
        kind: `mlp`, or `node_set` (permuting the nodes permutes what the policy puts out).
        shared_trunk: choices and parameters are read from the same features; else each has its own trunk.
        shared_critic: the critic reads the features of the choices' trunk too (`mlp` only).
        state_dependent_std: log-std is a network output instead of one parameter for each dimension.

    Raises:
        ValueError: for a combination that cannot work, naming the key.
    """

    def __init__(
        self,
        space: HybridSpace,
        observation_shape: Sequence[int],
        num_values: int,
        *,
        kind: Literal["mlp", "node_set"] = "mlp",
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        shared_trunk: bool = True,
        shared_critic: bool = False,
        state_dependent_std: bool = False,
        log_std_init: float = -0.5,
        log_std_min: float = -5.0,
        log_std_max: float = 2.0,
        normalize_observations: bool = True,
    ) -> None:
        super().__init__()
        self.space = space
        self.kind = kind
        self.log_std_bounds = (log_std_min, log_std_max)
        if not log_std_min < log_std_init < log_std_max:
            raise ValueError(
                f"policy.log_std_init = {log_std_init}: must lie between log_std_min = {log_std_min} "
                f"and log_std_max = {log_std_max}"
            )
        nodes = self._check_nodes(observation_shape, shared_critic) if kind == "node_set" else 1
        self.observation_width = width = math.prod(observation_shape)
        # Sets of nodes carry their own scale: statistics would treat slot 0 and slot 9 differently.
        normalized = normalize_observations and kind == "mlp"
        self.normalizer = ObservationNormalizer(width) if normalized else None

        def trunk() -> MLP | NodeSet:
            if kind == "node_set":
                return NodeSet(nodes, width // nodes, hidden_sizes, activation)
            return MLP(width, hidden_sizes, activation)

        both = shared_trunk and space.num_heads > 0 and space.num_continuous > 0
        self.discrete_trunk = trunk() if space.num_heads or both else None
        self.continuous_trunk = trunk() if space.num_continuous and not both else None
        features = hidden_sizes[-1]
        choices, parameters = space.num_heads * space.max_choices // nodes, space.num_continuous // nodes
        self.discrete_head = linear(features, choices, gain=0.01) if space.num_heads else None
        self.continuous_head = linear(features, parameters, gain=0.01) if space.num_continuous else None
        raw = self._unbounded(log_std_init)
        self.log_std = nn.Parameter(torch.full((parameters,), raw)) if not state_dependent_std else None
        self.log_std_head = linear(features, parameters, gain=0.01) if state_dependent_std else None
        if self.log_std_head is not None:
            nn.init.constant_(self.log_std_head.bias, raw)
        self.value_trunk: MLP | NodeSetSummary | None = None
        if shared_critic:
            pass  # the critic reads the trunk of the choices
        elif kind == "node_set":
            self.value_trunk = NodeSetSummary(nodes, width // nodes, hidden_sizes, activation)
        else:
            self.value_trunk = MLP(width, hidden_sizes, activation)
        self.value_head = linear(features, num_values, gain=1.0)
        self.value_normalizer = ValueNormalizer(num_values)

    def _check_nodes(self, shape: Sequence[int], shared_critic: bool) -> int:
        if len(shape) != 2 or shape[0] != self.space.num_heads:
            raise ValueError(
                f"policy.kind = node_set: needs observations [nodes, features] with one head for each node; "
                f"got observations {tuple(shape)} and {self.space.num_heads} heads (use policy=mlp)"
            )
        nodes = shape[0]
        share, rest = divmod(self.space.num_continuous, nodes)
        if rest or self.space.head_of.tolist() != [p // share for p in range(nodes * share)]:
            raise ValueError(
                "policy.kind = node_set: parameters must belong to the heads in order, equally many to each"
            )
        if shared_critic:
            raise ValueError("policy.shared_critic = true: only with policy.kind = mlp")
        return nodes

    def _unbounded(self, log_std: float) -> float:
        low, high = self.log_std_bounds
        middle, half = (low + high) / 2, (high - low) / 2
        return middle + half * math.atanh((log_std - middle) / half)

    def _bounded(self, raw: Tensor) -> Tensor:
        """Log-std within its bounds, with slope 1 in the middle and a gradient everywhere."""
        low, high = self.log_std_bounds
        middle, half = (low + high) / 2, (high - low) / 2
        return middle + half * ((raw - middle) / half).tanh()

    def normalize(self, observations: Tensor) -> Tensor:
        """Observations as the network wants them, same shape."""
        return observations if self.normalizer is None else self.normalizer(observations)

    def forward(self, inputs: Tensor) -> Heads:
        """Everything for normalised observations `[B, O]`."""
        logits, mean, log_std = self.actor(inputs)
        return Heads(logits, mean, log_std, self.critic(inputs))

    def global_log_std(self) -> Tensor | None:
        """`[P]`; None where it depends on the state, or there are no parameters."""
        if self.log_std is None or self.continuous_head is None:
            return None
        return self._bounded(self.log_std).repeat(self.space.num_continuous // len(self.log_std))

    def actor(self, inputs: Tensor, log_std: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """`(logits [B, H, C], mean [B, P], log_std [P] or [B, P])`.

        `log_std`: what `global_log_std` gave, for who acts many times with the same parameters.
        """
        size, space = inputs.shape[0], self.space
        features = self.discrete_trunk(inputs) if self.discrete_trunk is not None else None
        own = self.continuous_trunk(inputs) if self.continuous_trunk is not None else features
        if self.discrete_head is None:
            logits = inputs.new_zeros(size, space.num_heads, space.max_choices)
        else:
            logits = self.discrete_head(features).view(size, space.num_heads, space.max_choices)
        if self.continuous_head is None:
            return logits, inputs.new_zeros(size, 0), inputs.new_zeros(0)
        mean = self.continuous_head(own).view(size, space.num_continuous)
        if self.log_std_head is not None:
            log_std = self._bounded(self.log_std_head(own)).view(size, space.num_continuous)
        elif log_std is None:
            log_std = self.global_log_std()
        assert log_std is not None
        return logits, mean, log_std

    def critic(self, inputs: Tensor) -> Tensor:
        """`[B, V]` in normalised units."""
        trunk = (
            self.value_trunk if self.value_trunk is not None else self.discrete_trunk or self.continuous_trunk
        )
        assert trunk is not None
        values: Tensor = self.value_head(trunk(inputs))
        return values

    def distribution(self, inputs: Tensor, action_mask: Tensor | None) -> HybridDistribution:
        """Of the actions under normalised observations `[B, O]`."""
        return self.as_distribution(*self.actor(inputs), action_mask=action_mask)

    def as_distribution(
        self, logits: Tensor, mean: Tensor, log_std: Tensor, action_mask: Tensor | None
    ) -> HybridDistribution:
        mask = self.space.valid_choices.expand_as(logits) if action_mask is None else action_mask
        return HybridDistribution(self.space, logits, mean, log_std, mask)

    @torch.inference_mode()
    def act(self, observation: Tensor, action_mask: Tensor | None) -> Actions:
        """The deterministic action for raw observations `[B, O]`."""
        return self.distribution(self.normalize(observation), action_mask).mode()

    def side_parameters(self, side: Literal["discrete", "continuous"]) -> list[nn.Parameter]:
        """The parameters that the loss of one side reaches."""
        shared = self.continuous_trunk is None
        own: Iterable[nn.Module | None]
        if side == "discrete":
            own = (self.discrete_trunk, self.discrete_head)
        else:
            own = (
                self.discrete_trunk if shared else self.continuous_trunk,
                self.continuous_head,
                self.log_std_head,
            )
        found = [p for module in own if module is not None for p in module.parameters()]
        if side == "continuous" and self.log_std is not None:
            found.append(self.log_std)
        return found
