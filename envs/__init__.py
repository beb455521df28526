"""Batched environments. Nothing in here knows of `trainer`.

Importing it makes them known to Gymnasium: `import envs`, then `gymnasium.make("TopologySpawn-v0")`; or both
at once, `gymnasium.make("envs:TopologySpawn-v0")`.
"""

import gymnasium

ENVIRONMENTS = {
    "TopologySpawn-v0": "equipoise.envs.topology_spawn.environment:TopologySpawn",
    "equipoise/Moving-v0": "equipoise.envs.moving:Moving",
    "equipoise/Sliding-v0": "equipoise.envs.moving:Sliding",
    "equipoise/HardMove-v0": "equipoise.envs.hard_move:HardMove",
    "equipoise/HardMovePerActuator-v0": "equipoise.envs.hard_move:HardMovePerActuator",
    "equipoise/CatchPoint-v0": "equipoise.envs.catch_point:CatchPoint",
    "equipoise/Platform-v0": "equipoise.envs.platform.environment:Platform",
    "equipoise/Goal-v0": "equipoise.envs.goal.environment:Goal",
    "equipoise/SwitchedLQR-v0": "equipoise.envs.switched_lqr:SwitchedLQR",
    "equipoise/Inventory-v0": "equipoise.envs.inventory:Inventory",
}
"""Gymnasium's name -> where the batched environment is."""

for _name, _place in ENVIRONMENTS.items():
    gymnasium.register(_name, entry_point="equipoise.envs.registration:SingleEnv", kwargs={"make": _place})
