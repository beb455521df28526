"""Networks from observations to features.

Each keeps the contract of `Encoder` (in `protocol.py`), as one of your own does: `policy.encoder._target_`.
"""

from equipoise.trainer.policy.encoders.automatic import Automatic
from equipoise.trainer.policy.encoders.convolution import Convolution
from equipoise.trainer.policy.encoders.embedding import Embedding
from equipoise.trainer.policy.encoders.entities import Entities, EntitiesSummary
from equipoise.trainer.policy.encoders.living import pool
from equipoise.trainer.policy.encoders.mlp import MLP, linear
from equipoise.trainer.policy.encoders.node_set import NodeSet, NodeSetSummary
from equipoise.trainer.policy.encoders.parts import Parts
from equipoise.trainer.policy.encoders.sets import SetAttention

__all__ = [
    "MLP",
    "Automatic",
    "Convolution",
    "Embedding",
    "Entities",
    "EntitiesSummary",
    "NodeSet",
    "NodeSetSummary",
    "Parts",
    "SetAttention",
    "linear",
    "pool",
]
