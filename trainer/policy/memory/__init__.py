"""What a policy keeps of an episode: `policy.memory._target_` names one of these, or one's own `Memory`."""

from equipoise.trainer.policy.memory.contract import MakeMemory, Memory
from equipoise.trainer.policy.memory.gru import GRU
from equipoise.trainer.policy.memory.lstm import LSTM
from equipoise.trainer.policy.memory.memories import Memories

__all__ = ["GRU", "LSTM", "MakeMemory", "Memories", "Memory"]
