"""A published environment of others: one package at one version, and what has to be typed for it."""

from __future__ import annotations

from typing import NamedTuple


class Package(NamedTuple):
    name: str
    """As `pip install` takes it."""
    version: str
    id: str
    """Of the environment, as `env.id` takes it; `make=module:callable` where it is not registered."""
    kind: str
    typed: tuple[str, ...] = ()
    """Settings that it needs beside `env.id`."""
    besides: tuple[str, ...] = ()
    """Packages that have to be installed with it."""
    found: str = ""
    """Where what is typed was found: `README`, `source`, or the `message` of a first attempt; empty where
    nobody has noted it."""
    note: str = ""
    """What is known of it besides its outcome: why it fails, what was mended for it."""
    before: str = ""
    """What its README calls first, as `module:callable`; this project calls it by itself."""
    mended: bool = False
    """Whether this project was mended for it, before what is typed worked."""
    first: str = ""
    """What was typed at first, where that is not what was needed."""

    @property
    def environment(self) -> str:
        """The setting that names the environment."""
        return f"env.{self.id}" if self.id.startswith("make=") else f"env.id={self.id}"


README, SOURCE, MESSAGE = "README", "source", "message"
"""`Package.found`. The README as the registry shows it is what one has read who types for the first time."""
