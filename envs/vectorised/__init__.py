"""Environments of others that step all their copies at once, as `BatchedEnv`s."""

from equipoise.envs.vectorised.adapter import VectorisedEnv

__all__ = ["VectorisedEnv"]
