"""Any Gymnasium environment as a batched one: adapter, checks, worker processes, snapshots."""

from equipoise.envs.gymnasium_adapter.adapter import GymnasiumEnv

__all__ = ["GymnasiumEnv"]
