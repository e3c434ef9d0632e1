"""The page that `%sgl export` writes, opened as a file: the player, its policy, and the absence of
requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from sgl_lab.contracts.events import CellFinished, Entry
from sgl_lab.contracts.ids import RunId
from sgl_lab.magics.commands.keep import exported
from sgl_lab.magics.session import Session
from sgl_lab.trace import Record
from sgl_lab.viz import bundle
from sgl_lab.viz.draw import page as draw
from tests.browser.test_access import violations
from tests.pure.story import record_of, story
from tests.pure.test_viz_draw import HOSTILE, hostile_stage

PLANTED = "<script>window.planted = 1</script><img src=data:, onerror='window.planted = 2'>"


class FilePage:
    """One HTML file in Chromium. `requests` are all requests except for the file itself and
    pictures within it.
    """

    def __init__(self, browser: Browser, path: Path, source: str, **options: Any) -> None:
        path.write_text(source, encoding="utf-8")
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1100, "height": 1000}, "reduced_motion": "reduce"} | options)
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: None if request.url.startswith("data:") else self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.requests.remove(path.as_uri())

    @property
    def time(self) -> Locator:
        return self.page.get_by_role("slider", name="Moment of the run")


def written(record: Record, title: str = "run") -> str:
    return draw.page(title, exported(Session(), record), bundle.players())


def finished_story() -> Record:
    stage = story()
    record = record_of(stage)
    record.end(stage.spell)
    return record


@pytest.fixture(scope="module")
def source() -> str:
    return written(finished_story())


@pytest.fixture(params=["light", "dark"])
def file(request: pytest.FixtureRequest, browser: Browser, source: str, tmp_path: Path) -> Iterator[FilePage]:
    """Loads without an error and without a request."""
    file = FilePage(browser, tmp_path / "run.html", source, color_scheme=request.param)
    expect(file.page.get_by_role("tree")).to_be_visible()
    yield file
    file.context.close()
    assert file.errors == []
    assert file.requests == []


def test_the_run_is_replayed_from_a_file(file: FilePage) -> None:
    file.time.focus()
    file.page.keyboard.press("Home")
    expect(file.page.get_by_role("tree")).to_be_visible()
    seen = []
    for _ in range(6):
        seen.append((file.time.get_attribute("aria-valuetext"), file.page.locator(".sgl-text .t").count()))
        file.page.keyboard.press("ArrowRight")
        file.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert len(set(seen)) == 6
    file.page.keyboard.press("End")
    expect(file.page.locator(".sgl-fork")).to_have_count(3)
    file.page.locator(".sgl-node").last.click()
    expect(file.page.locator(".sgl-details")).to_contain_text("last used")
    expect(file.page.locator(".sgl-details")).not_to_contain_text("eviction")  # the file does not tell the cache's policy


def test_the_player_is_light_or_dark_as_the_readers_system_asks(file: FilePage, request: pytest.FixtureRequest) -> None:
    is_dark = request.node.callspec.params["file"] == "dark"
    expect(file.page.get_by_role("tree")).to_be_visible()
    shades = [
        sum(map(int, re.findall(r"\d+", file.page.locator(name).first.evaluate("(one) => getComputedStyle(one).backgroundColor"))[:3]))
        for name in ("body", ".sgl-live", ".sgl-play")
    ]
    assert [shade < 3 * 128 for shade in shades] == [is_dark] * 3
    assert violations(file.page, "main") == []


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_words_stay_words_in_the_pictures_and_in_the_player(payload: str, browser: Browser, tmp_path: Path) -> None:
    stage, spell = hostile_stage(payload)
    record = Record(RunId(1), entries=[*stage.entries, Entry(len(stage.entries), 10**9, CellFinished(RunId(1), "error", payload))])
    record.end(spell)
    file = FilePage(browser, tmp_path / "evil.html", written(record, payload))
    file.page.on("dialog", lambda dialog: (file.errors.append(dialog.message), dialog.dismiss()))
    expect(file.page.get_by_role("tree")).to_be_visible()
    file.page.locator(".sgl-node").last.click()
    file.page.locator(".sgl-text .t").last.hover()
    expect(file.page.locator(".sgl-card")).to_be_visible()
    assert file.page.locator("script").count() == 2
    assert file.page.locator(".sgl-live :is(img, script, a, iframe, object)").count() == 0
    handlers = "() => [...document.querySelectorAll('*')].filter((one) => [...one.attributes].some(({ name }) => /^on/.test(name))).length"
    assert file.page.evaluate(handlers) == 0
    assert (file.errors, file.requests) == ([], [])
    file.context.close()


def test_injected_code_does_not_run(browser: Browser, source: str, tmp_path: Path) -> None:
    file = FilePage(browser, tmp_path / "planted.html", source.replace("<main>", f"<main>{PLANTED}", 1))
    expect(file.page.get_by_role("tree")).to_be_visible()
    assert file.page.evaluate("() => window.planted") is None
    assert len([error for error in file.errors if "Content Security Policy" in error]) == 2
    file.page.evaluate(
        """async () => {
          window.refused = [];
          document.addEventListener('securitypolicyviolation', ({ effectiveDirective }) => refused.push(effectiveDirective));
          await fetch('http://127.0.0.1:9/').catch(() => {});
          await import('data:text/javascript,').catch(() => {});
          document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:9/x.png' }), document.createElement('iframe'));
          document.querySelector('iframe').src = 'http://127.0.0.1:9/';
          try { document.body.innerHTML = '<b>'; } catch { refused.push('innerHTML'); }
        }"""
    )
    wanted = ["connect-src", "script-src-elem", "img-src", "frame-src", "innerHTML"]
    file.page.wait_for_function("(wanted) => wanted.every((name) => refused.includes(name))", arg=wanted)
    assert [request for request in file.requests if "127.0.0.1" not in request] == []
    file.context.close()


def test_without_scripts_the_pictures_remain_and_no_control_is_dead(browser: Browser, source: str, tmp_path: Path) -> None:
    file = FilePage(browser, tmp_path / "still.html", source, java_script_enabled=False)
    expect(file.page.get_by_text("Radix tree").first).to_be_visible()
    assert file.page.get_by_role("slider").count() + file.page.get_by_role("button").count() == 0
    assert (file.errors, file.requests) == ([], [])
    file.context.close()
