"""The actor-critic: encoders, a discrete head, a continuous head, and a value for each component."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.envs.observation_parts import ObservationPart
from equipoise.trainer.data import Sequences
from equipoise.trainer.policy.choosing import Choose, in_turn, order_of, told
from equipoise.trainer.policy.conditioning import (
    Conditioning,
    HeadsInTurn,
    ParametersGivenChoices,
    check_conditioning,
)
from equipoise.trainer.policy.continuous import FamilyName
from equipoise.trainer.policy.encoders import MLP, linear
from equipoise.trainer.policy.encoders.living import Features, through
from equipoise.trainer.policy.log_std import LogStd, LogStdRange
from equipoise.trainer.policy.memory import MakeMemory, Memories
from equipoise.trainer.policy.nodes import NodeLayout
from equipoise.trainer.policy.protocol import Encoder, MakeEncoder, Policy, make_encoder
from equipoise.trainer.spaces import HybridSpace


class ActorCritic(Policy):
    """One encoder for both action types or one for each, one for the critic, and linear heads.

    Args:
        space: of the actions.
        observation_shape: of one observation.
        num_values: `V`.
        observation_parts: what lies in which columns of an observation.
        encoder: the network from observations to features.
        critic_encoder: the critic's own; null: another one like `encoder`
        memory: what is kept of an episode, behind each encoder; null: nothing
        shared_trunk: both action types read the same features; else each has an encoder of its own
        shared_critic: the critic reads the features of the discrete head
        state_dependent_std: σ is an output of the network, not one number for each parameter
        distribution: of the continuous parameters; beta and squashed never leave the bounds
        log_std_init: initial log of σ, in the space where [-1, 1] is the whole range; before tanh where it is
            squashed; of beta 1/σ² is the concentration
        log_std_min: lower bound of log σ
        log_std_max: upper bound of log σ
        normalize_observations: running mean and std, unless the encoder wants them raw
        conditioning: what sees the choices just taken: nothing, the parameters, or these and later heads
        order: of the heads, by name or number; null: as the action space has them

    Raises:
        ValueError: for what cannot work together; the message names the key.
    """

    def __init__(
        self,
        space: HybridSpace,
        observation_shape: Sequence[int],
        num_values: int,
        observation_parts: Sequence[ObservationPart] = (),
        *,
        encoder: MakeEncoder = MLP,
        critic_encoder: MakeEncoder | None = None,
        memory: MakeMemory | None = None,
        shared_trunk: bool = True,
        shared_critic: bool = False,
        state_dependent_std: bool = False,
        distribution: FamilyName = "gaussian",
        log_std_init: LogStd = -0.5,
        log_std_min: LogStd = -5.0,
        log_std_max: LogStd = 2.0,
        normalize_observations: bool = True,
        conditioning: Conditioning = "none",
        order: Sequence[str | int] | None = None,
    ) -> None:
        spread = log_std_init, log_std_min, log_std_max
        for name, value, wanted in self.contradictions(critic_encoder, shared_critic, *spread):
            raise ValueError(f"policy.{name} = {value}: must be {wanted}")
        shaped = partial(make_encoder, observation_shape=observation_shape, parts=observation_parts)
        trunk = shaped(encoder, key="policy.encoder")
        raw = getattr(trunk, "raw_observations", False)
        normalize = normalize_observations and not raw
        super().__init__(space, observation_shape, num_values, normalize, distribution, observation_parts)
        self.memories = None if memory is None else Memories(memory)
        behind = self._remembered(trunk)
        self.log_std_range = LogStdRange(log_std_min, log_std_max)
        self.owned = owned = NodeLayout(trunk, space)
        nodes = owned.nodes
        self._order, self.conditional = order_of(order, space), conditioning != "none"
        if self.conditional:
            check_conditioning(conditioning, space, nodes)

        discrete, continuous = space.num_heads > 0, space.num_continuous > 0
        self.discrete_trunk = behind if discrete else None
        self.continuous_trunk = None if discrete else behind
        if discrete and continuous and not shared_trunk:
            self.continuous_trunk = self._remembered(shaped(encoder, key="policy.encoder"))
        width = behind.width
        choices = sum(space.choice_counts) if nodes == 1 else owned.heads_each * space.max_choices
        parameters = owned.parameters_each
        self.discrete_head = linear(width, choices, gain=0.01) if discrete else None
        self.continuous_head = linear(width, parameters, gain=0.01) if continuous else None
        start = self.log_std_range.unbounded(log_std_init)
        self.log_std = nn.Parameter(torch.full((parameters,), start)) if not state_dependent_std else None
        self.log_std_head = linear(width, parameters, gain=0.01) if state_dependent_std else None
        if self.log_std_head is not None:
            nn.init.constant_(self.log_std_head.bias, start)

        self.value_trunk: Encoder | None = None
        if not shared_critic:
            key = "policy.critic_encoder" if critic_encoder is not None else "policy.encoder"
            self.value_trunk = shaped(critic_encoder or encoder, key=key)
        critic = self.value_trunk if self.value_trunk is not None else trunk
        if getattr(critic, "nodes", None) is not None:
            name = type(critic).__name__
            raise ValueError(
                f"policy.critic_encoder: must give features of the whole observation; {name} gives those of "
                "each node (NodeSetSummary suits NodeSet, EntitiesSummary suits Entities)"
            )
        if self.value_trunk is not None:
            behind = self.value_trunk = self._remembered(self.value_trunk)
        self.value_head = linear(behind.width, num_values, gain=1.0)
        self.state_size = 0 if self.memories is None else self.memories.state_size
        if getattr(trunk, "packed", False) and getattr(critic, "packed", False):
            self.take_packed([name for one in (trunk, critic) for name in getattr(one, "raw_parts", ())])

        self.heads_in_turn: HeadsInTurn | None = None
        if conditioning == "autoregressive":
            self.heads_in_turn = HeadsInTurn(width, space, self._order)
        self.given_choices: ParametersGivenChoices | None = None
        if self.conditional and continuous:
            outputs = parameters * (1 if self.log_std_head is None else 2)
            self.given_choices = ParametersGivenChoices(width, space, nodes, outputs)

    def _remembered(self, encoder: Encoder) -> Encoder:
        """What gives the features of `encoder`, as the memory behind it has them if there is one."""
        return encoder if self.memories is None else self.memories.behind(encoder)

    def remember(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `Policy.remember`."""
        return (inputs, state) if self.memories is None else self.memories.step(inputs, state)

    def replay(self, inputs: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """See `Policy.replay`."""
        if self.memories is None:
            return super().replay(inputs, sequences)
        features, states = self.memories(inputs, sequences)
        return features, states

    @property
    def order(self) -> Sequence[int]:
        """See `Policy.order`."""
        return self._order

    @staticmethod
    def contradictions(
        critic_encoder: object = None,
        shared_critic: bool = False,
        log_std_init: float = -0.5,
        log_std_min: float = -5.0,
        log_std_max: float = 2.0,
        **others: Any,
    ) -> Iterator[tuple[str, Any, str]]:
        """Each keyword that is fine by itself and wrong beside the others, its value, what it must be."""
        if not log_std_min < log_std_init < log_std_max:
            between = f"between log_std_min ({log_std_min}) and log_std_max ({log_std_max})"
            yield "log_std_init", log_std_init, between
        if shared_critic and critic_encoder is not None:
            yield "shared_critic", True, "false: policy.critic_encoder gives the critic one of its own"

    def global_log_std(self) -> Tensor | None:
        """`[P]`; None where it depends on the state, or there are no parameters."""
        if self.log_std is None or self.continuous_head is None:
            return None
        of_nodes = self.log_std_range.bounded(self.log_std).repeat(1, self.owned.nodes)
        return self.owned.of_parameters(of_nodes).squeeze(0)

    def actor(
        self, inputs: Tensor, log_std: Tensor | None = None, choices: Tensor | Choose | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Policy.actor`."""
        size, space = inputs.shape[0], self.space
        zeros = self.value_head.weight.new_zeros  # not of the inputs, which may be bytes
        features = None if self.discrete_trunk is None else self._features(self.discrete_trunk, inputs)
        own = features if self.continuous_trunk is None else self._features(self.continuous_trunk, inputs)
        assert own is not None
        if self.discrete_head is None or features is None:
            logits = zeros(size, *space.valid_choices.shape)
        else:
            logits = space.laid_out(self.owned.of_heads(through(self.discrete_head, features)))
        if self.heads_in_turn is not None:
            choose = told(choices) if isinstance(choices, Tensor) else choices
            assert isinstance(features, Tensor)
            assert choose is not None
            logits, choices = self.heads_in_turn.take(features, logits, choose)
        elif callable(choices):
            choices = in_turn(space, self.order, logits, choices)
        if self.continuous_head is None:
            return logits, zeros(size, 0), zeros(0)
        mean = through(self.continuous_head, own)
        spread = None if self.log_std_head is None else through(self.log_std_head, own)
        if self.given_choices is not None:
            added = self.given_choices(own, choices)
            mean = mean + added[..., : mean.shape[-1]]
            spread = None if spread is None else spread + added[..., mean.shape[-1] :]
        if spread is not None:
            log_std = self.owned.of_parameters(self.log_std_range.bounded(spread))
        elif log_std is None:
            log_std = self.global_log_std()
        assert log_std is not None
        return logits, self.owned.of_parameters(mean), log_std

    def _features(self, trunk: Encoder, inputs: Tensor) -> Features:
        """Of nodes only the rows of those that exist, unless others than linear heads want to see them."""
        give = trunk if self.conditional else getattr(trunk, "rows", trunk)
        features: Features = give(inputs)
        return features

    def critic(self, inputs: Tensor) -> Tensor:
        """See `Policy.critic`."""
        trunk = next(
            t for t in (self.value_trunk, self.discrete_trunk, self.continuous_trunk) if t is not None
        )
        values: Tensor = self.value_head(trunk(inputs))
        return values
