"""The page of `equipoise report` as a person meets it: in a real browser, by mouse and by keyboard."""

from __future__ import annotations

from typing import Any

import pytest

from equipoise.scripts import report
from equipoise.trainer.build import build
from equipoise.trainer.configuration.compose import compose
from tests.conftest import TINY_TOPOLOGY

webdriver = pytest.importorskip("selenium.webdriver", reason="needs: pip install -e '.[browser]'")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Any:
    """The browser, on the page of three short runs, one of which differs by more than its seed."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in {"a": "seed=1", "b": "seed=2", "c": "preset=debug"}.items():
        settings = [*TINY_TOPOLOGY, "trainer.total_env_steps=512", more]
        build(compose(settings), folder / name).train()
    assert report.main([str(folder)]) == 0
    browser.get((folder / "report.html").as_uri())
    return browser


def found(page: Any, selector: str) -> list[Any]:
    elements: list[Any] = page.find_elements("css selector", selector)
    return elements


def test_everything_is_there_and_nothing_is_fetched(page: Any) -> None:
    assert [h.text for h in found(page, "h2")] == ["topology_spawn", "Where the numbers come from"]
    titles = [caption.text for caption in found(page, ".chart b")]
    assert titles[:2] == ["Score", "Return of the training episodes"]
    assert "Push ratio, discrete : continuous" in titles
    assert all(svg.size["height"] > 100 for svg in found(page, ".chart > svg"))
    assert (
        page.execute_script(
            "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
        )
        == []
    )
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_film_has_loaded_and_can_be_stopped(page: Any) -> None:
    pictures = page.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert pictures == [[True, 400]] * 2
    button = found(page, "button.film")[0]
    page.execute_script("arguments[0].click()", button)
    assert button.text == "Play"
    assert found(page, "img")[0].get_attribute("src").startswith("data:image/png")
    page.execute_script("arguments[0].click()", button)
    assert found(page, "img")[0].get_attribute("src").startswith("data:image/webp")


def test_the_switch_goes_from_light_to_dark(page: Any) -> None:
    button = found(page, "#theme")[0]
    colours = {}
    for _ in range(3):
        colours[button.text] = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        button.click()
    assert colours["Colours: light"] == "rgb(251, 251, 249)"
    assert colours["Colours: dark"] == "rgb(22, 24, 28)"
    assert colours["Colours: as the system"] in (colours["Colours: light"], colours["Colours: dark"])


def test_values_are_told_by_keyboard_and_by_mouse(page: Any) -> None:
    svg, tip = found(page, ".chart > svg")[0], found(page, ".chart > .tip")[0]
    assert not tip.is_displayed()
    svg.send_keys(webdriver.Keys.HOME)
    assert tip.is_displayed()
    first = tip.text
    assert first.startswith("128 steps")
    assert {"balanced", "debug"} <= {line.partition(":")[0] for line in first.splitlines()}
    svg.send_keys(webdriver.Keys.ARROW_RIGHT)
    assert tip.text.startswith("256 steps")
    svg.send_keys(webdriver.Keys.ESCAPE)
    assert not tip.is_displayed()
    page.execute_script("arguments[0].blur()", svg)
    webdriver.ActionChains(page).move_to_element(found(page, ".chart > svg")[1]).perform()
    assert found(page, ".chart > .tip")[1].is_displayed()


def test_a_click_on_a_head_sorts_the_table(page: Any) -> None:
    def seeds() -> list[str]:
        return [cell.text for cell in found(page, "details table tbody td:nth-child(3)")]

    head = found(page, "details table th:nth-child(3) button")[0]
    page.execute_script("arguments[0].click()", head)
    down = seeds()
    page.execute_script("arguments[0].click()", head)
    assert sorted(down, key=int, reverse=True) == down
    assert seeds() == sorted(down, key=int)


def test_a_phone_needs_no_scrolling_to_the_side(page: Any) -> None:
    size = page.get_window_size()
    page.set_window_size(500, 900)
    wide = page.execute_script("return document.documentElement.scrollWidth - innerWidth")
    page.set_window_size(size["width"], size["height"])
    assert wide <= 0
