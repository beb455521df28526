"""Files, checkpoints, processes, signals and memory."""
