"""Who imports whom inside a package, with its subpackages taken as one room each."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grimp

Graph = dict[str, set[str]]
"""Room -> the rooms it imports."""


def rooms(package: str) -> tuple[Graph, dict[str, int]]:
    """The imports between the rooms of `package`, and how many modules each subpackage has.

    Imports for type checking only are left out, as they are at run time. `package` must be importable.
    """
    root = package.partition(".")[0]
    modules = grimp.build_graph(root, exclude_type_checking_imports=True, cache_dir=None)
    inside = [m for m in modules.modules if m.startswith(f"{package}.")]
    graph: Graph = {room_of(m, package): set() for m in inside}
    sizes: dict[str, int] = {}
    for module in inside:
        room = room_of(module, package)
        if module != f"{package}.{room}":
            sizes[room] = sizes.get(room, 0) + 1
        imported = modules.find_modules_directly_imported_by(module)
        graph[room] |= {room_of(m, package) for m in imported if m.startswith(f"{package}.")}
    return {room: targets - {room} for room, targets in graph.items()}, sizes


def room_of(module: str, package: str) -> str:
    """`trainer.policy.encoders` is in the room `policy` of `trainer`."""
    return module.removeprefix(f"{package}.").partition(".")[0]


def reduced(graph: Graph) -> Graph:
    """Without the arrows that follow from others: the transitive reduction of a graph without circles.

    Raises ValueError for a circle, naming a room on it.
    """
    reachable: dict[str, set[str]] = {}

    def reach(room: str, path: tuple[str, ...]) -> set[str]:
        if room in path:
            raise ValueError(f"a circle of imports: {' -> '.join((*path, room))}")
        if room not in reachable:
            below = [reach(target, (*path, room)) for target in graph[room]]
            reachable[room] = graph[room].union(*below)
        return reachable[room]

    for room in graph:
        reach(room, ())
    return {
        room: {t for t in targets if not any(t in reachable[other] for other in targets)}
        for room, targets in graph.items()
    }


@contextmanager
def importable_at(commit: str, clone: Path, *folders: str) -> Iterator[None]:
    """`folders` of `clone` as they were at `commit`, first on the path. Raises CalledProcessError."""
    archive = subprocess.run(
        ["git", "archive", commit, *folders], cwd=clone, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
        present = {name: sys.modules.pop(name) for name in folders if name in sys.modules}
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)
            sys.modules.update(present)
