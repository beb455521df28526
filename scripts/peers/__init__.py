"""Other people's PPO, each in a file of its own, set up as a fair user of it would, and measured alike.

A peer is a module with `PACKAGES`, whose versions are reported, and `build(task)`, which returns a function
that does one iteration: `task.steps` steps in each of `task.envs` environments, and what is learned from
them. A peer that can also tell when it has learned a task has `reach(seed, goal)`.
"""
