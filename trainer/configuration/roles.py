"""What a section of the configuration may name, and what the trainer supplies to the class it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from equipoise.trainer.contracts import (
    HOOKS,
    SuppliedToEncoder,
    SuppliedToEnv,
    SuppliedToMemory,
    SuppliedToPolicy,
    SuppliedToStage,
)


class Role(NamedTuple):
    """What a section stands for, and so which classes it may name."""

    methods: tuple[str, ...]
    """The class must have one of them."""
    supplied: frozenset[str]
    """Constructor parameters that `trainer.build` fills in; they are no configuration keys."""
    own_keys: tuple[str, ...] = ()
    """Keys beside the constructor's."""
    instead: Mapping[str, str] = {}
    """What to write instead of a key that people expect here."""
    encoders: bool = False
    """Sections with a `_target_` inside it are encoders."""
    memories: tuple[str, ...] = ()
    """Names of those that are memories."""


_GYMNASIUM = "Gymnasium's environments need env=gymnasium, too"
ENV = Role(
    ("step",),
    frozenset(SuppliedToEnv._fields),
    own_keys=("name", "num_envs"),
    instead={"id": _GYMNASIUM, "make": _GYMNASIUM},
)
STAGE = Role(HOOKS, frozenset(SuppliedToStage._fields))
POLICY = Role(
    ("actor",),
    frozenset(SuppliedToPolicy._fields),
    instead={"kind": "choose policy=mlp, policy=node_set or your own policy.encoder._target_"},
    encoders=True,
    memories=("memory",),
)
CALLBACK = Role(("on_start", "on_iteration", "on_evaluation", "on_end"), frozenset())
LOGGER = Role(("scalars",), frozenset())
ENCODER = Role(("forward",), frozenset(SuppliedToEncoder._fields), encoders=True)
MEMORY = Role(("forward",), frozenset(SuppliedToMemory._fields))
OPTIMIZER = Role(
    ("step",),
    # How it computes is the trainer's choice, and it minimizes.
    frozenset({"params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize"}),
    own_keys=(
        "learning_rate",
        "anneal",
        "desired_kl",
        "learning_rate_min",
        "learning_rate_max",
        "log_std_multiplier",
    ),
    instead={
        "kind": "choose optimizer=adam, optimizer=sgd or any optimizer._target_",
        "lr": "write optimizer.learning_rate",
    },
)
