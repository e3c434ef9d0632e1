"""The folds: equal to the truth, and a delta at a time the same as all at once."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable
from html import unescape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_lab.contracts.events import (
    CellFinished,
    CellStarted,
    DraftVerified,
    Entry,
    Event,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    LocksChanged,
    ModelLoaded,
    NodeEvicted,
    NodeInserted,
    NodeSplit,
    PrefixMatched,
    RequestFinished,
    RequestPreempted,
    RequestQueued,
    Sample,
    StepRan,
    StreamExtended,
    TokensSampled,
    Touched,
    from_json,
    to_json,
)
from sgl_lab.contracts.ids import ExprId, ForkId, NodeId, RequestId, RunId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, ScoreJob, WarmJob
from sgl_lab.contracts.tree import TreeSnapshot
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.tools.fake import ByteTokenizer, HashRunner
from sgl_lab.viz.draw import palette, still
from sgl_lab.viz.draw.text import transcript
from sgl_lab.viz.views import LanesView, MetricsView, Reuse, TokensView, TreeView, views_of
from sgl_lab.viz.views.inspection import inspections
from sgl_lab.viz.views.tok import LEAST_BYTES, Layout, Token

from .driving import Listener
from .story import NAMESPACE, Stage, story

RUN, F, R = RunId(1), ForkId(1), RequestId(1)


def spell(token: int) -> str:
    return chr(96 + token)


def folded(view: Any, events: Iterable[Event | tuple[float, Event]]) -> Any:
    """Fold events, some with a time in ms."""
    t = 0.0
    for seq, event in enumerate(events):
        if isinstance(event, tuple):
            t, event = event
        view.fold(Entry(seq, int(t * 1e6), event))
    return view


def queued(
    request: int = 1, prompt: tuple[int, ...] = (1, 2, 3), kind: str = "gen", fork: ForkId | None = F, group: int = 0
) -> RequestQueued:
    return RequestQueued(RequestId(request), fork, ExprId(1), kind, prompt, 8, RequestId(group or request))


def matched(request: int = 1, n_hit: int = 0, n_prompt: int = 3) -> PrefixMatched:
    return PrefixMatched(RequestId(request), n_hit, n_prompt, NodeId(1))


def step(prefill: tuple[tuple[int, int], ...] = (), decode: tuple[int, ...] = (), ms: float = 5.0, free_pages: int = 90) -> StepRan:
    work = tuple((RequestId(request), n) for request, n in prefill)
    return StepRan(1, work, tuple(RequestId(request) for request in decode), 0, free_pages, ms)


def sampled(*tokens: int, request: int = 1, logprob: float | None = -0.5) -> TokensSampled:
    return TokensSampled(1, tuple(Sample(RequestId(request), token, logprob, (), None, False) for token in tokens))


def finished(request: int = 1) -> RequestFinished:
    return RequestFinished(RequestId(request), "stop", 3, 2, 0, 4, 2)


def snapshot_at(stage: Stage, seq: int) -> TreeSnapshot:
    """The tree of a stage as it was before event number `seq`."""
    view = TreeView(stage.spell)
    for entry in stage.entries[:seq]:
        view.fold(entry)
    return TreeSnapshot(tuple(view.nodes.values()), stage.n_pages, 0, seq)


def opened(fork: int = 1, parent: int | None = None, index: int = 0, run: RunId = RUN, label: str = "") -> ForkOpened:
    return ForkOpened(run, ForkId(fork), ForkId(parent) if parent is not None else None, index, label)


def literal(*tokens: int, start: int = 0, fork: int = 1, role: str = "") -> StreamExtended:
    return StreamExtended(ForkId(fork), start, tokens, "text", role)


def generated(*tokens: int, start: int = 3, fork: int = 1) -> StreamExtended:
    return StreamExtended(ForkId(fork), start, tokens, "generated", "assistant")


def shown(view: TokensView, fork: int = 1) -> list[tuple[str, str]]:
    """(text, class) of a fork's own tokens."""
    return [(tok[0], tok[1]) for op in view.full()["ops"] if op["fork"] == fork for tok in op["toks"]]


# ---------------------------------------------------------------- deltas


