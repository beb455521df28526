"""Networks from observations to features.

Each keeps the contract of `Encoder` (in `protocol.py`), as one of your own does: `policy.encoder._target_`.
"""

from equipoise.trainer.policy.encoders.automatic import Automatic
from equipoise.trainer.policy.encoders.convolution import Convolution
from equipoise.trainer.policy.encoders.mlp import MLP, linear
from equipoise.trainer.policy.encoders.node_set import NodeSet, NodeSetSummary, pool

__all__ = ["MLP", "Automatic", "Convolution", "NodeSet", "NodeSetSummary", "linear", "pool"]
