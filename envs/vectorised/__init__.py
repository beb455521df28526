"""Environments of others that step all their copies at once, as `BatchedEnv`s."""

from equipoise.envs.vectorised.adapter import VectorisedEnv
from equipoise.envs.vectorised.on_device import DeviceEnv

__all__ = ["DeviceEnv", "VectorisedEnv"]
