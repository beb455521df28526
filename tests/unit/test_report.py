"""`equipoise report`: a page from run folders, whatever state the runs are in."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from equipoise.scripts import report
from equipoise.scripts.reporting import tables
from equipoise.scripts.reporting.charts import band, chart
from equipoise.scripts.reporting.groups import environments, short_fractions
from equipoise.scripts.reporting.runs import find
from equipoise.trainer.monitor.gif import encode_gif


def make_run(
    folder: Path, seed: int, score: float | None = None, state: str = "finished", **settings: Any
) -> Path:
    """A run folder as training leaves it; `settings`: of its configuration, `__` for a dot.

    The evaluations climb from 0 to `score` in 8 of 10 iterations of 100 steps; only the closing one, at the
    last step, is `score`.
    """
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "seed": seed,
        "preset": "balanced",
        "env": {"name": "goal", "num_envs": 4},
        "trainer": {"total_env_steps": 1000},
        "policy": {},
        "optimizer": {"learning_rate": 0.01},
    }
    for key, value in settings.items():
        *path, name = key.split("__")
        section = config
        for part in path:
            section = section[part]
        section[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    done = 10 if state == "finished" else 4
    rows = []
    for i in range(1, done + 1):
        row = {"iteration": i, "env_steps": 100 * i, "episode/return": float(i), "loss/kl_discrete": 0.01 * i}
        row |= {"loss/kl_continuous": 0.02, "gradient_scaling/balance_ratio": None if i == 1 else 0.5}
        if i in (4, 8):
            row["evaluation/score"] = (score or 0.0) * (i - 4) / 8
        rows.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    if state in ("finished", "failed", "interrupted"):
        summary = {
            "status": state,
            "seed": seed,
            "env_steps": 100 * done,
            "seconds": 61.0,
            "balance_ratio": 2.0,
        }
        if state == "finished":
            summary |= {
                "normalized_score": score,
                "return_mean": 10 * (score or 0.0),
                "random_return_mean": -1.0,
            }
        else:
            summary["error"] = "ValueError: <b>odd & bad</b>"
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


class Page(HTMLParser):
    """Tables as rows of texts, and every start tag with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.in_cell = "", False
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def column(self, table: int, head: str) -> list[str]:
        heads, *rows = self.tables[table]
        return [row[heads.index(head)] for row in rows]


def written(*arguments: Path | str) -> Page:
    assert report.main([*map(str, arguments)]) == 0
    return Page(Path(arguments[0]) / "report.html")


def test_the_table_has_what_one_works_out_by_hand(tmp_path: Path) -> None:
    """Three runs: the mean of all, and their range. Eight: without the two best and the two worst, and an
    interval of order statistics that begins between the first run and the second."""
    for seed, score in enumerate((0.1, 0.2, 0.6)):
        make_run(tmp_path / f"a{seed}", seed, score, preset="debug")
    for seed, score in enumerate((0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)):
        make_run(tmp_path / f"b{seed}", seed, score)
    page = written(tmp_path)
    assert page.column(0, "group") == ["balanced", "debug"]
    ours, theirs = page.column(0, "score")
    assert theirs == "0.300, range 0.100 to 0.600"
    value, low, high = map(float, re.findall(r"[\d.]+", ours))
    assert value == 0.85
    assert 0.5 < low < 0.6
    assert 1.1 < high < 1.2
    assert page.column(0, "return") == ["8.50", "3.00"]
    assert page.column(0, "push ratio") == ["2.00", "2.00"]
    assert page.column(0, "time") == ["1:01", "1:01"]
    # 24 pairs, of which (0.5, 0.6) is lost and (0.6, 0.6) is even: 22.5 / 24.
    (_, versus) = page.column(0, "P(best is better)")
    assert versus.startswith("0.94 [")
    # Of the 165 ways to choose three of the ranks, of which 4.5 is there twice, five are as far from their
    # mean of 18 as 1 + 2 + 4.5: three on that side (1 + 2 + 3, or either 4.5), two on the other (30 and 29).
    assert versus.endswith("p 0.030")
    assert "That is more than chance" in page.text


def test_a_baseline_is_what_all_others_are_compared_with(tmp_path: Path) -> None:
    for name, scores in {"low": (0.1, 0.2), "middle": (0.3, 0.4), "high": (0.5, 0.6)}.items():
        for seed, score in enumerate(scores):
            make_run(tmp_path / f"{name}{seed}", seed, score, preset=name)
    page = written(tmp_path, "--baseline", "middle")
    assert page.column(0, "group") == ["high", "middle", "low"]
    versus = [text[:4] for text in page.column(0, "P(better than middle)")]
    assert versus == ["1.00", "–", "0.00"]


