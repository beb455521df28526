"""What a study made of single runs leaves beside its page."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from equipoise.scripts.studies.rows import publish


def test_the_csv_has_every_value_in_its_column(tmp_path: Path) -> None:
    options = argparse.Namespace(report=tmp_path / "page.md")
    rows = [{"case": case, "seed": 1, "half": None, "commit": "abc"} for case in ("1", "1,000", 'a "b"')]
    publish(options, "scripts.any", "Any", [], rows, ["| a table |"])
    with (tmp_path / "page.csv").open(newline="", encoding="utf-8") as table:
        read = list(csv.DictReader(table))
    assert [row["case"] for row in read] == ["1", "1,000", 'a "b"']
    assert {(row["seed"], row["half"], row["commit"]) for row in read} == {("1", "", "abc")}
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "python -m scripts.any" in page
    assert "commit: abc" in page
