"""Goal: the environment, its physics and a scripted expert."""

from equipoise.envs.goal.environment import Goal

__all__ = ["Goal"]
