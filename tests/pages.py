"""Reads the Markdown pages of this project: their code blocks, the files they show, the commands they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "files.md"),
]
"""`docs/results` records what was run, and is not run again."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:# @package .*\n)?# (\S+\.(?:py|yaml))\n")
_INLINE = re.compile(r"`([^`\n]+)`")
_PROGRAMS = ("python -m ", "equipoise ", "torchrun ", "make ")


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name under which a page asks its reader to save this block."""
        found = _FILE.match(self.text)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(page.read_text())]


def files(page: Path) -> dict[str, str]:
    """Name -> text of the files that a page shows whole."""
    return {block.file: block.text for block in blocks(page) if block.file}


def programs(page: Path) -> list[str]:
    """The Python of a page that is no file, one text a block."""
    return [block.text for block in blocks(page) if block.language == "python" and not block.file]


def commands(page: Path) -> Iterator[str]:
    """Every command of a page, in blocks and in sentences, without comments."""
    for block in blocks(page):
        if block.language == "bash" and not block.text.startswith("#!"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if command := re.sub(r"(^|\s)#.*", "", line).strip():
                    yield re.sub(r"\s+", " ", command)
    for inline in _INLINE.findall(_FENCE.sub("", page.read_text())):
        if inline.startswith(_PROGRAMS) and "…" not in inline and "..." not in inline:
            yield inline
