"""The tree of an engine behind an API, inferred from its requests' events, and why its prefixes missed."""

from __future__ import annotations

import pytest

from sgl_lab.backends.trees.inferred import InferredTree
from sgl_lab.backends.trees.rules import RULES, rules_of
from sgl_lab.backends.trees.shadow import Shadow
from sgl_lab.contracts.events import (
    CellFinished,
    CellStarted,
    Entry,
    Event,
    ExprStarted,
    ForkOpened,
    NodeEvicted,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestQueued,
    Sample,
    TextArrived,
)
from sgl_lab.contracts.ids import ExprId, ForkId, RequestId, RunId
from sgl_lab.contracts.pieces import pieces, spelled
from sgl_lab.contracts.tree import CacheRules
from sgl_lab.trace import Record
from sgl_lab.viz.draw.why import text
from sgl_lab.viz.explain.why import why
from sgl_lab.viz.views.metrics import MetricsView
from sgl_lab.viz.views.tree import TreeView

LONG = " ".join(f"word{n}" for n in range(800))


class Api:
    """Runs of one request each, recorded with the events that an API's backend and the language emit."""

    def __init__(self, rules: CacheRules) -> None:
        self.entries: list[Entry] = []
        self.now_s = 0.0
        self.tree = InferredTree(("m", "api", "inferred"), rules, self._emit, clock=lambda: self.now_s)
        self.emit = Shadow(self.tree, self._emit)
        self.n = 0

    def _emit(self, event: Event) -> None:
        self.entries.append(Entry(len(self.entries), int(self.now_s * 1e9), event))

    def run(self, prompt: str, n_prompt: int, n_cached: int | None, after_s: float = 1.0) -> Record:
        self.now_s += after_s
        self.n += 1
        record = Record(RunId(self.n))
        record.begin(self.tree.snapshot(lambda: len(self.entries)))
        first = len(self.entries)
        fork, expr, request, ids = ForkId(self.n), ExprId(self.n), RequestId(self.n), pieces(prompt)
        for event in (
            CellStarted(record.run, f"In[{self.n}]", ""),
            ForkOpened(record.run, fork, None, 0, ""),
            ExprStarted(fork, expr, "gen", "answer", 1, "assistant"),
            RequestQueued(request, fork, expr, "gen", ids, 8, request),
        ):
            self.emit(event)
        self.now_s += 0.1
        self.emit(TextArrived(request, 0, tuple(Sample(request, piece, None, (), None, False) for piece in pieces(" fine"))))
        self.emit(RequestAnswered(request, "stop", n_prompt, 2, n_cached, None, ""))
        self.emit(CellFinished(record.run, "ok", ""))
        for entry in self.entries[first:]:
            record.append(entry)
        record.end(spelled)
        return record

    def of(self, kind: type[Event]) -> list[Event]:
        return [entry.event for entry in self.entries if isinstance(entry.event, kind)]


def test_a_tree_of_text_follows_the_counts_and_its_events_fold_to_it() -> None:
    api = Api(RULES["openai"])
    api.run(LONG, 1600, 0)
    second = api.run(LONG + " and more", 1602, 1536)
    (_, match) = api.of(PrefixMatched)
    assert isinstance(match, PrefixMatched)
    assert match.n_hit == len(pieces(LONG)), "all whole steps of it were cached"
    assert not api.of(NodeEvicted)
    assert not api.of(RequestFinished), "the language says the end of a request behind an API"
    view = TreeView(spelled)
    view.load(second.snapshot)
    for entry in second.entries:
        view.fold(entry)
    assert {node.node: node for node in api.tree.snapshot().nodes} == dict(view.nodes)


def test_counts_of_tokens_are_the_servers_alone() -> None:
    api = Api(RULES["openai"])
    api.run(LONG, 1600, 0)
    second = api.run(LONG, 1600, 1536)
    metrics = MetricsView(second.run)
    for entry in second.entries:
        metrics.fold(entry)
    picture = metrics.full()
    assert (picture["cached"], picture["computed"]) == (1536, 64)


def test_a_server_that_counts_nothing_has_no_tree() -> None:
    api = Api(rules_of("", "10.0.0.1", is_own=False))
    api.run(LONG, 1600, None)
    assert not api.of(PrefixMatched)


@pytest.mark.parametrize(
    ("vendor", "prompt", "n_prompt", "after_s", "cause", "words"),
    [
        ("openai", "a short prompt of a few words that is always the same", 12, 1.0, "short", "no prefix below 1,024 tokens"),
        ("anthropic", LONG, 1600, 400.0, "expired", "keeps an unused prefix for"),
        ("anthropic", LONG, 1600, 10.0, "unmarked", "up to a mark"),
        ("openai", LONG, 1600, 10.0, "evicted", "did not have them any more (inferred"),
    ],
)
def test_why_a_prefix_missed_behind_an_api(vendor: str, prompt: str, n_prompt: int, after_s: float, cause: str, words: str) -> None:
    api = Api(RULES[vendor])
    first = api.run(prompt, n_prompt, 0)
    second = api.run(prompt, n_prompt, 0, after_s)
    found = why(second, [first])
    (miss,) = found.misses
    assert miss.cause == cause
    spoken = text(found, spelled)
    assert words in spoken
    assert "inferred from the counts of" in spoken
    assert "pieces of text" in spoken


def test_a_server_of_ones_own_keeps_every_length() -> None:
    api = Api(rules_of("", "10.0.0.1:8000", is_own=False))
    prompt = "a short prompt of a few words that is always the same, in every run of it"
    first = api.run(prompt, 20, 0)
    found = why(api.run(prompt, 20, 0), [first])
    assert found.misses[0].cause == "evicted"
    assert "the server at 10.0.0.1:8000" in text(found, spelled)