class Page:
    """A page's processing of the messages."""

    def __init__(self) -> None:
        self.forks: dict[int, dict[str, Any]] = {}
        self.toks: dict[int, list[Any]] = {}
        self.nodes: dict[int, Any] = {}
        self.texts: dict[int, Any] = {}
        self.ends: dict[int, int] = {}
        self.rest: dict[str, Any] = {"clock": 0, "tails": []}
        self.lanes: dict[str, Any] = {}
        self.bars: dict[int, Any] = {}

    def tokens(self, picture: dict[str, Any]) -> None:
        for row in picture["forks"]:
            self.forks[row["fork"]] = row
        for op in picture["ops"]:
            own = self.toks.setdefault(op["fork"], [])
            own[op["start"] - self.forks[op["fork"]]["base"] :] = op["toks"]

    def tree(self, picture: dict[str, Any]) -> None:
        for node in picture["gone"]:
            self.nodes.pop(node, None)
            self.texts.pop(node, None)
        self.texts |= {row["id"]: row for row in picture["texts"]}
        self.ends |= dict(picture["ends"])
        for row in picture["nodes"]:
            assert row["parent"] is None or row["parent"] in self.nodes, "parents come first"
            self.nodes[row["id"]] = row
        self.rest = {"clock": picture["clock"], "tails": picture["tails"]}

    def timeline(self, picture: dict[str, Any]) -> None:
        self.lanes |= {row["lane"]: row for row in picture["lanes"]}
        self.bars |= {row["id"]: row for row in picture["bars"]}


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize("seed", range(5))
def test_deltas_at_any_moment_add_up_to_the_full_picture(seed: int) -> None:
    stage = story()
    chance = random.Random(seed)
    tokens, tree, lanes, metrics = TokensView(stage.spell), TreeView(stage.spell), LanesView(), MetricsView()
    page, strip, n_checked = Page(), None, 0
    for entry in stage.entries:
        for view in (tokens, tree, lanes, metrics):
            view.fold(entry)
        if chance.random() < 0.3 or entry is stage.entries[-1]:
            for view, paint in ((tokens, page.tokens), (tree, page.tree), (lanes, page.timeline)):
                if (delta := view.delta()) is not None:
                    paint(plain(delta))
            strip = metrics.delta() or strip
            fresh = Page()
            fresh.tokens(plain(tokens.full()))
            fresh.tree(plain(tree.full()))
            fresh.timeline(plain(lanes.full()))
            assert vars(page) == vars(fresh)
            assert strip == metrics.full()
            n_checked += 1
    assert n_checked > 50


def test_without_changes_the_delta_is_none() -> None:
    stage = story()
    for view in (TokensView(stage.spell), TreeView(stage.spell), LanesView(), MetricsView()):
        folded(view, [entry.event for entry in stage.entries])
        assert view.delta() is not None
        assert view.delta() is None


def test_a_token_of_a_long_stream_costs_one_token() -> None:
    view = folded(TokensView(spell), [opened(), literal(*[1] * 5000), queued(prompt=(1,) * 5000), matched(n_hit=4999), step(((1, 1),))])
    view.delta()
    folded(view, [sampled(7)])
    delta = view.delta()
    assert delta is not None
    assert [(op["start"], len(op["toks"])) for op in delta["ops"]] == [(5000, 1)]


# ---------------------------------------------------------------- tree


def test_the_folded_tree_equals_the_true_tree_of_a_run_with_evictions() -> None:
    stage = story()
    view = folded(TreeView(stage.spell), [entry.event for entry in stage.entries])
    assert sum(isinstance(entry.event, NodeEvicted) for entry in stage.entries) >= 1
    assert dict(view.nodes) == {node.node: node for node in stage.snapshot().nodes}


def test_the_folded_tree_equals_the_engines_after_every_step_of_a_random_workload() -> None:
    view = TreeView(str)
    n_evicted = 0

    def tell(event: Event) -> None:
        nonlocal n_evicted
        n_evicted += isinstance(event, NodeEvicted)
        view.fold(Entry(0, 0, from_json(to_json(event))))

    config = EngineConfig(n_pages=160, page_size=1)
    engine = Engine(config, HashRunner(config.n_pages, 1), ByteTokenizer(), context=256, namespace=("test",), emit=tell)
    chance = random.Random(5)
    for _ in range(150):
        prompt = tuple(chance.choices(range(97, 100), k=chance.randrange(2, 40)))
        group = chance.choice(
            [
                lambda prompt=prompt: engine.gen(GenJob(prompt, SamplingParams(max_tokens=chance.randrange(1, 20))), Listener()),
                lambda prompt=prompt: engine.score(ScoreJob(prompt, ((97, 98), (98,))), Listener()),
                lambda prompt=prompt: engine.warm(WarmJob(prompt), Listener()),
            ]
        )()
        for request in group.requests:
            tell(RequestQueued(request.id, None, None, request.kind, tuple(request.prompt), 0, group.id))
        engine.add(group)
        for _ in range(chance.randrange(4)):
            engine.step()
            picture = view.full()
            states = {row["id"]: row["state"] for row in picture["nodes"]}
            assert dict(view.nodes) == {node.node: node for node in engine.snapshot(0).nodes}
            assert all(states[tail["node"]] in ("running", "root") for tail in picture["tails"])
    assert n_evicted > 20


