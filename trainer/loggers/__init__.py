"""What takes in the metrics of a run; the list `loggers` of the configuration names them.

    loggers: [tensorboard, jsonl, wandb]

A section with the `_target_` of one of these classes, or of your own, gives arguments.
"""
