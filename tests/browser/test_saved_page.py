"""A frozen cell in a bare page: the player over its pictures, and what stays where no script runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from sgl_lab.magics.show import Folded
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
    """A page that asks nobody for anything and complains of nothing."""
    saved = SavedPage(browser, html)
    expect(saved.page.get_by_role("button", name="Explore")).to_be_visible()
    yield saved
    saved.context.close()
    assert saved.errors == []
    assert saved.requests == []


def time(saved: SavedPage) -> Locator:
    return saved.page.get_by_role("slider", name="Moment of the run")


def n_tokens(saved: SavedPage) -> int:
    saved.painted()
    return saved.page.locator(".sgl-text .t").count()


def test_the_pictures_stand_until_the_player_is_touched_and_again_after_it_was_closed(saved: SavedPage) -> None:
    picture = saved.page.get_by_role("img", name="Radix tree")
    expect(picture).to_be_visible()
    assert saved.page.get_by_role("tree").count() == 0
    saved.page.get_by_role("button", name="Explore").click()
    expect(saved.page.get_by_role("tree")).to_be_visible()
    expect(picture).to_be_hidden()
    saved.page.get_by_role("button", name="Close").last.click()
    expect(picture).to_be_visible()
    assert saved.page.get_by_role("tree").count() == 0


def test_a_picture_that_is_clicked_opens_the_views(saved: SavedPage) -> None:
    saved.page.get_by_role("img", name="Timeline").click()
    expect(saved.page.get_by_role("tree")).to_be_visible()


def test_the_end_of_the_recording_is_what_the_pictures_show(saved: SavedPage) -> None:
    stage = story()
    folded = Folded(record_of(stage), stage.spell)
    saved.page.get_by_role("button", name="Explore").click()
    counts = folded.counts()
    expect(saved.page.locator(".sgl-tally")).to_have_text(f"{counts['nodes']} nodes")
    expect(saved.page.locator(".sgl-m-cached .sgl-value")).to_have_text(str(counts["cached"]))
    expect(saved.page.locator(".sgl-m-generated .sgl-value")).to_have_text(str(counts["generated"]))
    assert n_tokens(saved) == sum(len(op["toks"]) for op in folded.tokens.full()["ops"])


def test_keys_walk_through_the_moments_and_back_to_the_same(saved: SavedPage) -> None:
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


def test_back_at_the_beginning_no_node_is_left_of_what_came_later(browser: Browser) -> None:
    stage = Stage(4_000)
    main = stage.open(label="main")
    stage.say(main, "some words")
    stage.gen((main, "answer", "and an answer"))
    saved = SavedPage(browser, Folded(record_of(stage), stage.spell).bundle(VIEWS, "smollm2")["text/html"])
    saved.page.get_by_role("button", name="Explore").click()
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
    saved.page.get_by_role("button", name="Play the run again").click()
    expect(time(saved)).to_have_attribute("aria-valuetext", "469 ms of 469 ms")
    expect(saved.page.get_by_role("button", name="Play the run again")).to_be_visible()
    assert before < n_tokens(saved)


def test_a_saved_page_without_scripts_has_the_pictures_and_no_dead_control(browser: Browser, html: str) -> None:
    saved = SavedPage(browser, html, java_script_enabled=False)
    expect(saved.page.get_by_role("img", name="Radix tree")).to_be_visible()
    expect(saved.page.get_by_text("Begin at the Gulbenkian").first).to_be_visible()
    assert saved.page.get_by_role("slider").count() + saved.page.get_by_role("button").count() == 0
    saved.context.close()


def test_two_cells_of_a_page_play_alone(browser: Browser, html: str) -> None:
    saved = SavedPage(browser, html + html)
    doors = saved.page.get_by_role("button", name="Explore")
    expect(doors).to_have_count(2)
    doors.first.click()
    expect(saved.page.get_by_role("tree")).to_have_count(1)
    expect(saved.page.get_by_role("img", name="Radix tree")).to_be_visible()
    assert saved.errors == []
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
    saved.page.get_by_role("button", name="Explore").click()
    saved.page.locator(".sgl-node").last.click()
    saved.page.locator(".sgl-text .t").first.hover()
    expect(saved.page.locator(".sgl-card")).to_contain_text("onerror")
    expect(saved.page.locator(".sgl-node-text")).to_contain_text("onerror")
    assert saved.page.locator(".sgl-live :is(img, script)").count() == 0
    assert saved.page.evaluate("() => window.__xss") is None
    assert (saved.errors, saved.requests) == ([], [])
    saved.context.close()