def test_a_late_joiner_sees_what_the_others_see() -> None:
    stage = story()
    half = len(stage.entries) // 2
    first = folded(TreeView(stage.spell), [entry.event for entry in stage.entries[:half]])
    late = TreeView(stage.spell)
    late.load(TreeSnapshot(tuple(first.nodes.values()), 250, 100, half))
    assert not any(row["fresh"] for row in late.full()["nodes"])
    folded(late, [entry.event for entry in stage.entries[half:]])
    assert dict(late.nodes) == {node.node: node for node in stage.snapshot().nodes}
    assert any(row["fresh"] for row in late.full()["nodes"])


def test_a_second_snapshot_removes_nodes_whose_eviction_was_lost() -> None:
    stage = story()
    view, page = TreeView(stage.spell), Page()
    folded(view, [entry.event for entry in stage.entries])
    page.tree(plain(view.delta()))
    kept = stage.snapshot().nodes[:4]
    view.load(TreeSnapshot(kept, 250, 200, len(stage.entries)))
    page.tree(plain(view.delta()))
    assert set(page.nodes) == {node.node for node in kept}


def test_private_tokens_hang_below_the_lease_until_they_are_committed() -> None:
    root = NodeInserted(NodeId(1), None, (), NAMESPACE)
    view = folded(TreeView(spell), [root, queued(), matched(), LocksChanged(((NodeId(1), 1),)), step(((1, 2),))])
    assert [(tail["node"], tail["n"], tail["label"]) for tail in view.full()["tails"]] == [(1, 2, "ab")]
    folded(view, [step(((1, 1),)), NodeInserted(NodeId(2), NodeId(1), (1, 2, 3), NAMESPACE), sampled(4), sampled(5)])
    assert [(tail["node"], tail["n"], tail["label"]) for tail in view.full()["tails"]] == [(2, 2, "de")]
    assert [row["state"] for row in view.full()["nodes"]] == ["root", "running"]
    folded(view, [RequestPreempted(R, 5)])
    assert view.full()["tails"] == []


def test_a_tail_moves_on_when_its_prompt_is_committed_below_a_split() -> None:
    root, first = NodeInserted(NodeId(1), None, (), NAMESPACE), NodeInserted(NodeId(2), NodeId(1), (1, 2, 3), NAMESPACE)
    view = folded(TreeView(spell), [root, queued(1), matched(1), queued(2, (1, 2, 4)), matched(2), step(((1, 3), (2, 3))), first])
    second = [NodeSplit(NodeId(2), NodeId(3), 2), NodeInserted(NodeId(4), NodeId(3), (4,), NAMESPACE)]
    folded(view, [*second, sampled(5), sampled(6, request=2)])
    assert {(tail["request"], tail["node"], tail["label"]) for tail in view.full()["tails"]} == {(1, 2, "e"), (2, 4, "f")}


# ---------------------------------------------------------------- tokens


def test_a_token_that_is_being_generated_stands_in_its_turn() -> None:
    begun = ExprStarted(F, ExprId(1), "gen", "plan", 1, "assistant")
    view = folded(TokensView(spell), [opened(), literal(1, 2, 3), begun, queued(), matched(), step(((1, 3),)), sampled(4)])
    assert view.full()["ops"][0]["toks"][3] == ("d", "generated", -0.5, "assistant", None, 4, {"t": 0.0, "ms": 0.0})


def test_the_first_request_that_covers_a_prompt_token_decides_its_origin() -> None:
    view = folded(TokensView(spell), [opened(), literal(1, 2, 3), queued(), matched(n_hit=1)])
    assert shown(view) == [("a", "cached"), ("b", "text"), ("c", "text")]
    folded(view, [step(((1, 2),)), finished(), queued(2), matched(2, n_hit=2), step(((2, 1),))])
    assert shown(view) == [("a", "cached"), ("b", "computed"), ("c", "computed")]


def test_the_last_step_counts_although_it_is_reported_after_the_end() -> None:
    view = folded(TokensView(spell), [opened(), literal(1, 2, 3), queued(kind="warm"), matched(), finished(), step(((1, 3),))])
    assert {cls for _, cls in shown(view)} == {"computed"}
    strip = folded(MetricsView(), [opened(), queued(kind="warm"), matched(), finished(), step(((1, 3),))]).full()
    assert (strip["computed"], strip["steps"]) == (3, 1)


