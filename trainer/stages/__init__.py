"""The stages: one file per system, each at one of the four hooks of `protocol`."""
