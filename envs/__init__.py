"""Batched environments. Nothing in here knows of `trainer`.

Importing it makes them known to Gymnasium: `import envs`, then `gymnasium.make("TopologySpawn-v0")`; or both
at once, `gymnasium.make("envs:TopologySpawn-v0")`.
"""

import gymnasium

ENVIRONMENTS = {
    "TopologySpawn-v0": "envs.topology_spawn:TopologySpawn",
    "equipoise/Moving-v0": "envs.moving:Moving",
    "equipoise/Sliding-v0": "envs.moving:Sliding",
    "equipoise/HardMove-v0": "envs.hard_move:HardMove",
    "equipoise/HardMovePerActuator-v0": "envs.hard_move:HardMovePerActuator",
    "equipoise/CatchPoint-v0": "envs.catch_point:CatchPoint",
    "equipoise/Platform-v0": "envs.platform:Platform",
    "equipoise/Goal-v0": "envs.goal:Goal",
}
"""Gymnasium's name -> where the batched environment is."""

for _name, _place in ENVIRONMENTS.items():
    gymnasium.register(_name, entry_point="envs.registration:SingleEnv", kwargs={"make": _place})
