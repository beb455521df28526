"""Writes docs/files.md, every file in a line: `python -m scripts.list_files [--check]`."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "files.md"
PACKAGES = ("equipoise", "trainer", "envs", "scripts", "examples")

HEAD = """\
# Every file in a line

The first line of each docstring, made by `python -m scripts.list_files`. The folders `trainer/`, `envs/`,
`scripts/` and `conf/` are the package `equipoise`: `equipoise/` links to them, and imports are
`equipoise.trainer.…`, `equipoise.envs.…` and `equipoise.scripts.…`. [Architecture](architecture.md) says
where to add what.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write docs/files.md from the docstrings of all files.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the page is out of date"
    )
    check = parser.parse_args(arguments).check
    text = page(ROOT)
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    if check:
        print("docs/files.md is out of date; run: python -m scripts.list_files")
        return 1
    PAGE.write_text(text)
    print(f"written: {PAGE.relative_to(ROOT)}")
    return 0


def page(root: Path) -> str:
    """The Markdown of the page for the clone in `root`."""
    parts = [HEAD]
    for folder in folders(root):
        files = sorted(file for file in folder.glob("*.py") if file.name != "__init__.py")
        own = first_line(folder / "__init__.py")
        if not files and not own:
            continue
        name = folder.relative_to(root).as_posix()
        rows = [
            f"| [`{file.name}`](../{name}/{file.name}) | {first_line(file).replace('|', chr(92) + '|')} |"
            for file in files
        ]
        table = ["| | |", "|---|---|", *rows, ""] if rows else []
        parts.append("\n".join([f"## {name}/", "", *([own, ""] if own else []), *table]))
    return "\n".join(parts)


def folders(root: Path) -> Iterator[Path]:
    """The packages and their folders, each before those inside it; links and caches are left out."""
    for package in PACKAGES:
        inside = (path for path in (root / package).rglob("*") if path.is_dir())
        for folder in (root / package, *sorted(inside)):
            linked = any(part.is_symlink() for part in (folder, *folder.parents))
            if not linked and folder.name != "__pycache__":
                yield folder


def first_line(file: Path) -> str:
    """The first line of the file's docstring, or nothing."""
    if not file.exists():
        return ""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
