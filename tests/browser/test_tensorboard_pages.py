"""What a person sees of a run in TensorBoard, in a real browser. Skipped where there is none."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from equipoise.trainer.monitor.layout import LAYOUT
from equipoise.trainer.monitor.summary import Summary
from tests.conftest import TINY_TOPOLOGY

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
# TensorBoard's pages are web components, whose insides are hidden from a plain querySelectorAll.
DEEP = """
const deep = (root, selector) => [
  ...root.querySelectorAll(selector),
  ...[...root.querySelectorAll('*')].filter(e => e.shadowRoot).flatMap(e => deep(e.shadowRoot, selector)),
];
"""
CHARTS = """
return deep(document, 'tf-custom-scalar-multi-line-chart-card, tf-custom-scalar-margin-chart-card').map(
  card => [
    deep(card.shadowRoot, 'tf-card-heading').map(e => e.displayName)[0],
    deep(card.shadowRoot, 'path.line').filter(p => (p.getAttribute('d') || '').includes('L')).length,
  ]);
"""
CELLS = "return deep(document, 'vaadin-grid-cell-content').map(e => e.textContent.trim()).filter(t => t);"
PICTURES = "return deep(document, 'img').map(e => [e.complete, e.naturalWidth, e.naturalHeight, e.src]);"
TEXTS = "return deep(document, 'code').map(e => e.textContent);"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """A short run of the default: its folder and summary."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = compose(
        [*TINY_TOPOLOGY, "trainer.total_env_steps=1024", "trainer.gradient_scaling.warmup_steps=8"]
    )
    return folder, build(config, folder).train()


@pytest.fixture(scope="module")
def address(run: tuple[Path, Summary]) -> Iterator[str]:
    command = [sys.executable, "-m", "scripts.dashboard", "--runs", str(run[0].parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        match = re.search(r"http://[\d.:]+/", process.stdout.readline())
        assert match
        yield match[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        process.stdout.close()


@pytest.fixture(scope="module")
def ask(address: str, browser: Any) -> Callable[..., Any]:
    """`ask(page, script, ready)`: what a script finds on a page, as soon as `ready` says that it is all there."""

    def ask(page: str, script: str, ready: Callable[[Any], object]) -> Any:
        browser.get("about:blank")  # from one # to another alone, nothing is loaded anew
        browser.get(f"{address}#{page}")
        deadline = time.monotonic() + 60.0
        while True:
            found = browser.execute_script(DEEP + script)
            if ready(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.25)

    return ask


def test_custom_scalars_draws_every_chart_of_the_layout(ask: Callable[..., Any]) -> None:
    titles = {chart.title for charts in LAYOUT.values() for chart in charts} | {"Its own: decision_accuracy"}
    charts = ask(
        "custom_scalars", CHARTS, lambda found: len(found) > len(titles) and all(n for _, n in found)
    )
    assert titles < {title for title, _ in charts}
    assert [title for title, lines in charts if not lines] == []


def test_an_address_chooses_runs_by_their_names(ask: Callable[..., Any]) -> None:
    """As those for each environment do that `equipoise dashboard` prints."""
    none = ask("custom_scalars&regexInput=%5E%28another%29%24", CHARTS, lambda found: len(found) > 9)
    assert {lines for _, lines in none} == {0}
    ours = ask(
        "custom_scalars&regexInput=%5E%28tiny%29%24", CHARTS, lambda found: found and all(n for _, n in found)
    )
    assert min(lines for _, lines in ours) > 0


def test_hparams_shows_what_was_typed_and_the_final_score_side_by_side(
    ask: Callable[..., Any], run: tuple[Path, Summary]
) -> None:
    cells = ask("hparams", CELLS, lambda found: "tiny" in found)
    shaping = {"trainer.batch.rollout_steps", "trainer.gradient_scaling.warmup_steps"}
    assert {*shaping, "final/normalized_score"} <= set(cells)
    row = cells[cells.index("tiny") :]
    score = run[1].normalized_score
    assert {"8.0000", "16.000"} <= set(row)
    assert any(
        re.fullmatch(r"-?[\d.]+", cell) and float(cell) == pytest.approx(score, rel=1e-3) for cell in row
    )


def test_images_has_a_film_that_has_loaded(ask: Callable[..., Any]) -> None:
    pictures = ask("images", PICTURES, lambda found: found and all(loaded for loaded, *_ in found))
    assert [picture[:3] for picture in pictures] == [[True, 480, 270]]


def test_text_has_configuration_and_revision(ask: Callable[..., Any], run: tuple[Path, Summary]) -> None:
    texts = ask("text", TEXTS, lambda found: len(found) == 2)
    assert "preset: balanced" in texts[0]
    assert run[1].git_revision in texts[1]
