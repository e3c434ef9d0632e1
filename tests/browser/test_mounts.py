"""A panel in a bare page: views in plain outputs, added at any time; the queue of a dashboard;
controls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from sgl_lab.magics.options import parse_cell
from tests.browser.bare import WidgetPage

NAME = "0123456789abcdef"
OUTPUT = f"""(where) => {{
  const place = document.createElement('div');
  place.dataset.sglPlace = '{NAME}';
  place.innerHTML = '<p>the pictures</p>';
  document.getElementById(where).append(place);
}}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[WidgetPage]:
    page = WidgetPage(browser, reduced_motion="reduce")
    yield page
    page.context.close()
    assert page.errors == []
    assert page.requests == []


def begin(page: WidgetPage, **options: Any) -> None:
    """The widget's model comes to the page; no view of it is shown."""
    page.page.evaluate(
        """async (options) => {
          model.traits.options = options;
          window.ended = (await import('/live.js')).default().initialize({ model });
        }""",
        {"title": "board", "place": NAME, **options},
    )


def metrics(running: int, waiting: int) -> dict[str, Any]:
    names = ("cached", "found", "reused", "computed", "generated", "forced", "evicted", "n_pages", "free_pages", "forks", "steps")
    return dict.fromkeys(names, 7) | {"tok_s": 1.0, "hit_rate": 0.5, "running": running, "waiting": waiting}


def lane(n: int) -> dict[str, Any]:
    return {"lane": f"r{n}", "parent": None, "label": f"In[{n}]", "kind": "request"}


def bar(n: int) -> dict[str, Any]:
    rest = {"n": 3, "name": "a", "request": n, "at": None, "wrong": 0}
    return {"id": n, "lane": f"r{n}", "kind": "decode", "t0": 1000.0 * n, "t1": 1000.0 * n + 500, **rest}


def tree_message(seq: int, *numbers: int, gone: tuple[int, ...] = (), running: int = 1, queue: tuple[str, ...] = ()) -> dict[str, Any]:
    lanes = {"lanes": [lane(n) for n in numbers], "bars": [bar(n) for n in numbers], "gone": [f"r{n}" for n in gone]}
    lanes |= {"now": 1000.0 * max(numbers) + 500, "since": 1000.0 * min(numbers), "queue": list(queue)}
    return {"seq": seq, "kind": "delta", "lanes": lanes, "metrics": metrics(running, len(queue))}


def test_every_output_of_the_name_shows_a_view_also_one_added_later(page: WidgetPage) -> None:
    page.page.evaluate(OUTPUT, "cell")
    begin(page, dashboard=True)
    expect(page.page.locator(".sgl-live")).to_have_count(1)
    assert page.page.get_by_text("the pictures").count() == 0
    page.page.evaluate(OUTPUT, "cell")
    expect(page.page.locator(".sgl-live")).to_have_count(2)
    page.receive(tree_message(0, 1, 2))
    page.shows(".sgl-name span", ["In[2]", "In[1]"] * 2)
    page.page.evaluate("() => document.querySelector('[data-sgl-place]').remove()")
    expect(page.page.locator(".sgl-live")).to_have_count(1)
    page.page.evaluate("() => ended()")
    page.shows("[data-sgl-place]", ["the pictures"])


@pytest.mark.parametrize(("options", "again"), [({"dashboard": True}, "%sgl dashboard"), ({}, "the cell")])
def test_without_the_kernel_the_pictures_are_back_and_say_how_to_continue(page: WidgetPage, options: dict[str, Any], again: str) -> None:
    for _ in range(2):
        page.page.evaluate(OUTPUT, "cell")
    begin(page, **options)
    expect(page.page.locator(".sgl-live")).to_have_count(2)
    page.page.evaluate("() => model.listeners['comm_live_update'].forEach((listen) => listen())")
    expect(page.page.locator(".sgl-live")).to_have_count(0)
    assert page.page.get_by_text("the pictures").count() == 2
    assert [f"Run {again} again" in text for text in page.texts(".sgl-lost")] == [True, True]


def test_a_redrawn_output_takes_over_its_view_with_the_focus(page: WidgetPage) -> None:
    page.page.evaluate(OUTPUT, "cell")
    begin(page, controls=[control.described(0) for control in parse_cell("--interact x=1..5").interact])
    slider = page.page.get_by_role("slider", name="x", exact=True)
    slider.focus()
    page.page.keyboard.press("ArrowRight")
    redrawn = "window.kept = document.querySelector('.sgl-live'); document.querySelector('[data-sgl-place]').remove();"
    page.page.evaluate(f"(id) => {{ {redrawn} ({OUTPUT})(id); }}", "cell")  # in one task, as JupyterLab does
    expect(page.page.locator(".sgl-live")).to_have_count(1)
    assert page.page.evaluate("() => kept === document.querySelector('.sgl-live')")
    expect(slider).to_be_focused()
    page.shows(".sgl-dial output", ["2"])


def test_lanes_that_are_gone_leave_the_page(page: WidgetPage) -> None:
    page.page.evaluate(OUTPUT, "cell")
    begin(page, dashboard=True)
    page.receive(tree_message(0, *range(1, 9)))
    page.receive(tree_message(1, 9, gone=tuple(range(1, 6))))
    page.shows(".sgl-name span", [f"In[{n}]" for n in (9, 8, 7, 6)])
    assert page.page.locator(".sgl-bars .sgl-span").count() <= 4


def test_a_dashboard_lists_waiting_requests_and_is_idle_without_any(page: WidgetPage) -> None:
    page.page.evaluate(OUTPUT, "cell")
    begin(page, dashboard=True)
    page.receive(tree_message(0, 1, queue=("<b>In[1]</b>", "two", "three", "four", "five", "six")))
    page.shows(".sgl-queue span", ["<b>In[1]</b>, two, three, four, and 2 others"])
    page.shows(".sgl-phase", ["running · 1 request, 6 waiting"])
    assert page.page.get_by_role("button", name="Tokens").count() == 0
    page.receive(tree_message(1, 1, running=0))
    page.shows(".sgl-queue span", ["no requests"])
    page.shows(".sgl-phase", ["idle"])


def test_a_moved_control_is_sent_once_after_a_pause(page: WidgetPage) -> None:
    page.page.evaluate(OUTPUT, "cell")
    line = """--interact x=1..5 style=["<b>", "long"] temperature=0..1:0.5"""
    begin(page, controls=[control.described(0) for control in parse_cell(line).interact])
    page.page.get_by_role("slider", name="x", exact=True).focus()
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowLeft"):
        page.page.keyboard.press(key)
    page.page.get_by_role("combobox", name="style").select_option(index=1)
    page.page.get_by_role("slider", name="--temperature", exact=True).press("End")
    expect(page.page.locator(".sgl-dial output").last).to_have_text("1.0")
    values = {"x": 3, "style": 1, "temperature": 2}
    page.comes_to_show(lambda page: sets(page)[-1:], [values])  # a slow machine pauses between keys by itself
    n_before = len(sets(page))
    page.page.get_by_role("slider", name="x", exact=True).evaluate(
        "(slider) => [0, 1, 2, 1, 4].forEach((at) => { slider.value = at; slider.dispatchEvent(new Event('input')); })"
    )
    page.comes_to_show(lambda page: sets(page)[n_before:], [values | {"x": 4}])
    page.page.wait_for_timeout(500)
    assert sets(page)[n_before:] == [values | {"x": 4}]
    page.shows(".sgl-dial output", ["5", "1.0"])


def sets(page: WidgetPage) -> list[dict[str, int]]:
    return [message["values"] for message in page.sent() if message["kind"] == "set"]