def test_samples_are_shown_until_the_stream_is_extended() -> None:
    view = folded(
        TokensView(spell), [opened(), literal(1, 2, 3), queued(), matched(), step(((1, 3),)), sampled(4), sampled(5), sampled(26)]
    )
    assert [text for text, cls in shown(view) if cls == "generated"] == ["d", "e", "z"]
    folded(view, [finished(), generated(4, 5)])
    assert [text for text, cls in shown(view) if cls == "generated"] == ["d", "e"]
    assert view.full()["ops"][0]["toks"][3] == ("d", "generated", -0.5, "assistant", None, 4, {"t": 0.0, "ms": 0.0})


def test_a_stream_that_is_extended_early_keeps_later_samples() -> None:
    view = folded(TokensView(spell), [opened(), literal(1, 2, 3), queued(), matched(), sampled(4), sampled(5), generated(4)])
    assert [text for text, _ in shown(view)] == ["a", "b", "c", "d", "e"]


def test_of_several_samples_only_the_first_is_in_the_stream() -> None:
    group = [queued(1), queued(2, group=1), matched(1), matched(2, 3)]
    both = TokensSampled(1, (Sample(RequestId(1), 4, None, (), None, False), Sample(RequestId(2), 5, None, (), None, False)))
    view = folded(TokensView(spell), [opened(), literal(1, 2, 3), *group, both])
    assert [text for text, cls in shown(view) if cls == "generated"] == ["d"]
    (row,) = view.full()["forks"][1:]
    assert (row["fork"], row["parent"], row["base"], row["label"]) == (-2, 1, 3, "sample 2")
    assert shown(view, -2) == [("e", "generated")]
    folded(view, [finished(), generated(4), finished(2), opened(3, 1), literal(6, start=4, fork=3)])
    assert shown(view, -2) == [("e", "generated")]
    assert "e" in transcript(view.full(), ascii=True)
    assert "sample 2" in still.tokens(view.full()).source


def test_a_fork_shows_only_what_lies_beyond_its_parent() -> None:
    view = folded(TokensView(spell), [opened(), literal(1, 2, 3), opened(2, 1), literal(4, start=3, fork=2)])
    assert [(row["fork"], row["base"]) for row in view.full()["forks"]] == [(1, 0), (2, 3)]
    assert shown(view, 2) == [("d", "text")]


def test_a_childs_request_decides_its_parents_tokens_too() -> None:
    child = RequestQueued(R, ForkId(2), None, "gen", (1, 2, 3, 4), 8, R)
    view = folded(TokensView(spell), [opened(), literal(1, 2, 3), opened(2, 1), literal(4, start=3, fork=2), child, matched(n_hit=2)])
    folded(view, [step(((1, 2),))])
    assert [cls for _, cls in shown(view)] == ["cached", "cached", "computed"]
    assert [cls for _, cls in shown(view, 2)] == ["computed"]


def test_a_stream_cut_or_encoded_again_keeps_the_details_of_the_rest() -> None:
    view = folded(TokensView(spell), [opened(), literal(1, 2, 3), queued(), matched(n_hit=3)])
    folded(view, [StreamExtended(F, 2, (), "trim", ""), literal(2, 9, start=1)])
    assert shown(view) == [("a", "cached"), ("b", "cached"), ("i", "text")]


def test_a_view_of_one_run_leaves_out_the_others() -> None:
    events = [opened(), literal(1), opened(2, run=RunId(2)), literal(2, fork=2), queued(fork=F), matched()]
    assert [row["fork"] for row in folded(TokensView(spell, RunId(2)), events).full()["forks"]] == [2]
    assert [row["lane"] for row in folded(LanesView(RunId(2)), events).full()["lanes"]] == ["f2"]
    assert folded(MetricsView(RunId(2)), events).full()["running"] == 0


def test_the_story_is_folded_correctly() -> None:
    stage = story()
    view = folded(TokensView(stage.spell, RunId(2)), [entry.event for entry in stage.entries])
    main, *forks = view.full()["ops"]
    text = {cls: "".join(tok[0] for tok in main["toks"] if tok[1] == cls) for cls in ("cached", "computed", "generated", "choice", "text")}
    assert text["cached"].startswith("<|im_start|>system\nYou are a travel writer.")
    assert text["computed"].startswith("I have one free day")
    assert text["generated"].startswith("Begin at the Gulbenkian")
    assert text["choice"] == "morning"
    assert text["text"] == ""
    assert len(forks) == 3
    assert {op["start"] for op in forks} == {len(main["toks"])}
    assert all(tok[2] is not None and tok[4] for op in forks for tok in op["toks"] if tok[1] == "generated")