def test_beside_a_baseline_a_single_run_is_not_the_best(tmp_path: Path) -> None:
    """As in a search, whose best trial was lucky as well as good."""
    for seed in range(5):
        make_run(tmp_path / f"base{seed}", seed, 0.2 + seed / 100)
        make_run(tmp_path / f"good{seed}", seed, 0.7 + seed / 100, preset="good")
    make_run(tmp_path / "lucky", 0, 0.9, preset="lucky")
    page = written(tmp_path, "--baseline", "balanced")
    assert page.column(0, "group") == ["lucky", "good", "balanced"]
    assert "good has the highest score of those that ran more than once: 0.72" in page.text
    assert "more than chance against balanced" in page.text


@pytest.mark.parametrize("groups", [2, 7])  # side by side, and a row each
def test_settings_that_a_search_drew_are_short_unless_that_makes_them_the_same(
    tmp_path: Path, groups: int
) -> None:
    for i in range(groups):
        rates = {"optimizer__learning_rate": 0.0021819408141920704 + i, "trainer__gamma": 0.9880130942718774}
        rates["trainer__gamma"] += 1e-9 * i
        make_run(tmp_path / f"{i}", 1, 0.5, **rates)
    (found,) = environments(find([tmp_path]))
    table = tables.settings(found)
    assert '<td class="wrap" title="0.0021819408141920704">0.002182</td>' in table
    assert '<td class="wrap">0.9880130942718774</td>' in table  # 0.988 would be all of them
    assert found.groups[0].name == "learning_rate=0.002182"
    near = ["0.9880130942718774", "0.98801309427187", "0.0033333333333333335", "1e-4", "–"]
    assert short_fractions(near) == [*near[:2], "0.003333", "1e-4", "–"]


def test_groups_are_called_by_the_fewest_settings_that_differ(tmp_path: Path) -> None:
    """A preset brings other settings with it; what only watches a run makes no group."""
    make_run(tmp_path / "a", 0, 0.1, preset="debug", trainer__gamma=0.9, device="cuda")
    make_run(tmp_path / "b", 1, 0.1, preset="debug", trainer__gamma=0.9)
    make_run(tmp_path / "c", 0, 0.2, trainer__gamma=0.99)
    make_run(tmp_path / "d", 0, 0.3, trainer__gamma=0.99, optimizer__learning_rate=0.02)
    (found,) = environments(find([tmp_path]))
    assert [(group.name, len(group.runs)) for group in found.groups] == [
        ("balanced, learning_rate=0.02", 1),
        ("balanced, learning_rate=0.01", 1),
        ("debug, learning_rate=0.01", 2),
    ]
    assert set(found.groups[0].settings) == {"preset", "trainer.gamma", "optimizer.learning_rate"}


def test_runs_of_every_state_and_environment_have_their_place(tmp_path: Path) -> None:
    make_run(tmp_path / "good", 0, 0.5)
    make_run(tmp_path / "bad", 1, state="failed")
    make_run(tmp_path / "killed", 2, state="killed")
    (tmp_path / "running").mkdir()
    make_run(tmp_path / "running" / "run", 3, state="running")
    (tmp_path / "running" / "run" / "run.lock").touch()
    make_run(tmp_path / "other", 0, state="interrupted", env__name="cart")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"iteration": 5, "env_')  # torn by the kill
    make_run(tmp_path / "good" / "until-00000010", 0, 0.9)  # what a resumed run keeps of its other end
    (tmp_path / "good" / "command.txt").write_text("equipoise train env=goal\nequipoise train resume=x\n")
    page = written(tmp_path)
    assert [value["id"] for tag, value in page.tags if tag == "section"] == ["env0", "env1"]
    assert "5 runs in 2 groups" in page.text
    assert "No run has finished" in page.text
    states = dict(zip(page.column(3, "run"), page.column(3, "state"), strict=True))
    assert states == {
        "good": "finished, resumed once",
        "bad": "failedValueError: <b>odd & bad</b>",
        "killed": "killed",
        "running/run": "running",
    }
    assert page.column(3, "steps") == ["400 of 1k", "1k", "400 of 1k", "400 of 1k"]
    assert page.column(2, "runs") == ["1 of 4"]


