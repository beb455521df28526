"""Batched environments. Nothing in here knows of `trainer`."""