def test_infinite_numbers_and_invalid_text_survive_json() -> None:
    sample = Sample(R, 4, -math.inf, ((5, math.nan), (4, -0.1)), None, False)
    view = folded(
        TokensView(lambda token: "\ud800\x00\u202e"), [opened(label="\udcff"), literal(1), queued(prompt=(1,)), TokensSampled(1, (sample,))]
    )
    dumped = json.dumps(view.full(), ensure_ascii=False, allow_nan=False)
    dumped.encode()
    assert "\u202e" not in dumped
    assert view.full()["ops"][0]["toks"][1][2] is None


# ---------------------------------------------------------------- lanes


def bars(view: LanesView) -> list[tuple[str, str, float, float | None, int]]:
    return [(bar["lane"], bar["kind"], bar["t0"], bar["t1"], bar["n"]) for bar in view.full()["bars"]]


def test_a_request_waits_hits_prefills_and_decodes_on_its_forks_lane() -> None:
    view = folded(
        LanesView(RUN),
        [
            (50, CellStarted(RUN, "t", "")),
            (50, opened(label="main")),
            (60, ExprStarted(F, ExprId(1), "gen", "plan", 1)),
            (60, queued()),
            (70, matched(n_hit=1)),
            (75, step(((1, 1),))),
            (80, step(((1, 1),))),
            (85, step(decode=(1,))),
            (90, finished()),
            (90, step(decode=(1,))),
        ],
    )
    lane = "f1"
    assert bars(view) == [
        (lane, "host", 0, 10, 0),
        (lane, "wait", 10, 20, 3),
        (lane, "found", 20, 20, 1),
        (lane, "prefill", 20, 30, 2),
        (lane, "decode", 30, 40, 2),
    ]
    assert {bar["name"] for bar in view.full()["bars"] if bar["kind"] != "host"} == {"plan"}
    assert view.full()["lanes"] == [{"lane": lane, "parent": None, "label": "main", "kind": "fork", "state": ""}]


def test_what_is_forced_before_a_request_has_begun_takes_no_time() -> None:
    forced = TokensSampled(0, (Sample(R, 9, None, (), 1, True),))
    events = [(0, opened()), (2000, ExprStarted(F, ExprId(1), "gen", "x", 1)), (2000, queued()), (2000, forced), (2003, matched(n_hit=2))]
    view = folded(LanesView(RUN), [*events, (2010, step(((1, 2),)))])
    assert [bar for bar in bars(view) if bar[1] == "forced"] == [("f1", "forced", 2000, 2000, 1)]
    entries = [Entry(n, t_ms, event) for n, (t_ms, event) in enumerate(events)]
    (one,) = inspections(entries)
    assert (one.n_hit, len(one.samples)) == (2, 1)


def test_a_preempted_request_shows_the_gap() -> None:
    events = [(0, opened()), (0, queued()), (1, matched()), (6, step(((1, 3),))), (7, RequestPreempted(R, 3)), (9, matched(n_hit=2))]
    assert ("f1", "preempted", 7, 9, 3) in bars(folded(LanesView(RUN), events))


def test_parallel_samples_and_requests_without_a_fork_have_lanes_of_their_own() -> None:
    view = folded(LanesView(), [opened(), queued(1), queued(2, group=1), queued(3, kind="score", group=3), queued(4, fork=None)])
    assert [(row["lane"], row["parent"], row["kind"]) for row in view.full()["lanes"]] == [
        ("f1", None, "fork"),
        ("r2", "f1", "request"),
        ("r4", None, "request"),
    ]


def over(view: LanesView, kind: str) -> list[tuple[float, float | None, int, int]]:
    return [(bar["t0"], bar["t1"], bar["n"], bar["wrong"]) for bar in view.full()["bars"] if bar["kind"] == kind]


def test_drafts_are_on_their_steps_and_count_as_decoded() -> None:
    events: list[Event | tuple[float, Event]] = [(0, opened()), (0, queued()), (1, matched()), (6, step(((1, 3),))), (6, sampled(4))]
    events += [(10, DraftVerified(R, "tree", 4, 4)), (10, sampled(5, 6, 7, 8, 9)), (11, step(decode=(1,)))]
    events += [(15, DraftVerified(R, "tree", 3, 1)), (15, sampled(1, 2)), (16, step(decode=(1,)))]
    events += [(20, sampled(3)), (21, step(decode=(1,))), (25, DraftVerified(R, "ngram", 2, 0)), (25, sampled(4)), (26, step(decode=(1,)))]
    view = folded(LanesView(RUN), events)
    assert over(view, "drafted") == [(6, 15, 5, 2), (21, 25, 0, 2)]
    assert ("f1", "decode", 6, 26, 9) in bars(view)


