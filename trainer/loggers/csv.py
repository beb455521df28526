"""Metrics as a table for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from equipoise.trainer.monitor.logger import LoggedRun, Logger
from equipoise.trainer.system.files import AppendFile, replace_file


class Csv(Logger):
    """`metrics.csv`: a row an iteration, a column a metric, empty where an iteration has none.

    A metric that comes later, as with the first evaluation, is a new column: the file is written anew.
    """

    def start(self, run: LoggedRun) -> None:
        self._path = run.folder / "metrics.csv"
        self._columns = ["iteration", "env_steps"]
        rows: list[dict[str, str]] = []
        if run.iteration and self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or self._columns)
                # Those beyond the checkpoint come again; a torn one is beyond any checkpoint.
                rows = [row for row in reader if _number(row["iteration"]) <= run.iteration]
        self._rewrite(rows)

    def scalars(self, metrics: Mapping[str, float], iteration: int, env_steps: int) -> None:
        known = {tag: x for tag, x in metrics.items() if math.isfinite(x)}
        row = {"iteration": iteration, "env_steps": env_steps, **known}
        if new := [tag for tag in row if tag not in self._columns]:
            self._file.flush()
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self._columns += new
            self._file.close()
            self._rewrite(rows)
        self._file.write(self._text([row]))
        self._file.flush()

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        header = dict(zip(self._columns, self._columns, strict=True))
        replace_file(self._path, self._text([header, *rows]))
        self._file = AppendFile(self._path, append=True)

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue().encode()

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def _number(text: str | None) -> float:
    try:
        return float(text or "inf")
    except ValueError:
        return math.inf
