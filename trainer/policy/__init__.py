"""The hybrid actor-critic: encoders, distributions, normalisation."""
