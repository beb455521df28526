"""This project with environments in processes of their own: as many as there are cores, or one for each."""

from __future__ import annotations

from functools import partial

from equipoise.scripts.peers import equipoise

PACKAGES = equipoise.PACKAGES
ASYNC = ("env.vectorization=async", "env.timeout=300")
build = partial(equipoise.build, overrides=ASYNC)
