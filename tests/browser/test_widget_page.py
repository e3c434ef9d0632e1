"""The live widget in a bare page: its display of a run, and its reaction to input and to a silent
kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from sgl_lab.contracts.events import (
    Entry,
    Event,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    GraphNode,
    GraphStarted,
    NodesEntered,
    StreamExtended,
)
from sgl_lab.contracts.ids import ExprId, ForkId
from sgl_lab.viz.sender import Message
from tests.browser.bare import WidgetPage, deltas, full, new_sender
from tests.pure.story import Stage, poll, story

CALM: dict[str, Any] = {"reduced_motion": "reduce"}
JUPYTER = {"baseUrl": "/user/ada/", "token": "secret"}


@pytest.fixture
def page(browser: Browser) -> Iterator[WidgetPage]:
    """A page without requests and without errors."""
    page = WidgetPage(browser, **CALM)
    yield page
    page.context.close()
    assert page.errors == []
    assert page.requests == []


def streams(page: WidgetPage) -> list[dict[str, Any]]:
    """The readable content of every stream: its tokens with their states, and the roles of its
    turns.
    """
    found: list[dict[str, Any]] = page.page.evaluate(
        """() => [...document.querySelectorAll('.sgl-stream')].map((stream) => {
          const turns = [...stream.querySelector('.sgl-flow').children].filter((part) => part.matches('.sgl-turn'));
          return {
            head: stream.querySelector(':scope > .sgl-fork-head span')?.textContent ?? null,
            roles: turns.map((turn) => turn.dataset.role),
            tokens: turns.flatMap((turn) => [...turn.querySelectorAll('.t')]).map((span) => [span.textContent, span.classList[1]]),
          };
        })"""
    )
    return found


def tokens_of_streams(page: WidgetPage) -> list[list[list[str]]]:
    return [stream["tokens"] for stream in streams(page)]


def n_tokens_shown(page: WidgetPage) -> int:
    return sum(len(tokens) for tokens in tokens_of_streams(page))


def node_labels(page: WidgetPage) -> set[str]:
    return {label or "" for label in page.page.locator(".sgl-node").evaluate_all("nodes => nodes.map((n) => n.getAttribute('aria-label'))")}


def test_deltas_bring_the_page_to_the_state_of_the_views(page: WidgetPage) -> None:
    stage = story()
    page.open()
    for _, message in deltas(stage):
        page.receive(message)
    end = full(stage)
    labels = [fork["label"] for fork in end["tokens"]["forks"] if fork["parent"] is not None]
    ops = {op["fork"]: op["toks"] for op in end["tokens"]["ops"]}
    page.comes_to_show(tokens_of_streams, [[[tok[0], tok[1]] for tok in ops[fork["fork"]]] for fork in end["tokens"]["forks"]])
    shown = streams(page)
    assert [stream["head"] for stream in shown] == [None, *labels]
    assert {"system", "user", "assistant"} <= set(shown[0]["roles"])
    page.shows(".sgl-name span", [lane["label"] for lane in end["lanes"]["lanes"]])
    assert page.page.locator(".sgl-bars > g").count() == len(end["lanes"]["bars"])
    for name in ("found", "reused", "computed", "generated"):
        page.shows(f".sgl-metric.sgl-m-{name} .sgl-value", [str(end["metrics"][name])])
    mine = [node for node in end["tree"]["nodes"] if node["mine"]]
    page.shows(".sgl-tally", [f"{len(mine)} nodes of this run"])
    assert len(mine) < len(end["tree"]["nodes"]) == len(stage.tree)


def test_one_full_message_gives_the_same_page_as_all_deltas(browser: Browser) -> None:
    stage = story()
    pages = [WidgetPage(browser, **CALM) for _ in range(2)]
    for page in pages:
        page.open()
    for _, message in deltas(stage):
        pages[0].receive(message)
    pages[1].receive(full(stage))

    def shown(page: WidgetPage) -> object:
        return streams(page), node_labels(page), page.texts(".sgl-name, .sgl-value")

    n_tokens = sum(len(op["toks"]) for op in full(stage)["tokens"]["ops"])
    pages[1].comes_to_show(n_tokens_shown, n_tokens)
    assert node_labels(pages[1])
    pages[0].comes_to_show(shown, shown(pages[1]))


def test_the_page_changes_while_the_run_goes_on(page: WidgetPage) -> None:
    stage = story()
    page.open()
    seen = set()
    for _, message in deltas(stage):
        page.receive(message)
        seen.add((n_tokens_shown(page), *page.texts(".sgl-tally")))
    assert len(seen) > 8


def test_evicted_nodes_fade_out_and_are_gone(browser: Browser) -> None:
    page = WidgetPage(browser)
    page.open()
    root = {"id": 1, "parent": None, "label": "root", "n": 0, "refs": 0, "hits": 0, "used": 0, "state": "root", "fresh": False, "by": []}
    leaf = {**root, "id": 2, "parent": 1, "label": "a leaf", "n": 3, "state": "cached"}
    page.receive({"seq": 0, "kind": "delta", "tree": {"nodes": [root, leaf], "gone": [], "clock": 1, "tails": []}})
    expect(page.page.locator(".sgl-node")).to_have_count(2)  # a node that was never painted does not fade
    page.receive({"seq": 1, "kind": "delta", "tree": {"nodes": [], "gone": [2], "clock": 2, "tails": []}})
    expect(page.page.locator(".sgl-node.gone")).to_have_count(1)
    expect(page.page.locator(".sgl-node")).to_have_count(1)


def test_only_what_is_in_sight_is_drawn_of_two_thousand_nodes(page: WidgetPage) -> None:
    page.open()
    nodes = [{"id": 1, "parent": None, "label": "root", "n": 0, "refs": 0, "hits": 0, "used": 0, "state": "root", "fresh": False, "by": []}]
    nodes += [
        {**nodes[0], "id": n, "parent": n // 3 + 1 if n > 2 else 1, "label": f"node {n}", "n": 5, "state": "cached"} for n in range(2, 2001)
    ]
    page.receive({"seq": 0, "kind": "delta", "tree": {"nodes": nodes, "gone": [], "clock": 1, "tails": []}})
    drawn = page.page.locator(".sgl-node")
    assert 1 < drawn.count() < 60
    page.page.get_by_role("button", name="Show the whole tree").click()
    page.painted()
    assert drawn.count() == 0
    paths = page.page.locator(".sgl-mass").evaluate_all("paths => paths.map((path) => path.getAttribute('d') ?? '')")
    assert sum(path.count("M") for path in paths) == 2000


def test_cards_out_of_sight_are_written_when_they_come_into_sight_or_nothing_grows_any_more(page: WidgetPage) -> None:
    page.open(views=["tokens"])
    forks = [{"fork": n, "parent": 1 if n > 1 else None, "index": n, "label": f"f{n}", "run": 1, "base": n > 1} for n in range(1, 62)]
    page.receive({"seq": 0, "kind": "delta", "tokens": {"forks": forks, "ops": ops(0, 1, "user", range(1, 62))}, **RUNNING})
    expect(page.page.locator(".sgl-away").last).to_be_attached()
    page.receive({"seq": 1, "kind": "delta", "tokens": {"forks": [], "ops": ops(1, 3, "generated", range(2, 62))}})
    expect(page.page.locator(".sgl-fork:not(.sgl-away):has(.t.generated)")).not_to_have_count(0)
    expect(page.page.locator(".sgl-fork:not(.sgl-away, :has(.t.generated))")).to_have_count(0)
    assert page.page.locator(".sgl-fork.sgl-away:not(:has(.t.generated))").count() > 20
    page.page.locator(".sgl-fork").nth(40).scroll_into_view_if_needed()
    expect(page.page.locator(".sgl-fork").nth(40).locator(".t.generated")).to_have_text(["word 1", "word 2", "word 3"])
    page.receive({"seq": 2, "kind": "delta", "status": {"phase": "done", "text": "done", "progress": None}})
    expect(page.page.locator(".sgl-fork .t.generated")).to_have_count(180)


def ops(start: int, n: int, cls: str, forks: range) -> list[dict[str, Any]]:
    toks = [[f"word {start + at}", cls, None, "", None, at, None] for at in range(n)]
    return [{"fork": fork, "start": start, "toks": toks} for fork in forks]


def test_text_of_a_model_is_text_and_nothing_else(page: WidgetPage) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script><b>"
    page.open(title=evil)
    page.receive({"seq": 0, "kind": "delta", "status": {"phase": "running", "text": evil, "progress": None}})
    node = {"id": 1, "parent": None, "label": evil, "n": 1, "refs": 0, "hits": 0, "used": 0, "state": "root", "fresh": True, "by": []}
    page.receive(
        {
            "seq": 1,
            "kind": "delta",
            "tokens": {
                "forks": [{"fork": 1, "parent": None, "index": 0, "label": evil, "run": 1, "base": 0}],
                "ops": [{"fork": 1, "start": 0, "toks": [[evil, "generated", -1.0, evil, [[evil, -1.0]]]]}],
            },
            "tree": {"nodes": [node], "gone": [], "clock": 1, "tails": [{"request": 1, "node": 1, "n": 1, "label": evil}]},
            "lanes": {
                "lanes": [{"lane": evil, "parent": None, "label": evil, "kind": "fork"}],
                "bars": [{"id": 0, "lane": evil, "kind": "decode", "t0": 0, "t1": 900, "n": 1, "name": evil}],
                "now": 900,
            },
        }
    )
    page.page.locator(".sgl-text .t").hover()
    page.page.locator(".sgl-node").first.click()
    page.painted()
    assert page.page.locator(".sgl-live :is(img, b:not(.sgl-fact b), script)").count() == 0
    page.shows(".sgl-text .t", [evil])


# ---------------------------------------------------------------- losses


def hellos(page: WidgetPage) -> int:
    return sum(message == {"kind": "hello"} for message in page.sent())


def stop_the_clock(page: WidgetPage) -> None:
    """From here on, time in the page passes only by explicit steps of the test."""
    page.page.clock.install(time=0)
    page.page.clock.pause_at(1_000)


def test_a_page_that_missed_a_message_asks_and_is_whole_again(browser: Browser) -> None:
    stage = story()
    page = WidgetPage(browser, **CALM)
    stop_the_clock(page)
    page.open()
    assert hellos(page) == 1
    messages = [message for _, message in deltas(stage)]
    page.page.clock.run_for(2000)
    for message in messages[:3] + messages[5:9]:
        page.page.evaluate("(message) => model.receive(message)", message)
    assert hellos(page) == 2
    whole = full(stage)
    page.page.evaluate("(message) => model.receive(message)", {**whole, "seq": 9})
    page.page.clock.run_for(2000)
    assert hellos(page) == 2
    assert n_tokens_shown(page) == sum(len(op["toks"]) for op in whole["tokens"]["ops"])


def test_a_message_missed_right_after_a_hello_is_requested_although_no_other_follows(browser: Browser) -> None:
    page = WidgetPage(browser, **CALM)
    stop_the_clock(page)
    page.open()
    whole = full(story())
    page.page.evaluate("(message) => model.receive(message)", {**whole, "seq": 4})
    page.page.evaluate("(message) => model.receive(message)", {"seq": 6, "kind": "delta", "status": RUNNING["status"]})
    assert hellos(page) == 1
    page.page.clock.run_for(2000)
    assert hellos(page) == 2
    page.page.evaluate("(message) => model.receive(message)", {**whole, "seq": 7})
    page.page.clock.run_for(4000)
    assert hellos(page) == 2
    page.context.close()


def test_a_page_that_loads_during_a_run_shows_the_snapshot_before_the_kernel_answers(page: WidgetPage) -> None:
    stage = story()
    half = len(stage.entries) * 3 // 4
    sender = new_sender(stage)
    sender.fold(stage.entries[:half])
    poll(sender, 0, flush=True)
    page.page.evaluate("(snapshot) => model.set('snapshot', snapshot)", sender.snapshot(0))
    page.open()
    page.painted()
    n_tokens = n_tokens_shown(page)
    assert n_tokens > 50
    sender.fold(stage.entries[half:])
    page.receive(*poll(sender, 10**9, flush=True))
    page.comes_to_show(n_tokens_shown, sum(len(op["toks"]) for op in full(stage)["tokens"]["ops"]))
    assert hellos(page) == 1


def test_two_views_of_one_run_show_the_same_and_close_alone(page: WidgetPage) -> None:
    stage = story()
    page.open()
    messages = [message for _, message in deltas(stage)]
    page.receive(*messages[:4])
    page.open()
    page.receive(*messages[4:])
    tokens = {op["fork"]: [[tok[0], tok[1]] for tok in op["toks"]] for op in full(stage)["tokens"]["ops"]}
    page.comes_to_show(tokens_of_streams, [tokens[fork["fork"]] for fork in full(stage)["tokens"]["forks"]] * 2)
    shown = streams(page)
    assert shown[:4] == shown[4:]
    page.page.evaluate("() => closers[0]()")
    page.receive(full(stage))
    assert len(streams(page)) == 4


# ---------------------------------------------------------------- Stop

RUNNING: Message = {"seq": 0, "kind": "delta", "status": {"phase": "running", "text": "running", "progress": None}}


def test_stop_is_a_message_to_a_kernel_that_listens(page: WidgetPage) -> None:
    page.page.clock.install()
    page.open(kernel_id="k1")
    page.receive(RUNNING)
    stop = page.page.locator(".sgl-stop")
    stop.focus()
    page.page.keyboard.press("Enter")
    assert page.sent()[-1] == {"kind": "stop"}
    page.receive({"kind": "stopping"})
    expect(stop).to_have_text("Stopping…")
    expect(stop).to_be_disabled()
    page.page.clock.run_for(2000)
    page.receive({"seq": 1, "kind": "delta", "status": {"phase": "stopped", "text": "stopped", "progress": None}})
    expect(stop).to_be_hidden()


@pytest.mark.parametrize(("reply", "text"), [(204, "Stopping…"), (403, "Not stopped: use the toolbar")])
def test_stop_interrupts_a_kernel_that_does_not_answer(browser: Browser, reply: int, text: str) -> None:
    page = WidgetPage(browser, config=JUPYTER, reply=reply)
    page.page.evaluate("document.cookie = '_xsrf=2|abc'")
    page.open(kernel_id="k 1")
    page.receive(RUNNING)
    with page.page.expect_request("**/interrupt", timeout=5000):
        page.page.locator(".sgl-stop").click()
    expect(page.page.locator(".sgl-stop")).to_have_text(text)
    ((method, url, headers),) = page.requests
    assert (method, url) == ("POST", "http://lab.test/user/ada/api/kernels/k%201/interrupt")
    assert (headers["x-xsrftoken"], headers["authorization"]) == ("2|abc", "token secret")


# ---------------------------------------------------------------- hands and keys


def test_a_token_shows_its_probability_and_alternatives_to_pointer_and_keys(page: WidgetPage) -> None:
    page.open()
    page.receive(full(story()))
    card = page.page.get_by_role("tooltip")
    token = page.page.locator(".sgl-fork .t.generated").last
    token.hover()
    expect(card).to_contain_text("sampled by the model")
    expect(card.locator(".sgl-alt")).to_have_count(4)  # three alternatives and all others
    page.page.mouse.move(1, 1)
    expect(card).to_be_hidden()
    page.page.locator(".sgl-text").focus()
    page.page.keyboard.press("End")
    page.page.keyboard.press("ArrowLeft")
    expect(card).to_be_visible()
    described = page.page.evaluate("() => document.activeElement.getAttribute('aria-describedby')")
    assert described == card.get_attribute("id")
    page.page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_a_token_keeps_the_focus_after_a_full_message(page: WidgetPage) -> None:
    stage = story()
    page.open()
    page.receive(full(stage))
    page.comes_to_show(n_tokens_shown, sum(len(op["toks"]) for op in full(stage)["tokens"]["ops"]))
    page.page.locator(".sgl-text").focus()
    page.page.keyboard.press("End")
    before = streams(page)
    page.page.evaluate("() => (window.focused = document.activeElement)")
    page.receive(full(stage))
    assert page.page.evaluate("() => document.activeElement === focused && focused.isConnected && focused.matches('.t')")
    assert streams(page) == before


def test_arrow_keys_move_through_the_tree_and_enter_describes_a_node(page: WidgetPage) -> None:
    stage = story()
    page.open()
    page.receive(full(stage))
    tree = page.page.get_by_role("tree")
    tree.focus()
    page.page.keyboard.press("Home")
    page.page.keyboard.press("ArrowRight")
    active = tree.get_attribute("aria-activedescendant")
    assert page.page.locator(f"#{active}").get_attribute("aria-level") == "2"
    page.page.keyboard.press("Enter")
    expect(page.page.locator(".sgl-details")).to_contain_text("You are a travel writer")
    expect(page.page.get_by_role("treeitem", selected=True)).to_have_count(1)
    page.page.keyboard.press("Escape")
    expect(page.page.locator(".sgl-details")).to_be_hidden()


def test_the_page_scrolls_under_a_plain_wheel_and_zooms_under_ctrl(page: WidgetPage) -> None:
    page.open()
    page.receive(full(story()))
    page.page.evaluate("document.body.style.paddingBottom = '2000px'")
    world = page.page.locator(".sgl-canvas > g")
    page.page.locator(".sgl-stage").scroll_into_view_if_needed()
    page.page.locator(".sgl-stage").hover()
    before = world.get_attribute("transform")
    page.page.mouse.wheel(0, 120)
    page.page.wait_for_function("scrollY > 0")
    assert world.get_attribute("transform") == before
    page.page.locator(".sgl-stage").hover()
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -120)
    page.page.keyboard.up("Control")
    expect(world).not_to_have_attribute("transform", before or "")


def test_a_bar_describes_itself(page: WidgetPage) -> None:
    page.open()
    page.receive(full(story()))
    page.page.locator(".sgl-plot").focus()
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("End")
    for _ in range(12):
        page.page.keyboard.press("ArrowRight")
    expect(page.page.get_by_role("tooltip")).to_contain_text("token")


def test_views_open_as_requested_and_can_be_toggled(page: WidgetPage) -> None:
    page.open(views=["tree"])
    page.receive(full(story()))
    expect(page.page.locator(".sgl-panel:visible")).to_have_count(1)
    page.page.get_by_role("button", name="Timeline").click()
    expect(page.page.locator(".sgl-panel:visible")).to_have_count(2)
    expect(page.page.locator(".sgl-bars > g").first).to_be_visible()


def test_growing_text_does_not_move_the_content_below(page: WidgetPage) -> None:
    page.open()
    tops = []
    for _, message in deltas(story()):
        page.receive(message)
        tops.append(page.page.locator(".sgl-tree").evaluate("(panel) => Math.round(panel.getBoundingClientRect().top + scrollY)"))
    assert len(set(tops)) <= 3


@pytest.mark.parametrize("width", [600, 900, 1280])
def test_nothing_is_wider_than_the_cell_nor_a_number_than_its_place(browser: Browser, width: int) -> None:
    page = WidgetPage(browser, viewport={"width": width, "height": 900}, **CALM)
    page.open()
    page.receive(full(story(n_pages=46_603)))
    overflow = page.page.evaluate(
        """() => [...document.querySelectorAll(
            '.sgl-live, .sgl-header, .sgl-moment, .sgl-metrics, .sgl-bar, .sgl-text, .sgl-forks, .sgl-value'
          )]
          .filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.className)"""
    )
    assert overflow == []


@pytest.mark.parametrize("width", [520, 580, 700, 820, 1280])
def test_the_stop_button_stands_beside_the_title(browser: Browser, width: int) -> None:
    page = WidgetPage(browser, viewport={"width": width, "height": 900}, **CALM)
    page.open()
    page.receive(full(story(n_pages=46_603)))
    title, stop, header = page.page.evaluate(
        """() => ['.sgl-title', '.sgl-stop', '.sgl-header'].map((name) => document.querySelector(name).getBoundingClientRect().toJSON())"""
    )
    assert title["top"] < stop["bottom"]
    assert stop["top"] < title["bottom"]
    assert header["right"] - stop["right"] < 20
    assert width <= 640 or header["height"] < 50


def test_every_number_of_the_strip_stands_in_one_row_and_no_word_of_the_axis_is_cut(page: WidgetPage) -> None:
    message = full(story())
    message["metrics"]["forced"] = 35
    page.open()
    page.receive(message)
    for width in (1280, 1180, 1000):
        page.page.set_viewport_size({"width": width, "height": 900})
        page.painted()
        page.painted()
        tops, cut = page.page.evaluate(
            """() => {
              const strip = [...document.querySelectorAll('.sgl-metric')].filter((one) => one.offsetParent);
              const edge = document.querySelector('.sgl-plot').getBoundingClientRect().right;
              const words = [...document.querySelectorAll('.sgl-grid text')];
              return [strip.map((one) => one.offsetTop), words.filter((one) => one.getBoundingClientRect().right > edge).length];
            }"""
        )
        assert (len(tops), len(set(tops)), cut) == (7, 1, 0)


def graph_events(stage: Stage) -> list[Event]:
    """A compiled program that runs: a gen on each of two forks, the second of which is not done."""
    nodes = (
        GraphNode("text", 0, "About {topic}:", "About {topic}:", (), ()),
        GraphNode("opens", 0, "fork(2)", "fork(2)", (0,), ()),
        *(GraphNode("gen", 1 + n, f"tip {n}", f"gen('tip {n}')", (1,), ()) for n in range(2)),
        GraphNode("read", 0, "{tip 0}", "text of 'tip 0'", (1,), (2,)),
    )
    forks, exprs = [ForkId(901), ForkId(902), ForkId(903)], [ExprId(901), ExprId(902)]
    return [
        GraphStarted(stage.run, 1, 1, "tips", nodes),
        ForkOpened(stage.run, forks[0], None, 0, "tips"),
        NodesEntered(1, (0, 1), forks[0]),
        StreamExtended(forks[0], 0, stage.encode("About tea:"), "text", ""),
        *(ForkOpened(stage.run, forks[1 + n], forks[0], n, f"tips[{n}]") for n in range(2)),
        *(NodesEntered(1, (2 + n,), forks[1 + n]) for n in range(2)),
        *(ExprStarted(forks[1 + n], exprs[n], "gen", f"tip {n}", 1) for n in range(2)),
        StreamExtended(forks[1], 3, stage.encode(" a fine cup"), "generated", ""),
        ExprFinished(forks[1], exprs[0], "ok", " a fine cup"),
    ]


def test_a_graph_lights_up_and_its_nodes_are_linked_with_their_tokens(page: WidgetPage) -> None:
    stage = Stage()
    page.open()
    page.receive(full(stage))
    assert not page.page.locator(".sgl-graph").is_visible()
    assert not page.page.locator('.sgl-toggle[data-view="graph"]').is_visible()
    events = graph_events(stage)
    out = new_sender(stage)
    seq, seen = 1, []
    for number, event in enumerate(events):
        out.fold([Entry(100 + number, 1000 + number, event)])
        for message in poll(out, 0, flush=True):
            page.receive(message | {"seq": seq})
            seq += 1
        seen.append([(label or "").split(": ")[-1] for label in labels_of_steps(page)])
    assert seen[0] == ["not reached"] * 5
    assert seen[-1] == ["done", "done", "done", "running", "not reached"]
    assert page.page.locator(".sgl-graph .sgl-edges path").count() == 5
    page.page.locator(".sgl-step").nth(2).click()
    page.shows(".sgl-text .t.sgl-linked", [" a", " fine", " cup"])
    page.page.locator(".sgl-text .t", has_text="About").last.click()
    page.comes_to_show(lambda page: page.texts(".sgl-step.sgl-linked .sgl-node-label"), ["About\u00a0{topic}:"])
    page.page.locator('.sgl-toggle[data-view="graph"]').click()
    assert not page.page.locator(".sgl-graph").is_visible()


def labels_of_steps(page: WidgetPage) -> list[str | None]:
    return page.page.locator(".sgl-step").evaluate_all("steps => steps.map((step) => step.getAttribute('aria-label'))")
