"""The live view of graphs: its fold follows the events, and its size has a bound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.contracts.events import (
    CellStarted,
    Entry,
    Event,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    GraphNode,
    GraphStarted,
    NodesEntered,
)
from sgl_lab.contracts.ids import ExprId, ForkId, RunId
from sgl_lab.trace.checked import Checker
from sgl_lab.trace.record import EMPTY, Record
from sgl_lab.viz.draw import graph as draw
from sgl_lab.viz.freeze import freeze
from sgl_lab.viz.replay import frames
from sgl_lab.viz.sender import MAX_BYTES, Sender, Views
from sgl_lab.viz.views import views_of
from sgl_lab.viz.views.graphs import MOST, GraphsView

from .words import lab

RUN = RunId(1)


@sgl.function
def tips(s: Any, topic: str) -> None:
    s += "About " + topic + ": " + sgl.gen("first", max_tokens=3)
    forks = s.fork(2)
    for number, fork in enumerate(forks):
        fork += f"tip {number} " + sgl.gen("tip", max_tokens=3)
    s += "so " + forks[0]["tip"] + " " + forks[1]["tip"] + sgl.select("end", ["yes", "no"])


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """One run, and a batch of three of the same graph."""
    events: list[Event] = [CellStarted(RUN, "In[1]", "")]
    backend = lab(tmp_path_factory.mktemp("lab"), events.append)
    compiled = tips.compile()
    compiled.run(topic="tea", backend=backend, temperature=0)
    compiled.run_batch([{"topic": topic} for topic in "abc"], backend=backend, temperature=0)
    backend._resident.close()
    return [Entry(number, 1_000_000 * number, event) for number, event in enumerate(events)]


def states(view: GraphsView) -> dict[str, str]:
    return {step["label"]: step["state"] for step in view.full()["steps"]}


def folded(entries: list[Entry]) -> Iterator[GraphsView]:
    """The same view after each entry."""
    view = GraphsView()
    for entry in entries:
        view.fold(entry)
        yield view


def test_every_node_is_queued_runs_and_is_done_in_the_order_of_the_events(entries: list[Entry]) -> None:
    seen: dict[str, list[str]] = {}
    one = entries[: [number for number, entry in enumerate(entries) if isinstance(entry.event, GraphStarted)][1]]
    for view in folded(one):
        for label, state in states(view).items():
            if seen.setdefault(label, [state])[-1] != state:
                seen[label].append(state)
    assert seen["first"] == ["idle", "queued", "running", "done"]
    assert seen["end"][-2:] == ["running", "done"]
    assert seen["fork(2)"] == ["idle", "queued", "done"]  # it waits for the gen before it
    picture = view.full()
    by_label = {step["label"]: step for step in picture["steps"]}
    assert len(picture["steps"]) == len({step["id"] for step in picture["steps"]})
    assert [by_label["first"]["after"], by_label["end"]["state"]] == [[by_label["About {topic}: "]["id"]], "done"]
    (place,) = by_label["first"]["places"]
    assert place[2] is not None
    assert place[1] is not None
    assert 0 < place[2] - place[1] <= 3
    assert len(by_label["end"]["requests"]) >= 2  # one for each choice
    reads = [step["reads"] for step in picture["steps"] if step["kind"] == "read"]
    assert reads == [[step["id"]] for step in picture["steps"] if step["label"] == "tip"]


def test_a_batch_is_counted_at_the_nodes_of_one_graph(entries: list[Entry]) -> None:
    started = [entry.event for entry in entries if isinstance(entry.event, GraphStarted)]
    assert [bool(event.nodes) for event in started] == [True, True, False, False]  # a batch carries them once
    *_, view = folded(entries)
    (row,) = view.full()["graphs"]
    assert row["runs"] == 4
    assert {tuple(step["n"]) for step in view.full()["steps"]} == {(0, 0, 4, 0)}
    assert "4 runs" in draw.text(view.full())


def test_deltas_add_up_to_the_whole_at_every_moment(entries: list[Entry]) -> None:
    view, graphs, steps = GraphsView(), dict[int, Any](), dict[int, Any]()
    for number, entry in enumerate(entries):
        view.fold(entry)
        if number % 3 and (delta := view.delta()):
            graphs |= {row["graph"]: row for row in delta["graphs"]}
            steps |= {row["id"]: row for row in delta["steps"]}
            whole = view.full()
            assert (list(graphs.values()), list(steps.values())) == (whole["graphs"], whole["steps"])
    assert steps
    assert view.full() == json.loads(json.dumps(view.full()))


def test_a_node_that_fails_is_seen_and_what_follows_it_is_not_reached() -> None:
    nodes = (GraphNode("text", 0, "a", "a", (), ()), GraphNode("gen", 0, "b", "b", (0,), ()), GraphNode("text", 0, "c", "c", (1,), ()))
    fork, expr = ForkId(5), ExprId(6)
    events: list[Event] = [
        GraphStarted(RUN, 1, 1, "p", nodes),
        NodesEntered(1, (0,), fork),
        ForkOpened(RUN, fork, None, 0, "p"),
        NodesEntered(1, (1,), fork),
        ExprStarted(fork, expr, "gen", "b", 1),
        ExprFinished(fork, expr, "error", "no"),
    ]
    *_, view = folded([Entry(number, number, event) for number, event in enumerate(events)])
    assert states(view) == {"a": "done", "b": "failed", "c": "idle"}


def test_messages_and_recordings_carry_the_graph_and_the_saved_cell_shows_it(entries: list[Entry]) -> None:
    sender = Sender(Views(*views_of(None, str)))
    sender.fold(entries)
    sender.hello()
    packets = sender.poll(0, flush=True)
    assert all(len(packet.body) <= MAX_BYTES for packet in packets)
    steps = [step for packet in packets for step in json.loads(packet.body).get("graph", {}).get("steps", ())]
    *_, view = folded(entries)
    assert steps == view.full()["steps"]
    record = Record(RunId(99), EMPTY, {}, entries)
    moments = [message["graph"] for _, message in frames(record, str) if "graph" in message]
    assert len(moments) > 3
    assert moments[-1]["steps"][-1]["state"] == "done"
    shown = freeze(graph=view)
    assert "About {topic}: " in shown["text/html"]
    assert "✓ first: 4 done" in shown["text/plain"]
    assert "Graph" not in freeze(graph=GraphsView())["text/html"]


def chain(n: int) -> tuple[GraphNode, ...]:
    """Eight strands of a fork beside each other, a gen after each text."""
    kinds = ("text", "gen")
    return tuple(
        GraphNode(kinds[number // 8 % 2], number % 8, f"node {number}", "words " * 40, (number - 8,) if number >= 8 else (), ())
        for number in range(n)
    )


def test_a_thousand_nodes_have_places_of_their_own_and_pass_in_messages_of_64_kib() -> None:
    view = GraphsView()
    view.fold(Entry(0, 0, GraphStarted(RUN, 1, 1, "large", chain(1000))))
    picture = view.full()
    assert len({(step["x"], step["y"]) for step in picture["steps"]}) == 1000
    assert all(step["x"] > picture["steps"][before]["x"] for step in picture["steps"] for before in step["after"])
    sender = Sender(Views(*views_of(None, str)))
    sender.fold([Entry(0, 0, GraphStarted(RUN, 1, 1, "large", chain(1000)))])
    packets = sender.poll(0, flush=True)
    assert len(packets) > 4
    assert max(len(packet.body) for packet in packets) <= MAX_BYTES
    view.fold(Entry(1, 1, GraphStarted(RUN, 2, 2, "too large", chain(MOST))))
    assert len(view.full()["steps"]) == 1000
    assert "too many to be drawn" in draw.text(view.full())


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (NodesEntered(1, (3,), ForkId(1)), "no such node"),
        (GraphStarted(RUN, 2, 2, "p", (GraphNode("gen", 0, "", "", (0,), ()),)), "does not come after"),
        (GraphStarted(RUN, 1, 1, "p", ()), "begins twice"),
        (GraphStarted(RUN, 2, 2, "p", (1,)), "cannot be"),  # type: ignore[arg-type]
    ],
)
def test_a_record_with_a_graph_that_cannot_be_is_refused(event: Event, words: str) -> None:
    check = Checker(EMPTY)
    check(Entry(0, 0, GraphStarted(RUN, 1, 1, "p", chain(3))))
    with pytest.raises(ValueError, match=words):
        check(Entry(1, 1, event))
