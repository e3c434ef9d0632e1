"""One cursor for tokens, nodes and bars; channels, temperature, search, folding; visibility."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from sgl_lab.contracts.events import ExprFinished, NodeEvicted
from sgl_lab.contracts.ids import ExprId, RunId
from sgl_lab.viz.draw import still
from sgl_lab.viz.sender import Message, Sender, Views
from sgl_lab.viz.views import views_of
from tests.browser.bare import WidgetPage, deltas, full
from tests.pure.story import Stage, poll, story
from tests.pure.test_viz_views import snapshot_at

HEAD = {"id": 1, "parent": None, "label": "root", "n": 0, "refs": 0, "hits": 0, "used": 0, "state": "root", "fresh": False, "by": []}


@pytest.fixture
def page(browser: Browser) -> Iterator[WidgetPage]:
    page = WidgetPage(browser, reduced_motion="reduce")
    page.open(vocab=49_152, evict="lru")
    yield page
    page.context.close()
    assert page.errors == []
    assert page.requests == []


def linked(page: WidgetPage) -> dict[str, list[str]]:
    """The marked items: tokens, labels of nodes, kinds of bars."""
    page.painted()
    page.painted()
    found: dict[str, list[str]] = page.page.evaluate(
        """() => ({
          tokens: [...document.querySelectorAll('.t.sgl-linked')].map((span) => span.textContent),
          nodes: [...document.querySelectorAll('.sgl-node.sgl-linked .sgl-node-label')].map((label) => label.textContent),
          bars: [...document.querySelectorAll('.sgl-span.sgl-linked')].map((bar) => bar.classList[1]),
        })"""
    )
    return found


def tokens_message(*toks: list[Any]) -> dict[str, Any]:
    fork = {"fork": 1, "parent": None, "index": 0, "label": "", "run": 1, "base": 0}
    return {"seq": 0, "kind": "full", "tokens": {"forks": [fork], "ops": [{"fork": 1, "start": 0, "toks": list(toks)}]}}


# ---------------------------------------------------------------- one cursor


def test_a_token_marks_its_node_and_the_bar_that_computed_it(page: WidgetPage) -> None:
    page.receive(full(story()))
    page.page.locator(".sgl-fork .t.generated", has_text="tasca").hover()
    marked = linked(page)
    assert marked["tokens"] == [" tasca"]
    assert [label.startswith("Walk") for label in marked["nodes"]] == [True]
    assert marked["bars"] == ["decode"]


def test_a_token_that_was_found_again_marks_every_bar_that_found_it(page: WidgetPage) -> None:
    page.receive(full(story()))
    page.page.locator(".sgl-text .t", has_text="Gulbenkian").hover()
    bars = linked(page)["bars"]
    assert bars.count("decode") == 1
    assert bars.count("reused") >= 4


def test_a_node_marks_its_tokens_and_a_bar_its_nodes(page: WidgetPage) -> None:
    page.receive(full(story()))
    page.page.locator(".sgl-node", has_text="Stay with").click()
    page.page.mouse.move(1, 1)
    marked = linked(page)
    assert "".join(marked["tokens"]) == "Stay with the tiles: the Azulejo museum is quiet,\ndry and blue"
    page.page.locator(".sgl-bars .sgl-span.decode").first.click()
    page.page.mouse.move(1, 1)
    marked = linked(page)
    assert "".join(marked["tokens"]).startswith("Begin at the Gulbenkian")
    assert len(marked["nodes"]) >= 1
    page.page.locator(".sgl-plot").focus()
    page.page.keyboard.press("Escape")
    assert linked(page) == {"tokens": [], "nodes": [], "bars": []}


def test_an_item_chosen_in_one_view_becomes_visible_in_the_others(page: WidgetPage) -> None:
    page.receive(full(story()))
    page.page.locator(".sgl-fork .t.generated", has_text="dusk").click()
    expect(page.page.locator(".sgl-node.sgl-linked")).to_be_in_viewport()
    page.page.locator(".sgl-text").evaluate("(box) => (box.scrollTop = box.scrollHeight)")
    page.page.get_by_label("Find nodes").fill("You are a travel writer")
    expect(page.page.locator(".t.sgl-linked", has_text="travel")).to_be_in_viewport()


def test_marks_follow_a_running_program(page: WidgetPage) -> None:
    messages = [message for _, message in deltas(story())]
    page.receive(*messages[: len(messages) // 2])
    page.page.locator(".sgl-text .t", has_text="travel").click()
    page.page.mouse.move(1, 1)
    page.receive(*messages[len(messages) // 2 :])
    assert linked(page)["tokens"] == [" travel"]


# ---------------------------------------------------------------- the tree


def test_a_node_shows_its_text_its_requests_and_its_eviction(page: WidgetPage) -> None:
    page.receive(full(story()))
    page.page.locator(".sgl-node", has_text="Stay with").click()
    details = page.page.locator(".sgl-details")
    expect(details).to_contain_text("Azulejo")
    expect(details).to_contain_text("rain · tip")
    expect(details).to_contain_text("of 17 (LRU)")
    details.get_by_role("button", name="rain · tip").click()
    expect(page.page.locator(".sgl-span.sgl-linked")).to_have_count(1)


def test_the_order_of_eviction_is_that_of_the_cache(page: WidgetPage) -> None:
    stage = Stage(400)
    for words in ("one two three", "one two four", "five six", "one two three seven"):
        fork = stage.open()
        stage.say(fork, words)
        stage.warm(fork)
    page.receive(full(stage))
    ranks: dict[int, int] = {}
    for node in [node for node in stage.tree if node != stage.root]:
        page.page.locator(f".sgl-node[id$='-n{node}']").click()
        ranks[node] = int(re.findall(r"(\d+)(?:st|nd|rd|th) of \d+", page.page.locator(".sgl-details dl").inner_text())[0])
    stage.evict(sum(len(leaf.tokens) for leaf in stage.tree.values()))
    gone = [entry.event.node for entry in stage.entries if isinstance(entry.event, NodeEvicted)]
    assert len(gone) == 5
    assert sorted(ranks, key=ranks.__getitem__) == gone


def test_nodes_are_found_by_text_and_by_token_id_one_after_the_other(page: WidgetPage) -> None:
    stage = story()
    page.receive(full(stage))
    find = page.page.get_by_label("Find nodes")
    find.fill("Gulbenkian")
    hits = page.page.locator(".sgl-hits")
    expect(hits).to_contain_text("1 of 1")
    find.fill("the")
    expect(hits).to_contain_text("1 of ")
    first = page.page.locator(".sgl-details").inner_text()
    find.press("Enter")
    expect(hits).to_contain_text("2 of ")
    assert page.page.locator(".sgl-details").inner_text() != first
    find.press("Shift+Enter")
    assert page.page.locator(".sgl-details").inner_text() == first
    find.fill(f"#{stage.encode(' tasca')[0]}")
    expect(hits).to_contain_text("1 of 1")
    expect(page.page.locator(".sgl-details")).to_contain_text("tasca")
    find.fill("nowhere to be found")
    expect(hits).to_contain_text("none")


# ---------------------------------------------------------------- tokens


def test_a_character_of_several_tokens_is_shown_as_one_as_soon_as_it_is_whole(page: WidgetPage) -> None:
    def tok(text: str) -> list[Any]:
        return [text, "generated", -0.5, "", None, 7, {"t": 1.0, "ms": 1.0}]

    page.receive(tokens_message(tok("Hi "), tok("\\xf0\\x9f")))
    page.shows(".sgl-text .t", ["Hi ", "\\xf0\\x9f"])
    page.receive(
        {"seq": 1, "kind": "delta", "tokens": {"forks": [], "ops": [{"fork": 1, "start": 2, "toks": [tok("\\x8c\\x88"), tok("!")]}]}}
    )
    page.shows(".sgl-text .t", ["Hi ", "🌈", "", "!"])
    page.page.locator(".sgl-text .t", has_text="🌈").hover()
    expect(page.page.get_by_role("tooltip")).to_contain_text("one character in 2 tokens")
    page.receive(tokens_message(tok("\\xff"), tok("x")))
    page.shows(".sgl-text .t", ["\\xff", "x"])


def test_a_block_is_one_chip_whatever_becomes_of_its_positions(page: WidgetPage) -> None:
    def block(state: str, n: int, title: str = "c0ffee", first: int = -(1 << 40)) -> list[list[Any]]:
        chip = [f"▣ image {n} positions", state, None, "user", None, first, {"block": title}]
        return [chip, *(["", state, None, "user", None, first - offset, None] for offset in range(1, n))]

    def later(seq: int, start: int, *toks: list[Any]) -> None:
        page.receive({"seq": seq, "kind": "delta", "tokens": {"forks": [], "ops": [{"fork": 1, "start": start, "toks": list(toks)}]}})

    def words(page: WidgetPage) -> list[str]:
        return page.texts(".sgl-text .t")

    before, after = ["see ", "text", None, "user", None, 5, None], [" now", "text", None, "user", None, 6, None]
    page.receive(tokens_message(before, *block("text", 500), after))
    chips = page.page.locator(".sgl-text .t.sgl-block")
    page.comes_to_show(words, ["see ", "▣ image 500 positions", " now"])
    assert chips.get_attribute("title") == "c0ffee"
    assert page.page.locator(".sgl-long").count() == 0, "it is one thing to read, however many positions it has"
    later(1, 3, *block("cached", 500)[2:], after)
    later(2, 1, *block("computed", 500), after)
    page.comes_to_show(words, ["see ", "▣ image 500 positions", " now"])
    page.comes_to_show(lambda page: "computed" in (page.page.locator(".sgl-text .t.sgl-block").get_attribute("class") or ""), True)
    chips.hover()
    expect(page.page.get_by_role("tooltip")).to_contain_text("digest c0ffee")
    later(3, 1, *block("computed", 4, "d0d0ca", -(1 << 41)), before)
    page.comes_to_show(words, ["see ", "▣ image 4 positions", "see "])
    assert chips.get_attribute("title") == "d0d0ca"
    later(4, 0, after)
    page.comes_to_show(words, [" now"])


def test_two_channels_show_two_properties_and_the_legend_names_them(page: WidgetPage) -> None:
    sure, unsure = -0.01, -3.0
    page.receive(
        tokens_message(
            ["a", "generated", sure, "", None, 1, {"t": 5.0, "ms": 5.0}],
            ["b", "forced", unsure, "", None, 2, {"t": 400.0, "ms": 395.0, "allowed": 1}],
            ["c", "generated", unsure, "", None, 3, {"t": 420.0, "ms": 20.0, "allowed": 12}],
            ["d", "cached", None, "", None, 4, None],
        )
    )
    looks = {}
    for channel in ("type", "probability", "latency", "origin", "forced", "none"):
        page.page.get_by_label("What colour tells").select_option(channel)
        page.page.get_by_label("What the line below tells").select_option("none")
        looks[channel] = page.page.locator(".sgl-text .t").evaluate_all(
            "all => all.map((t) => [...t.classList].find((c) => c.startsWith('bg-')) ?? '')"
        )
    assert looks == {
        "type": ["bg-generated", "bg-forced", "bg-generated", "bg-cached"],
        "probability": ["bg-s1", "bg-s4", "bg-s4", ""],
        "latency": ["bg-s1", "bg-s4", "bg-s2", ""],
        "origin": ["", "", "", "bg-cached"],
        "forced": ["", "bg-forced", "bg-masked", ""],
        "none": ["", "", "", ""],
    }
    page.page.get_by_label("What colour tells").select_option("probability")
    page.page.get_by_label("What the line below tells").select_option("latency")
    assert len(page.texts(".sgl-tokens .sgl-key")) == 8
    assert page.page.locator(".sgl-text .t").nth(1).evaluate("(t) => t.className") == "t forced bg-s4 ul-s4"


def test_a_token_shows_its_alternatives_under_the_constraint_and_its_origin(page: WidgetPage) -> None:
    page.receive(tokens_message(["a", "generated", -0.5, "", None, 9, {"t": 1240.0, "ms": 7.1, "allowed": 12, "drafted": True}]))
    page.page.locator(".sgl-text .t").hover()
    card = page.page.get_by_role("tooltip")
    for words in ("12 of 49,152 tokens allowed", "at 1.24 s", "7.1 ms after", "drafted and accepted", "id 9"):
        expect(card).to_contain_text(words)


def test_another_temperature_is_computed_from_what_was_recorded(page: WidgetPage) -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.1}
    page.receive(
        tokens_message(["b", "generated", math.log(0.3), "", [[word, math.log(share)] for word, share in shares.items()], 1, None])
    )
    page.page.get_by_label("Probabilities at another temperature").fill("0.5")
    page.page.locator(".sgl-text .t").hover()
    weights = [share**2 for share in (0.5, 0.3, 0.1)] + [0.1**2]  # what is left weighs as one more token like the last
    expected = [f"{100 * weight / sum(weights):.1f}" for weight in weights]
    shown = [text.replace("\u2009%", "") for text in page.texts(".sgl-card .sgl-alt .sgl-num")]
    assert shown == expected
    expect(page.page.locator(".sgl-tokens .sgl-note")).to_contain_text("approximation")
    page.page.get_by_role("button", name="Reset").click()
    expect(page.page.locator(".sgl-tokens .sgl-note")).to_be_hidden()


@pytest.mark.parametrize("n_forks", [3, 24])
def test_forks_that_grow_stay_in_sight(page: WidgetPage, n_forks: int) -> None:
    stage = Stage(20_000)
    main = stage.open()
    stage.say(main, "Some words to begin with. " * 60)
    forks = [stage.open(main, index, f"fork {index}") for index in range(n_forks)]
    for fork in forks:
        stage.say(fork, f" part {fork}")
    stage.gen(*[(fork, "x", f" number {fork} goes on for some time and says a little more") for fork in forks])
    for _, message in [*deltas(stage)]:
        page.receive(message)
    expect(page.page.locator(".sgl-fork").first).to_be_in_viewport()


# ---------------------------------------------------------------- the timeline


def test_lanes_fold_and_count_the_hidden_ones(page: WidgetPage) -> None:
    page.receive(full(story()))
    fold = page.page.get_by_role("button", name="main, 3 lanes below")
    fold.focus()
    page.page.keyboard.press("Enter")
    expect(page.page.locator(".sgl-name")).to_have_count(2)
    expect(fold).to_have_attribute("aria-expanded", "false")
    expect(fold).to_be_focused()
    assert page.page.locator(".sgl-span.decode:visible").count() == 2  # the key's and one bar
    page.page.keyboard.press("Enter")
    expect(page.page.locator(".sgl-name")).to_have_count(5)


def test_drafted_and_forced_tokens_differ_from_decoded_ones(page: WidgetPage) -> None:
    lanes = [{"lane": "f1", "parent": None, "label": "main", "kind": "fork"}]
    bar = {"id": 0, "lane": "f1", "kind": "decode", "t0": 0, "t1": 900, "n": 9, "name": "a", "request": 1, "at": 3, "wrong": 0}
    bars = [bar, {**bar, "id": 1, "kind": "drafted", "n": 3, "wrong": 1}, {**bar, "id": 2, "kind": "forced", "n": 2}]
    page.receive({"seq": 0, "kind": "full", "lanes": {"lanes": lanes, "bars": bars, "now": 900}})
    page.shows(
        ".sgl-timeline .sgl-key:not([hidden])",
        [
            "generated · decode",
            "forced",
            "drafted",
            "rejected drafts",
        ],
    )
    widths = page.page.locator(".sgl-span.drafted rect").evaluate_all("all => all.map((rect) => Number(rect.getAttribute('width')))")
    assert widths[-1] == pytest.approx(widths[-2] / 4, abs=0.2)
    page.page.locator(".sgl-bars .sgl-span.drafted").hover()
    expect(page.page.get_by_role("tooltip")).to_contain_text("3 of 4 draft tokens accepted")


# ---------------------------------------------------------------- counts, and this run's own tree


def test_a_count_lights_up_its_tokens_nodes_and_bars_until_it_is_pressed_again(page: WidgetPage) -> None:
    page.receive(full(story()))
    kinds = {"found": {"found"}, "reused": {"reused"}, "computed": {"prefill", "score"}, "generated": {"decode"}}
    for name, state in (("found", "cached"), ("reused", None), ("computed", "computed"), ("generated", "generated")):
        button = page.page.locator(f"button.sgl-m-{name}")
        button.click()
        page.page.mouse.move(1, 1)
        marked = linked(page)
        expect(button).to_have_attribute("aria-pressed", "true")
        states = set(page.page.locator(".t.sgl-linked").evaluate_all("all => all.map((span) => span.classList[1])"))
        assert states == {state} if state else {"cached", "computed", "generated"} <= states
        assert set(marked["bars"]) == kinds[name]
        assert marked["nodes"]
        button.click()
        assert linked(page) == {"tokens": [], "nodes": [], "bars": []}


def crowd(n_old: int, n_forks: int) -> tuple[Stage, int]:
    """A run of several forks on a cache that earlier runs have filled, and the number of its first event."""
    stage = Stage(20_000)
    for number in range(n_old):
        old = stage.open()
        stage.say(old, f"An old prompt number {number}")
        stage.gen((old, "x", f" with an answer {number}"))
    stage.run, first = RunId(2), len(stage.entries)
    main = stage.open(label="main")
    stage.say(main, "Some words to begin with")
    stage.gen((main, "a", " and an answer"))
    forks = [stage.open(main, number, f"fork {number}") for number in range(n_forks)]
    for fork in forks:
        stage.say(fork, f" part {fork}")
    stage.gen(*[(fork, "b", f" number {fork} goes on for some time and says a little more") for fork in forks])
    return stage, first


def test_the_tree_opens_on_this_run_and_other_nodes_are_one_row_that_opens(page: WidgetPage) -> None:
    stage, first = crowd(40, 3)
    page.receive(full_since(stage, first))
    n_old = len(stage.tree) - 1 - page.page.locator(".sgl-node:not(.root, .others)").count()
    row = page.page.locator(".sgl-node.others")
    expect(row).to_contain_text(f"+ {n_old} other nodes")
    assert n_old >= 80 - 3
    row.click()
    expect(row).to_contain_text(f"− {n_old} other nodes")
    page.page.get_by_label("Find nodes").fill("An old prompt number")
    expect(page.page.locator(".sgl-hits")).to_contain_text("of ")
    expect(page.page.locator(".sgl-node.sgl-other").first).to_be_attached()


@pytest.mark.parametrize("width", [700, 1280])
def test_every_leaf_that_grows_is_in_sight_also_of_eight_and_on_an_old_sessions_tree(browser: Browser, width: int) -> None:
    stage, first = crowd(40, 8)
    page = WidgetPage(browser, reduced_motion="reduce", viewport={"width": width, "height": 900})
    page.open()
    sender = since(stage, first)
    seen = 0
    for entry in stage.entries[first:]:
        sender.fold([entry])
        for message in poll(sender, entry.t_ns):
            page.receive(message)
        n_in, n_all = page.page.evaluate(
            """() => {
              const home = document.querySelector('.sgl-stage').getBoundingClientRect();
              const inside = ({ left, right, top, bottom }) =>
                left >= home.left - 1 && right <= home.right + 1 && top >= home.top - 1 && bottom <= home.bottom + 1;
              const leaves = [...document.querySelectorAll('.sgl-node.tail')].map((node) => node.getBoundingClientRect());
              return [leaves.filter(inside).length, leaves.length];
            }"""
        )
        assert n_in == n_all
        seen = max(seen, n_all)
    assert seen == 8
    page.context.close()


def test_eight_forks_fit_into_nine_hundred_pixels_and_nothing_moves_when_the_run_ends(browser: Browser) -> None:
    stage, first = crowd(40, 8)
    page = WidgetPage(browser, reduced_motion="reduce")
    page.open()
    sender = since(stage, first)
    sender.status("running", "", None)
    sender.fold(stage.entries[first : (first + 9 * len(stage.entries)) // 10])
    page.receive(*poll(sender, 0, flush=True))
    page.painted()
    live = page.page.locator(".sgl-live").bounding_box() or {}
    columns = page.page.locator(".sgl-forks").evaluate("(grid) => getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    assert (live["height"] <= 900, columns) == (True, 4)
    sender.fold(stage.entries[(first + 9 * len(stage.entries)) // 10 :])
    sender.status("done", "", None)
    page.receive(*poll(sender, 1, flush=True))
    page.painted()
    ended = page.page.locator(".sgl-live").bounding_box() or {}
    assert abs(ended["height"] - live["height"]) <= 0.1 * live["height"]
    page.context.close()


def test_a_failed_fork_is_marked_and_its_message_is_on_top(page: WidgetPage) -> None:
    stage, first = crowd(2, 3)
    fork = max(stage.streams)
    stage.emit(ExprFinished(fork, ExprId(99), "error", "no room"))
    sender = since(stage, first)
    sender.fold(stage.entries[first:])
    sender.status("error", "CacheFull: no room", None)
    page.receive(*poll(sender, 0, flush=True))
    expect(page.page.locator(".sgl-alarm")).to_contain_text("CacheFull: no room")
    expect(page.page.locator(".sgl-fork.sgl-failed")).to_have_count(1)
    expect(page.page.locator(".sgl-fork.sgl-failed .sgl-broken")).to_have_text("✕ failed here")


def since(stage: Stage, first: int) -> Sender:
    """Messages for a page of a run that begins with event number `first`."""
    sender = Sender(Views(*views_of(stage.run, stage.spell)))
    sender.load(snapshot_at(stage, first))
    return sender


def full_since(stage: Stage, first: int) -> Message:
    sender = since(stage, first)
    sender.fold(stage.entries[first:])
    sender.hello()
    (message,) = poll(sender, 0, flush=True)
    found: Message = json.loads(json.dumps(message))
    return found


def test_the_names_of_forks_of_forks_fit_on_one_line_without_overlap(browser: Browser) -> None:
    stage = Stage(20_000)
    main = stage.open(label="s")
    stage.say(main, "Some words to begin with")
    stage.gen((main, "a", " and an answer"))
    for number in range(3):
        outer = stage.open(main, number, f"s[{number}]")
        stage.gen((outer, "b", f" plan {number} goes on for some time"))
        for each in range(2):
            inner = stage.open(outer, each, f"s[{number}][{each}]")
            stage.say(inner, " rate it")
            stage.gen((inner, "c", " good"))
    page = WidgetPage(browser, viewport={"width": 830, "height": 900})
    page.open()
    page.receive(full_since(stage, 0))
    heads = page.page.locator(".sgl-fork .sgl-fork .sgl-fork-head")
    found = heads.evaluate_all("(all) => all.map((head) => [head.scrollHeight - head.clientHeight, head.offsetWidth >= 170])")
    assert found == [[0, True]] * 6
    page.context.close()


def test_the_templates_own_system_prompt_is_not_part_of_the_users_turn(browser: Browser) -> None:
    stage = Stage(20_000)
    main = stage.open(label="s")
    stage.say(main, "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\n")
    stage.say(main, "Hi", "user")
    stage.say(main, "<|im_end|>\n<|im_start|>assistant\n")
    stage.gen((main, "a", "Hello"))
    page = WidgetPage(browser)
    page.open()
    page.receive(message := full_since(stage, 0))
    shown = page.page.locator(".sgl-turn").evaluate_all("(all) => all.map((turn) => [...turn.children].map((part) => part.textContent))")
    turns = [
        ["", "<|im_start|>system\nBe kind<|im_end|>\n"],
        ["user", "<|im_start|>user\nHi<|im_end|>\n"],
        ["assistant", "<|im_start|>assistant\nHello"],
    ]
    assert [[role, text.replace("↵", "\n")] for role, text in shown] == turns
    toks = [tok for op in message["tokens"]["ops"] for tok in op["toks"]]
    assert [[role, "".join(tok[0] for tok in spoken)] for role, spoken in still.turns(toks)] == turns
    page.context.close()