def test_forced_tokens_are_on_their_step() -> None:
    forced = TokensSampled(1, tuple(Sample(R, token, None, (), 1, True) for token in (5, 6)))
    events: list[Event | tuple[float, Event]] = [(0, opened()), (0, queued()), (1, matched()), (6, step(((1, 3),))), (6, sampled(4))]
    view = folded(LanesView(RUN), [*events, (10, forced), (11, step(decode=(1,)))])
    assert over(view, "forced") == [(6, 10, 2, 0)]
    assert [(bar["request"], bar["at"]) for bar in view.full()["bars"] if bar["kind"] == "forced"] == [(1, 4)]


def test_bars_have_the_positions_of_their_tokens() -> None:
    events = [opened(), queued(), matched(n_hit=1), step(((1, 2),)), sampled(4), step(decode=(1,)), sampled(5)]
    view = folded(LanesView(RUN), events)
    assert [(bar["kind"], bar["at"], bar["n"]) for bar in view.full()["bars"]] == [
        ("wait", None, 3),
        ("found", 0, 1),
        ("prefill", 1, 2),
        ("decode", 3, 1),
    ]


# ---------------------------------------------------------------- how it was drawn


def test_a_token_has_its_time_and_latency() -> None:
    drafted = TokensSampled(2, (Sample(R, 5, -0.5, (), 12, False), Sample(R, 6, -0.5, (), None, False, True)))
    events: list[Event | tuple[float, Event]] = [(0, opened()), (2, literal(1, 2, 3)), (3, queued()), (4, matched()), (8, step(((1, 3),)))]
    view = folded(TokensView(spell, RUN), [*events, (9, sampled(4)), (14, drafted)])
    assert [tok[5:] for tok in view.full()["ops"][0]["toks"][2:]] == [
        (3, None),
        (4, {"t": 9.0, "ms": 6.0}),
        (5, {"t": 14.0, "ms": 5.0, "allowed": 12}),
        (6, {"t": 14.0, "ms": 0.0, "drafted": True}),
    ]


def test_a_node_remembers_who_computed_and_found_it_and_where_a_fork_ends() -> None:
    stage = story()
    view = folded(TreeView(stage.spell), [entry.event for entry in stage.entries])
    rows = {row["id"]: row for row in view.full()["nodes"]}
    ends = dict(view.full()["ends"])
    for fork, tokens in stage.streams.items():
        if fork not in ends:
            continue
        held: list[int] = []
        node: int | None = ends[fork]
        while node is not None:
            held = [*stage.tree[NodeId(node)].tokens, *held]
            node = rows[node]["parent"]
        assert held == tokens[: len(held)]
    assert len(ends) > 4
    shared = max(rows.values(), key=lambda row: row["hits"])
    assert len(shared["by"]) > 3
    assert shared["by"] == sorted(shared["by"])


def test_the_text_of_a_node_is_sent_once_and_again_after_a_split() -> None:
    events: list[Event] = [NodeInserted(NodeId(1), None, (), ()), NodeInserted(NodeId(2), NodeId(1), (1, 2, 3), ())]
    view = folded(TreeView(spell), events)
    assert (view.delta() or {})["texts"] == [{"id": 2, "text": "abc", "ids": [1, 2, 3]}]
    assert (folded(view, [Touched((NodeId(2),), 1)]).delta() or {})["texts"] == []
    split = folded(view, [NodeSplit(NodeId(2), NodeId(3), 1)]).delta() or {}
    assert {row["id"]: row["text"] for row in split["texts"]} == {3: "a", 2: "bc"}


# ---------------------------------------------------------------- metrics


def test_the_counts_equal_those_of_the_finished_requests() -> None:
    stage = story()
    events = [entry.event for entry in stage.entries]
    strip = folded(MetricsView(), events).full()
    ends = [event for event in events if isinstance(event, RequestFinished)]
    assert strip["cached"] == sum(end.n_cached for end in ends)
    assert strip["computed"] == sum(end.n_prompt - end.n_cached for end in ends)
    assert strip["generated"] == sum(end.n_completion for end in ends)
    assert strip["evicted"] == sum(event.n_tokens for event in events if isinstance(event, NodeEvicted))
    assert strip["hit_rate"] == strip["cached"] / (strip["cached"] + strip["computed"])
    assert (strip["forks"], strip["running"], strip["waiting"], strip["n_pages"]) == (3, 0, 0, stage.n_pages)


