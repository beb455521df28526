"""A PPO trainer for hybrid actions: the commands, the algorithm's path and, in folders, all else."""

if __name__ == "trainer":  # `python -m trainer.run` in the clone, perhaps with a bare interpreter
    from equipoise.prerequisites import require

    require()
