"""This project with fixed weights, `preset=debug`: what adaptive scaling costs."""

from __future__ import annotations

from functools import partial

from equipoise.scripts.peers import equipoise

PACKAGES = equipoise.PACKAGES
build = partial(equipoise.build, overrides=("preset=debug",))
