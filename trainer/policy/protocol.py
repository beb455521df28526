"""What the trainer asks of a policy, and a policy of its encoders.

`policy._target_` names a subclass of `Policy`, and `policy.encoder._target_` an `Encoder`. What their
constructors take besides the arguments that are supplied are keys of the configuration, checked against the
annotations. Neither knows anything of configuration, stages or the update.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from equipoise.envs.dependent_masks import ActionMask, DependentMask
from equipoise.envs.observation_parts import ObservationPart
from equipoise.envs.protocol import NativeAction
from equipoise.trainer.data import Actions, Sequences
from equipoise.trainer.policy.choosing import Choose
from equipoise.trainer.policy.continuous import FAMILIES, FamilyName
from equipoise.trainer.policy.distributions import HybridDistribution
from equipoise.trainer.policy.head_after_head import HeadAfterHead
from equipoise.trainer.policy.normalization import ObservationNormalizer, PartsNormalizer, ValueNormalizer
from equipoise.trainer.policy.storage import Storage
from equipoise.trainer.spaces import HybridSpace


class Encoder(nn.Module):
    """A network from observations to features: `[B, O]` -> `[B, W]`.

    Any `torch.nn.Module` with these attributes is one; this class need not be its base. Its constructor takes
    `observation_shape`, the shape of one observation, perhaps `observation_parts`, what lies in which of its
    columns, and any keywords, which are keys of the configuration. Its input are observations flattened to
    `O` numbers. A keyword that is a section with a `_target_` arrives as a `MakeEncoder`: so an encoder is
    made of others, one for each part of an observation, say.
    """

    width: int
    """`W`."""
    nodes: int | None = None
    """`M`, of an encoder that gives features of each node of a set, `[B, M, W]`: node `i` owns head `i` and
    an equal share of the continuous parameters, in order. May be missing."""
    raw_observations: bool = False
    """Whether observations must come as they are, whatever `policy.normalize_observations` says. May be
    missing."""
    packed: bool = False
    """Whether it knows the parts of an observation, and takes them as `Storage` packs them, too: the bytes
    that a rollout of pictures keeps. May be missing."""
    raw_parts: Sequence[str] = ()
    """Of one that knows the parts: those that must come as they are, by name. May be missing."""


MakeEncoder = Callable[..., nn.Module]
"""An encoder's class with its keywords bound; to be called with `observation_shape=` and, if it takes that,
`observation_parts=`."""


def make_encoder(
    make: MakeEncoder, observation_shape: Sequence[int], key: str, parts: Sequence[ObservationPart] = ()
) -> Encoder:
    """An encoder, tried on two observations of zeros.

    Raises:
        ValueError: for one that breaks the contract of `Encoder`; the message names `key`, its section.
    """
    size = math.prod(observation_shape)
    name = getattr(getattr(make, "func", make), "__name__", str(make))
    try:
        supplied: dict[str, Any] = {"observation_shape": tuple(observation_shape)}
        encoder = make(**taken(make, {**supplied, "observation_parts": tuple(parts)}))
    except Exception as error:  # user code: may raise anything
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{key} = {name}: {reason}") from error
    width, nodes = getattr(encoder, "width", None), getattr(encoder, "nodes", None)
    if not isinstance(encoder, nn.Module) or not isinstance(width, int) or width < 1:
        raise ValueError(f"{key} = {name}: must be a torch.nn.Module whose `width` is its number of features")
    training = encoder.training
    try:
        with torch.no_grad():
            features = encoder.eval()(torch.zeros(2, size))
    except Exception as error:  # the same
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{key} = {name}: fails on observations of shape (2, {size}): {reason}") from error
    encoder.train(training)
    wanted = (2, width) if nodes is None else (2, nodes, width)
    given: object = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if given != wanted:
        raise ValueError(
            f"{key} = {name}: gives {given} for observations of shape (2, {size}); must be {wanted}: "
            f"{'[batch, width]' if nodes is None else '[batch, nodes, width]'}"
        )
    return cast(Encoder, encoder)


def taken(make: Callable[..., Any], supplied: Mapping[str, Any]) -> dict[str, Any]:
    """What of `supplied` a constructor takes by name."""
    parameters = inspect.signature(make).parameters
    return {name: value for name, value in supplied.items() if name in parameters}


class Heads(NamedTuple):
    """The outputs of a policy's network. Losses see nothing behind it."""

    logits: Tensor
    """`[B, H, C]`, or `[B, S]`: see `HybridSpace.valid_choices`."""
    mean: Tensor
    """`[B, P]`: where each parameter lies, as `policy.distribution` understands it."""
    log_std: Tensor
    """`[P]`, or `[B, P]` where it depends on the state: how wide it is spread."""
    values: Tensor
    """`[B, V]` in normalised units."""


