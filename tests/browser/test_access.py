"""The views by axe's rules, in light and dark, live and saved, and with keys alone."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from sgl_lab.magics.folded import Folded
from tests.browser.bare import SavedPage, WidgetPage, full
from tests.pure.story import record_of, story

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
VIEWS = ("tokens", "tree", "timeline")


def violations(page: Page, within: str) -> list[tuple[str, str]]:
    """(rule, element) of everything that axe finds wrong there."""
    page.evaluate(AXE)
    found: dict[str, Any] = page.evaluate("(within) => axe.run(within, { resultTypes: ['violations'] })", within)
    return [(rule["id"], node["html"][:160]) for rule in found["violations"] for node in rule["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_in_the_live_views(browser: Browser, scheme: str) -> None:
    page = WidgetPage(browser, color_scheme=scheme, reduced_motion="reduce")
    page.open()
    page.receive(full(story()))
    assert violations(page.page, "#cell") == []
    page.page.locator(".sgl-node").nth(4).click()
    page.page.get_by_label("What colour tells").select_option("probability")
    page.page.get_by_label("Probabilities at another temperature").fill("0.6")
    page.page.locator(".sgl-fork .t.generated").nth(5).hover()
    page.painted()
    assert violations(page.page, "#cell") == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_in_a_saved_cell(browser: Browser, scheme: str) -> None:
    stage = story()
    saved = SavedPage(browser, Folded(record_of(stage), stage.spell).bundle(VIEWS, "smollm2")["text/html"], color_scheme=scheme)
    expect(saved.page.get_by_role("tree")).to_be_visible()
    assert violations(saved.page, "main") == []
    saved.context.close()
    html = Folded(record_of(stage), stage.spell).bundle(VIEWS, "smollm2")["text/html"]
    still = SavedPage(browser, re.sub("<script>.*?</script>", "", html, flags=re.DOTALL), color_scheme=scheme)
    assert still.page.get_by_role("button").count() == 0
    assert violations(still.page, "main") == []
    still.context.close()


def test_every_control_is_reached_by_tab_and_has_a_name(browser: Browser) -> None:
    page = WidgetPage(browser, reduced_motion="reduce")
    page.open()
    page.receive(full(story()))
    wanted = page.page.locator(".sgl-live :is(button:not(:disabled), select, input, [tabindex='0']):visible").count()
    names = []
    for _ in range(wanted):
        page.page.keyboard.press("Tab")
        names.append(
            page.page.evaluate(
                """() => { const at = document.activeElement;
                return [at.closest('.sgl-live') !== null, at.getAttribute('aria-label') || at.textContent]; }"""
            )
        )
    assert wanted > 15
    assert all(inside and name for inside, name in names)
    page.context.close()


def test_the_focused_item_and_the_outcome_are_announced(browser: Browser) -> None:
    page = WidgetPage(browser, reduced_motion="reduce")
    page.open()
    page.receive(full(story()))
    voice = page.page.locator(".sgl-voice")
    page.page.get_by_role("tree").focus()
    page.page.keyboard.press("Home")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Enter")
    expect(voice).to_contain_text("tokens")
    page.page.locator(".sgl-plot").focus()
    page.page.keyboard.press("ArrowRight")
    expect(voice).to_contain_text("main:")
    page.receive({"seq": 1, "kind": "delta", "status": {"phase": "done", "text": "done", "progress": None}})
    expect(voice).to_contain_text("tokens generated")
    page.context.close()


def test_reduced_motion_stops_all_animation(browser: Browser) -> None:
    page = WidgetPage(browser, reduced_motion="reduce")
    page.open()
    page.receive(full(story()))
    assert page.page.evaluate("() => document.getAnimations().length") == 0
    page.context.close()
