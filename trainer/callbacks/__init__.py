"""Called while a run goes on: they watch it, end it early, or change what it trains on.

A section of the list `callbacks` names each by its class, and `equipoise.train(callbacks=[…])` takes objects:

    callbacks:
      - _target_: equipoise.trainer.callbacks.StopAtScore
        score: 0.9
"""

from equipoise.trainer.callbacks.callback import Callback
from equipoise.trainer.callbacks.curriculum import Curriculum
from equipoise.trainer.callbacks.stopping import StopAfter, StopAtScore, StopWithoutImprovement
from equipoise.trainer.callbacks.videos import SaveVideos

__all__ = ["Callback", "Curriculum", "SaveVideos", "StopAfter", "StopAtScore", "StopWithoutImprovement"]
