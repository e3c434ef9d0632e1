"""A frozen cell in a bare page: the player over its pictures, and the pictures without scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from sgl_lab.magics.folded import Folded
from tests.browser.bare import SavedPage
from tests.pure.story import Stage, record_of, story

VIEWS = ("tokens", "tree", "timeline")


def frozen() -> str:
    stage = story()
    return Folded(record_of(stage), stage.spell, {"vocab": 49_152, "evict": "lru"}).bundle(VIEWS, "smollm2")["text/html"]


@pytest.fixture(scope="module")
def html() -> str:
    return frozen()


@pytest.fixture
def saved(browser: Browser, html: str) -> Iterator[SavedPage]:
    """A page without requests and without errors."""
    saved = SavedPage(browser, html)
    expect(saved.page.get_by_role("tree")).to_be_visible()
    yield saved
    saved.context.close()
    assert saved.errors == []
    assert saved.requests == []


def time(saved: SavedPage) -> Locator:
    return saved.page.get_by_role("slider", name="Moment of the run")


def n_tokens(saved: SavedPage) -> int:
    saved.painted()
    return saved.page.locator(".sgl-text .t").count()


def test_the_live_view_replaces_the_still_picture_at_about_the_same_height(browser: Browser, html: str) -> None:
    for width in (700, 1280):
        heights = []
        for scripts in (False, True):
            saved = SavedPage(browser, html, java_script_enabled=scripts, viewport={"width": width, "height": 900})
            if scripts:
                expect(saved.page.get_by_role("tree")).to_be_visible()
                saved.painted()
            heights.append((saved.page.locator("main").bounding_box() or {})["height"])
            saved.context.close()
        assert abs(heights[1] - heights[0]) < 0.1 * heights[0]


def test_in_a_narrow_window_time_and_counts_are_complete(browser: Browser, html: str) -> None:
    saved = SavedPage(browser, html, viewport={"width": 330, "height": 900})
    expect(saved.page.get_by_role("tree")).to_be_visible()
    saved.painted()
    cut = saved.page.locator(".sgl-label").evaluate_all("(all) => all.filter((label) => label.scrollWidth > label.clientWidth).length")
    clock, pace, bar = (saved.page.locator(name).bounding_box() or {} for name in (".sgl-clock", ".sgl-moment .sgl-pick", ".sgl-moment"))
    assert cut == 0
    assert clock["x"] + clock["width"] <= pace["x"]
    assert pace["x"] + pace["width"] <= bar["x"] + bar["width"]
    assert saved.page.locator(".sgl-clock").evaluate("(clock) => clock.scrollWidth <= clock.clientWidth")
    saved.context.close()


def test_a_cell_out_of_sight_stays_a_picture_until_it_comes_near(browser: Browser, html: str) -> None:
    saved = SavedPage(browser, f"<div style='height:3000px'></div>{html}")
    saved.painted()
    assert saved.page.get_by_role("tree").count() == 0
    expect(saved.page.get_by_text("trust the notebook")).to_be_visible()
    saved.page.mouse.wheel(0, 3_000)
    expect(saved.page.get_by_role("tree")).to_be_visible()
    saved.context.close()


def test_the_end_of_the_recording_is_what_the_pictures_show(saved: SavedPage) -> None:
    stage = story()
    folded = Folded(record_of(stage), stage.spell)
    counts = folded.counts()
    n_mine = sum(row["mine"] for row in folded.tree.full()["nodes"])
    expect(saved.page.locator(".sgl-tally")).to_have_text(f"{n_mine} nodes of this run")
    for name in ("found", "reused", "computed", "generated"):
        expect(saved.page.locator(f".sgl-metric.sgl-m-{name} .sgl-value")).to_have_text(str(counts[name]))
    assert n_tokens(saved) == sum(len(op["toks"]) for op in folded.tokens.full()["ops"])


def test_keys_step_through_the_moments_and_back(saved: SavedPage) -> None:
    time(saved).focus()
    saved.page.keyboard.press("Home")
    expect(saved.page.get_by_role("tree")).to_be_visible()
    seen = []
    for _ in range(8):
        seen.append((n_tokens(saved), time(saved).get_attribute("aria-valuetext")))
        saved.page.keyboard.press("ArrowRight")
    assert len(set(seen)) == 8
    assert seen == sorted(seen, key=lambda moment: moment[0])
    for moment in reversed(seen):
        saved.page.keyboard.press("ArrowLeft")
        assert (n_tokens(saved), time(saved).get_attribute("aria-valuetext")) == moment


def test_back_at_the_beginning_no_later_node_is_left(browser: Browser) -> None:
    stage = Stage(4_000)
    main = stage.open(label="main")
    stage.say(main, "some words")
    stage.gen((main, "answer", "and an answer"))
    saved = SavedPage(browser, Folded(record_of(stage), stage.spell).bundle(VIEWS, "smollm2")["text/html"])
    expect(saved.page.get_by_role("tree")).to_be_visible()
    expect(saved.page.locator(".sgl-node:not(.root)")).not_to_have_count(0)
    time(saved).focus()
    saved.page.keyboard.press("Home")
    expect(saved.page.locator(".sgl-node:not(.root)")).to_have_count(0)
    saved.context.close()


def test_playing_goes_from_the_beginning_to_the_end_and_stops(saved: SavedPage) -> None:
    time(saved).focus()
    saved.page.keyboard.press("Home")
    expect(saved.page.get_by_role("tree")).to_be_visible()
    before = n_tokens(saved)
    saved.page.get_by_label("Speed").select_option("10")
    saved.page.get_by_role("button", name="Replay").click()
    expect(time(saved)).to_have_attribute("aria-valuetext", "469 ms of 469 ms")
    expect(saved.page.get_by_role("button", name="Replay")).to_be_visible()
    assert before < n_tokens(saved)


def test_a_saved_page_without_scripts_is_complete_and_has_no_dead_control(browser: Browser, html: str) -> None:
    saved = SavedPage(browser, html, java_script_enabled=False)
    for words in ("Begin at the Gulbenkian", "Radix tree", "Timeline", "from earlier runs", "Trust Notebook"):
        expect(saved.page.get_by_text(words).first).to_be_visible()
    assert saved.page.get_by_role("slider").count() + saved.page.get_by_role("button").count() == 0
    saved.context.close()


def test_two_cells_of_a_page_play_independently(browser: Browser, html: str) -> None:
    saved = SavedPage(browser, html + html, viewport={"width": 1000, "height": 2000})
    expect(saved.page.get_by_role("tree")).to_have_count(2)
    sliders = time(saved)
    sliders.first.focus()
    saved.page.keyboard.press("Home")
    expect(sliders.first).to_have_attribute("aria-valuetext", "0 ms of 469 ms")
    expect(sliders.last).to_have_attribute("aria-valuetext", "469 ms of 469 ms")
    assert saved.errors == []
    saved.context.close()


def test_with_missing_moments_the_slider_shows_the_others_and_stops_at_them(browser: Browser) -> None:
    stage = Stage(40_000)
    fork = stage.open()
    for turn in range(4):
        stage.say(fork, " ".join(f"w{turn}x{n * 7919 % 10_007}" for n in range(1_200)))
        stage.gen((fork, "answer", " ".join(f"a{turn}y{n * 7907 % 10_009}" for n in range(300))), alternatives=5)
    saved = SavedPage(
        browser, Folded(record_of(stage), stage.spell).bundle(VIEWS, "smollm2")["text/html"], viewport={"width": 1280, "height": 900}
    )
    expect(saved.page.locator(".sgl-less")).to_contain_text(re.compile(r"^\d+ of [\d,]+ moments kept, without alternatives"))
    marks = saved.page.locator(".sgl-moments i").count()
    assert marks == int(re.findall(r"\d+", saved.page.locator(".sgl-less").inner_text())[0])
    time(saved).focus()
    saved.page.keyboard.press("PageDown")
    at = float(time(saved).input_value())
    lefts = saved.page.locator(".sgl-moments i").evaluate_all("(all) => all.map((one) => parseFloat(one.style.left))")
    length = float(time(saved).get_attribute("max") or 0)
    assert any(abs(at - length * left / 100) < 2 for left in lefts)
    saved.context.close()


def test_hostile_words_stay_words_when_they_are_played(browser: Browser) -> None:
    evil = "<img src=x onerror=window.__xss=1><script>window.__xss=2</script>"
    stage = Stage(4_000)
    main = stage.open(label=evil)
    stage.say(main, "some words", evil)
    fork = stage.open(main, 0, evil)
    stage.gen((fork, evil, "and an answer"))
    html = Folded(record_of(stage), lambda token: evil).bundle(VIEWS, evil)["text/html"]
    saved = SavedPage(browser, html)
    expect(saved.page.get_by_role("tree")).to_be_visible()
    saved.page.locator(".sgl-node").last.click()
    saved.page.locator(".sgl-text .t").first.hover()
    expect(saved.page.locator(".sgl-card")).to_contain_text("onerror")
    expect(saved.page.locator(".sgl-node-text")).to_contain_text("onerror")
    assert saved.page.locator(".sgl-live :is(img, script)").count() == 0
    assert saved.page.evaluate("() => window.__xss") is None
    assert (saved.errors, saved.requests) == ([], [])
    saved.context.close()