class Policy(nn.Module, ABC):
    """A policy for one `HybridSpace` and a critic with `V` values: the base class of `policy._target_`.

    A subclass calls this constructor, sets `value_head`, and implements `actor` and `critic`. The constructor
    of the subclass takes `space`, `observation_shape` and `num_values`, which are supplied; what else it
    takes are keys of the section `policy`. `trainer.policy.actor_critic` is an example. One with a memory
    sets `state_size` and implements `remember` and `replay`, too.

    Args:
        space: of the actions.
        observation_shape: of one observation; networks see it flattened to `O` numbers.
        num_values: `V`, one for each reward component, and perhaps one more for the task.
        normalize_observations: to mean 0 and standard deviation 1, by running statistics.
        distribution: of the continuous parameters.
        observation_parts: what lies in which columns of an observation.

    Raises:
        ValueError: for a distribution of parameters where there are none.
    """

    value_head: nn.Linear
    """The last layer of `critic`, with `V` outputs: it is rescaled when the targets' statistics move."""
    conditional: bool = False
    """Whether outputs of `actor` depend on the choices that are taken, which it then gets as `choices`."""
    state_size: int = 0
    """`M`: numbers that the policy keeps of an episode; 0: it has no memory."""

    def __init__(
        self,
        space: HybridSpace,
        observation_shape: Sequence[int],
        num_values: int,
        normalize_observations: bool = True,
        distribution: FamilyName = "gaussian",
        observation_parts: Sequence[ObservationPart] = (),
    ) -> None:
        super().__init__()
        if distribution not in FAMILIES:
            allowed = ", ".join(FAMILIES)
            raise ValueError(f"policy.distribution = {distribution}: must be one of {allowed}")
        if distribution != "gaussian" and not space.num_continuous:
            raise ValueError(
                f"policy.distribution = {distribution}: the action space has no continuous parameters that "
                "could be drawn from it; leave it out"
            )
        self.family = FAMILIES[distribution]()
        """Of the continuous parameters."""
        self.space = space
        self.observation_width = math.prod(observation_shape)
        self.observation_parts = tuple(observation_parts)
        self.storage: Storage | None = None
        """How a rollout keeps observations; None: as they are."""
        self.normalizer = ObservationNormalizer(self.observation_width) if normalize_observations else None
        self.value_normalizer = ValueNormalizer(num_values)
        self._reached: dict[str, list[str]] = {}

    @property
    def order(self) -> Sequence[int]:
        """The heads in the order in which they decide, where that matters."""
        return range(self.space.num_heads)

    @abstractmethod
    def actor(
        self, inputs: Tensor, log_std: Tensor | None = None, choices: Tensor | Choose | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`(logits [B, H, C], mean [B, P], log_std [P] or [B, P])` for normalised observations `[B, O]`.

        `space.laid_out` gives logits their shape: where heads of few choices stand beside one of very many,
        `[B, S]` saves what `[B, H, C]` would waste.

        Args:
            log_std: what `global_log_std` gave, so that it need not be computed at every step of a rollout.
            choices: only where the policy is `conditional`, and always there: `[B, H]` that were taken, or a
                function that takes them, to be called once for each head. All outputs are those given them.
        """

    @abstractmethod
    def critic(self, inputs: Tensor) -> Tensor:
        """Values `[B, V]` in normalised units for normalised observations `[B, O]`."""

    def global_log_std(self) -> Tensor | None:
        """The `[P]` log-std of all states; None where it depends on the state."""
        return None

    def forward(self, inputs: Tensor, choices: Tensor | None = None) -> Heads:
        """All outputs for what `remember` or `replay` gave, which are the observations without a memory, and
        given the choices `[B, H]` that were taken."""
        return Heads(*self.outputs(inputs, choices), self.critic(inputs))

    def outputs(
        self, inputs: Tensor, choices: Tensor | Choose | None, log_std: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `actor` puts out; `choices` are for those whose outputs depend on them."""
        if self.conditional:
            return self.actor(inputs, log_std, choices)
        return self.actor(inputs, log_std)

    def initial_state(self, count: int) -> Tensor:
        """`[count, M]`: what is known of episodes that begin."""
        return self.value_head.weight.new_zeros(count, self.state_size)

    def remember(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: what `actor` and `critic` take in the place of the normalised observations `[B, O]`, and
        the state `[B, M]` after it."""
        return inputs, state

    def replay(self, inputs: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """`remember` for the observations `[T·n, O]` of whole sequences, and the states `[T, n, M]` after
        each step."""
        return inputs, sequences.state.expand(*sequences.begins.shape, -1)

    def recall(self, inputs: Tensor, sequences: Sequences | None) -> Tensor:
        """What `actor` and `critic` take, for the normalised observations `[B, O]` of samples."""
        return inputs if sequences is None else self.replay(inputs, sequences)[0]

    def take_packed(self, raw_parts: Collection[str] = ()) -> None:
        """Let rollouts keep observations packed, where that saves anything: all networks must take them so.

        What is kept as bytes is not normalised, and neither are `raw_parts`.
        """
        storage = Storage(self.observation_parts)
        if any(part.whole for part in self.observation_parts):
            self.storage = storage
        if self.normalizer is not None:
            self.normalizer = PartsNormalizer(storage, raw_parts) if storage.count else None

    def pack(self, observations: Tensor) -> Tensor:
        """Observations `[..., O]` as a rollout keeps them."""
        return observations if self.storage is None else self.storage.pack(observations)

    def normalize(self, observations: Tensor) -> Tensor:
        """Observations, packed or not, as the network wants them, same shape."""
        return observations if self.normalizer is None else self.normalizer(observations)

    def update_normalizer(self, observations: Tensor) -> None:
        """Take the observations of a rollout into the statistics of `normalize`."""
        if self.normalizer is not None:
            self.normalizer.update(observations)

    def distribution(
        self, inputs: Tensor, action_mask: Tensor | None, choices: Tensor | None = None
    ) -> HybridDistribution:
        """The distribution of actions for normalised observations `[B, O]`, of each number given those of the
        `choices` `[B, H]` that it depends on. They may be missing where a policy is not `conditional`."""
        return self.as_distribution(*self.outputs(inputs, choices), action_mask=action_mask)

    def acting(
        self, inputs: Tensor, action_mask: ActionMask | None, log_std: Tensor | None = None
    ) -> HybridDistribution | HeadAfterHead:
        """What actions for normalised observations `[B, O]` are drawn from: `mode`, `draw`, `sample`.

        `given` of the choices drawn is the distribution that they came from. `log_std`: see `actor`.
        """
        if self.conditional or isinstance(action_mask, DependentMask):
            return HeadAfterHead(self, inputs, action_mask, log_std)
        return self.as_distribution(*self.actor(inputs, log_std), action_mask=action_mask)

    def as_distribution(
        self, logits: Tensor, mean: Tensor, log_std: Tensor, action_mask: Tensor | None
    ) -> HybridDistribution:
        """The distribution that the outputs of `actor` describe; without a mask all choices are valid."""
        logits = self.space.laid_out(logits)
        mask = self.space.valid_choices.expand_as(logits) if action_mask is None else action_mask
        return HybridDistribution(self.space, logits, mean, log_std, mask, self.family)

    def to_native(self, actions: Actions) -> NativeAction:
        """Samples `[N, H]`, `[N, P]` of `distribution` in the units and the structure of the environment."""
        return self.space.to_native(Actions(actions.discrete, self.family.in_range(actions.continuous)))

    @torch.inference_mode()
    def act(self, observation: Tensor, action_mask: ActionMask | None) -> Actions:
        """The deterministic action for raw observations `[B, O]`, with which episodes begin."""
        inputs, _ = self.remember(self.normalize(observation), self.initial_state(len(observation)))
        return self.acting(inputs, action_mask).mode()

    def spread_parameters(self) -> list[nn.Parameter]:
        """The parameters that σ alone follows from: those in attributes called `log_std…`."""
        return [p for name, p in self.named_parameters() if name.startswith("log_std") and p.requires_grad]

    @torch.enable_grad()
    def side_parameters(self, side: Literal["discrete", "continuous"]) -> list[nn.Parameter]:
        """The parameters that the loss of one side reaches, as autograd finds them."""
        parameters = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if side not in self._reached:
            zeros = next(self.parameters()).new_zeros(2, self.observation_width)
            inputs, _ = self.remember(zeros, self.initial_state(2))
            logits, mean, log_std = self.outputs(inputs, self.space.first_choices(2))
            outputs = [logits] if side == "discrete" else [mean, log_std]
            total = torch.stack([output.sum() for output in outputs]).sum()
            parts: Sequence[Any] = [None] * len(parameters)
            if total.requires_grad:
                parts = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
            names = zip(parameters, parts, strict=True)
            self._reached[side] = [name for name, part in names if part is not None]
        return [parameters[name] for name in self._reached[side]]


def check_policy(policy: object, target: str, num_values: int) -> Policy:
    """`policy`, tried on two observations of zeros.

    Raises:
        ValueError: for one that breaks the contract of `Policy`; the message names `target`.
    """
    key = f"policy._target_ = {target}"
    if not isinstance(policy, Policy):
        raise ValueError(f"{key}: must be a subclass of {Policy.__module__}.Policy")
    head = getattr(policy, "value_head", None)
    if not isinstance(head, nn.Linear) or head.out_features != num_values:
        raise ValueError(f"{key}: value_head must be a torch.nn.Linear with {num_values} outputs")
    space, training = policy.space, policy.training
    try:
        with torch.no_grad():
            zeros, state = torch.zeros(2, policy.observation_width), policy.initial_state(2)
            heads = policy.eval()(policy.remember(zeros, state)[0], space.first_choices(2))
    except Exception as error:  # user code: may raise anything
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{key}: fails on two observations of zeros: {what}") from error
    policy.train(training)
    spread = (space.num_continuous,)
    shapes: dict[str, list[tuple[int, ...]]] = {
        "logits": sorted({(2, *space.valid_choices.shape), (2, space.num_heads, space.max_choices)}),
        "mean": [(2, *spread)],
        "log_std": [spread, (2, *spread)],
        "values": [(2, num_values)],
    }
    for name, allowed in shapes.items():
        given = tuple(getattr(heads, name).shape)
        if given not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise ValueError(f"{key}: {name} of two observations has shape {given}; must be {wanted}")
    return policy
