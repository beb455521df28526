"""Platform: the environment, its physics and a scripted expert."""

from equipoise.envs.platform.environment import Platform

__all__ = ["Platform"]
