"""TopologySpawn: the environment, its rules, substrate, pictures and a scripted expert."""

from equipoise.envs.topology_spawn.environment import TopologySpawn

__all__ = ["TopologySpawn"]