def test_the_prompt_of_a_select_counts_once_whichever_choices_read_it() -> None:
    lead = RequestQueued(RequestId(1), F, ExprId(1), "score", (1, 2, 3, 4), 0, RequestId(1), 2)
    other = RequestQueued(RequestId(2), F, ExprId(1), "score", (1, 2, 3, 5), 0, RequestId(1), 3)
    events = [opened(), lead, other, matched(1, 0, 4), step(((1, 4),)), matched(2, 3, 4), step(((2, 1),)), finished(1), finished(2)]
    strip = folded(MetricsView(), events).full()
    assert (strip["cached"], strip["computed"], strip["hit_rate"]) == (0, 5, 0.0)


def test_the_speed_is_what_was_generated_from_the_first_request_to_the_last_token_at_any_moment() -> None:
    view = folded(MetricsView(RUN), [opened(), queued(), matched()])
    for n in range(1, 101):
        view.fold(Entry(3 * n, n * 100_000_000, step(decode=(1,), ms=50)))
        view.fold(Entry(3 * n + 1, n * 100_000_000, sampled(4)))
        assert view.full()["tok_s"] == 10.0
    view.fold(Entry(400, 20_000_000_000, finished()))
    view.fold(Entry(401, 30_000_000_000, CellFinished(RUN, "ok", "")))
    assert view.full()["tok_s"] == 10.0


# ---------------------------------------------------------------- from before, and within the run


def test_a_cold_run_finds_nothing_from_before_however_much_its_forks_reuse() -> None:
    stage = Stage(2_000)
    main = stage.open()
    stage.say(main, "one two three four five")
    stage.gen((main, "a", "six seven"))
    forks = [stage.open(main, n) for n in range(3)]
    for number, fork in enumerate(forks):
        stage.say(fork, f" and {number}")
    stage.gen(*[(fork, "b", " eight nine") for fork in forks])
    views = views_of(stage.run, stage.spell)
    for entry in stage.entries:
        for view in views:
            view.fold(entry)
    strip = views.metrics.full()
    hits = [entry.event.n_hit for entry in stage.entries if isinstance(entry.event, PrefixMatched)]
    assert (strip["found"], strip["reused"]) == (0, sum(hits))
    assert strip["reused"] >= 3 * 6
    assert {bar["kind"] for bar in views.lanes.full()["bars"]} >= {"reused", "prefill", "decode"}
    assert "found" not in {bar["kind"] for bar in views.lanes.full()["bars"]}
    assert "cached" not in {tok[1] for op in views.tokens.full()["ops"] for tok in op["toks"]}


def test_what_a_run_computed_without_sampling_is_its_own_although_its_step_is_reported_later() -> None:
    events = [opened(), queued(1), matched(1, 0, 3), finished(1), step(((1, 3),)), queued(2), matched(2, 3, 3)]
    assert found_and_reused(events) == (0, 3, {"prefill", "reused"})


def test_tokens_forced_before_admission_do_not_extend_what_the_run_has() -> None:
    forced = TokensSampled(1, (Sample(RequestId(1), 9, None, (), 1, True),))
    assert found_and_reused([opened(), queued(1), forced, matched(1, 2, 4)]) == (2, 0, {"found", "forced"})


def found_and_reused(events: list[Event]) -> tuple[int, int, set[str]]:
    """The token counts, and the kinds of bars on the lanes except waiting."""
    reuse = Reuse(RUN)
    metrics, lanes = MetricsView(RUN, reuse), LanesView(RUN, reuse)
    for number, event in enumerate(events):
        metrics.fold(Entry(number, number, event))
        lanes.fold(Entry(number, number, event))
    strip = metrics.full()
    return strip["found"], strip["reused"], {bar["kind"] for bar in lanes.full()["bars"]} - {"wait"}


def test_a_prefix_of_an_earlier_run_is_found_once_and_reused_from_then_on() -> None:
    stage = Stage(2_000)
    old = stage.open()
    stage.say(old, "one two three four five")
    stage.gen((old, "a", " six"))
    stage.run, at = RunId(2), len(stage.entries)
    programs = [stage.open() for _ in range(3)]
    for program in programs:
        stage.say(program, "one two three four five seven")
        stage.gen((program, "b", " eight"))
    views = views_of(stage.run, stage.spell)
    views.tree.load(snapshot_at(stage, at))
    for entry in stage.entries:
        for view in views:
            if view is not views.tree or entry.seq >= at:
                view.fold(entry)
    strip = views.metrics.full()
    assert [strip[name] for name in ("found", "reused", "cached", "computed")] == [5, 10, 15, 3]
    states = [[tok[1] for tok in op["toks"]] for op in views.tokens.full()["ops"]]
    assert states == [["cached"] * 5 + ["computed", "generated"]] + [["reused"] * 5 + ["computed", "generated"]] * 2
    rows = {row["label"]: row for row in views.tree.full()["nodes"]}
    assert [(rows[label]["mine"], rows[label]["fresh"]) for label in ("one two three four five", " seven")] == [(True, False), (True, True)]
    assert rows["one two three four five"]["reused"] == 2


