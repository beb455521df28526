"""This project with `trainer.compile=default`; the first turns, which do not count, compile."""

from __future__ import annotations

from functools import partial

from equipoise.scripts.peers import equipoise

PACKAGES = equipoise.PACKAGES
build = partial(equipoise.build, overrides=("trainer.compile=default",))