def test_a_run_without_a_metrics_file_has_the_steps_of_its_summary(tmp_path: Path) -> None:
    (make_run(tmp_path / "a", 1, 0.5) / "metrics.jsonl").unlink()
    assert written(tmp_path).column(0, "steps") == ["1k"]


def test_odd_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    odd = '"><script>alert(1)</script>'
    make_run(tmp_path / "a", 0, 0.1, preset=odd)
    make_run(tmp_path / "b", 0, 0.2, preset="</style><img src=x onerror=alert(1)>")
    page = written(tmp_path, "--title", odd)
    assert page.column(0, "group")[1] == odd
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [tag for tag, _ in page.tags if tag == "img"]
    numbers = [json.loads(found["data-numbers"] or "") for _, found in page.tags if "data-numbers" in found]
    assert odd in [line["name"] for line in numbers[0]]


def test_the_page_needs_nothing_else_and_carries_its_films(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, 0.1)
    (run / "videos").mkdir()
    frames = np.zeros((3, 24, 32, 3), np.uint8)
    frames[1:, 4:12, 8:16] = 200
    (run / "videos" / "steps_000000100.gif").write_bytes(encode_gif(frames, 8.0))
    page = written(tmp_path / "run")
    (image,) = [found for tag, found in page.tags if tag == "img"]
    assert (image["src"] or "").startswith("data:image/webp;base64,")
    addresses = [v for _, found in page.tags for k, v in found.items() if k in ("src", "href", "srcset")]
    assert all((address or "").startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?://|@import|url\(", re.sub(r"base64,[\w+/=]+", "", page.source))


def test_sixty_runs_in_twenty_groups_are_one_page(tmp_path: Path) -> None:
    for i in range(20):
        for seed in range(3):
            folder = tmp_path / f"lr{i}" / f"s{seed}"
            make_run(folder, seed, i / 20 + seed / 100, optimizer__learning_rate=0.001 * (i + 1))
    page = written(tmp_path)
    assert len(page.column(0, "group")) == 20
    assert page.column(0, "group")[0] == "learning_rate=0.02"
    assert "Grey: the 12 other groups." in page.text
    labels = re.findall(r'class="label s\d"[^>]*>([^<]*)<', page.source)
    assert labels[:2] == ["0.02", "0.019"], "what all of their names begin with is left out"
    assert len(page.source) < 1_000_000


def test_wrong_places_get_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run", 0, 0.1)
    (tmp_path / "empty").mkdir()
    for arguments, message in {
        ("nowhere",): "nowhere: there is no such folder",
        ("run/config.yaml",): "config.yaml: is no folder",
        ("empty",): "no runs in there",
        ("run", "--baseline", "best"): "--baseline best: no such group; there are balanced",
    }.items():
        places = [str(tmp_path / a) if "/" in a or (tmp_path / a).exists() else a for a in arguments]
        assert report.main(places) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    with pytest.raises(SystemExit, match="2"):
        report.main([str(tmp_path / "run"), "--to", str(tmp_path / "run")])
    assert "is a folder" in capsys.readouterr().err


def test_a_run_that_stopped_early_counts_up_to_where_it_stopped() -> None:
    steps = np.array([0.0, 10.0, 20.0])
    line = band("a", 0, [(steps, np.array([0.0, 1.0, 2.0])), (steps[:2], np.array([2.0, 3.0]))])
    assert line is not None
    assert line.middle.tolist() == [1.0, 2.0, 2.0]
    assert line.low.tolist() == [0.0, 1.0, 2.0]
    assert line.high.tolist() == [2.0, 3.0, 2.0]


def test_ratios_have_geometric_means() -> None:
    line = band("a", 0, [(np.array([1.0]), np.array([0.5])), (np.array([1.0]), np.array([2.0]))], log=True)
    assert line is not None
    assert line.middle[0] == pytest.approx(1.0)


def test_labels_of_curves_that_end_together_do_not_lie_on_each_other() -> None:
    steps = np.array([0.0, 1.0])
    lines = [band(f"group {i}", i, [(steps, np.array([0.0, 1.0 + i / 1000]))]) for i in range(8)]
    drawn = chart("title", "note", [line for line in lines if line is not None])
    places = sorted(float(y) for y in re.findall(r'class="label s\d" x="[\d.]+" y="([\d.]+)"', drawn))
    assert len(places) == 8
    assert min(np.diff(places)) > 12
    assert len(set(re.findall(r'class="line (s\d)"', drawn))) == 8