def test_an_entry_folded_by_several_views_counts_once() -> None:
    reuse = Reuse(RUN)
    for entry in [Entry(n, n, event) for n, event in enumerate([opened(), queued(), matched(), step(((1, 3),)), finished()])]:
        reuse.fold(entry)
        reuse.fold(entry)
    again = [Entry(9, 9, queued(2)), Entry(10, 10, matched(2, 2, 3))]
    for entry in again:
        reuse.fold(entry)
    assert reuse.n_reused(RequestId(2)) == 2


def test_what_fails_marks_its_fork_and_its_lane() -> None:
    events = [opened(), ExprStarted(F, ExprId(1), "gen", "x", 1), queued(), ExprFinished(F, ExprId(1), "error", "no room")]
    tokens, lanes = folded(TokensView(spell, RUN), events), folded(LanesView(RUN), events)
    assert [row["state"] for row in (tokens.delta() or {})["forks"]] == ["error"]
    assert [row["state"] for row in (lanes.delta() or {})["lanes"]] == ["error"]


def test_pages_come_from_the_model_the_snapshot_and_every_step() -> None:
    view = folded(MetricsView(), [ModelLoaded("m", NAMESPACE, "cpu", "float32", 100, 1, 2048)])
    assert (view.full()["n_pages"], view.full()["free_pages"]) == (100, 100)
    view.load(TreeSnapshot((), 80, 60, 0))
    assert (view.full()["n_pages"], view.full()["free_pages"]) == (80, 60)
    folded(view, [step(free_pages=55)])
    assert view.full()["free_pages"] == 55


def test_a_hit_rate_without_prompts_is_unknown() -> None:
    assert MetricsView().full()["hit_rate"] is None
    assert Stage().free_pages == 420


def test_a_gap_between_two_requests_has_the_programs_activity() -> None:
    stage = Stage()
    parent = stage.open()
    stage.say(parent, "Say")
    stage.wait(40)
    stage.gen((parent, "a", "one"))
    stage.gen((parent, "b", "two three"))
    child = stage.open(parent, 0, "s[0]")
    stage.say(child, "and")
    stage.gen((child, "c", "three four"))
    stage.say(parent, "then")
    stage.gen((parent, "d", "five"))
    view = LanesView(stage.run)
    for entry in stage.entries:
        view.fold(entry)
    gaps = [(bar["lane"], bar["kind"], bar["t0"]) for bar in view.full()["bars"] if bar["kind"] in ("host", "forks")]
    ends = [bar["t1"] for bar in view.full()["bars"] if bar["name"] == "b" and bar["kind"] == "decode"]
    assert gaps == [("f1", "host", 0.0), ("f1", "forks", ends[-1])]
    drawn = re.sub(r"<[^>]*>", " ", still.lanes(view.full()).source)
    words = [word for _, word in palette.BARS.values() if word in unescape(drawn)]
    assert words == ["waiting", "program's own code", "waits for forks", "reused", "computed · prefill", "generated · decode"]


LOGPROBS = st.floats(-1e12, 1e12) | st.sampled_from([float("inf"), float("-inf"), float("nan")])


@given(
    texts=st.lists(st.text(max_size=6), min_size=8, max_size=8),
    logprob=st.none() | LOGPROBS,
    others=st.lists(st.tuples(st.integers(0, 7), LOGPROBS), max_size=5),
    n_allowed=st.none() | st.just(3),
    flags=st.tuples(st.booleans(), st.booleans()),
    healed=st.sampled_from([(), (2, 3)]),
    role=st.text(max_size=4),
    sampled=st.booleans(),
)
def test_a_written_token_has_the_same_content_as_a_plain_one(
    texts: list[str],
    logprob: float | None,
    others: list[tuple[int, float]],
    n_allowed: int | None,
    flags: tuple[bool, bool],
    healed: tuple[int, ...],
    role: str,
    sampled: bool,
) -> None:
    sample = Sample(RequestId(1), 5, logprob, tuple(others), n_allowed, *flags)
    token = Token(5, "generated", role, sample if sampled else None, 1234.567, 7.12345, healed)
    layout = Layout(texts.__getitem__)
    (plain,), (written,) = layout.plain([token]), layout.written([token])
    assert json.loads(written) == json.loads(json.dumps(plain, allow_nan=False))
    assert written.isascii()
    assert len(written) + 1 >= LEAST_BYTES
