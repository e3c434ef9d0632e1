"""What a person sees of a run on an engine behind an API: its own counts, whenever they come, and no more than is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sgl_lab.backends.trees.inferred import InferredTree
from sgl_lab.backends.trees.shadow import Shadow
from sgl_lab.contracts.events import (
    Entry,
    Event,
    ExprStarted,
    ForkOpened,
    RequestAnswered,
    RequestQueued,
    Sample,
    StreamExtended,
    TextArrived,
)
from sgl_lab.contracts.ids import ExprId, ForkId, RequestId, RunId
from sgl_lab.contracts.pieces import pieces
from sgl_lab.contracts.tree import CacheRules
from sgl_lab.viz.draw import still, text
from sgl_lab.viz.freeze import freeze
from sgl_lab.viz.views import RunViews, views_of
from sgl_lab.viz.views.recent import RecentView

RULES = CacheRules("inferred", "the SGLang server")
PROMPT = tuple(range(100, 232))


class Away:
    """Requests to an engine elsewhere, with the events of its backend, folded as a live view folds them."""

    def __init__(self, rules: CacheRules = RULES) -> None:
        self.entries: list[Entry] = []
        self.tree = InferredTree(("m", "there", "inferred"), rules, self._emit, clock=lambda: len(self.entries) / 1e3)
        self.emit = Shadow(self.tree, self._emit)
        self.n = 0

    def _emit(self, event: Event) -> None:
        self.entries.append(Entry(len(self.entries), len(self.entries) * 1_000_000, event))

    def open(self, fork: int, parent: int | None = None, run: int = 1) -> None:
        self.emit(ForkOpened(RunId(run), ForkId(fork), None if parent is None else ForkId(parent), 0, f"s{fork}"))

    def queue(self, fork: int, prompt: tuple[int, ...], kind: str = "gen") -> RequestId:
        self.n += 1
        request, expr = RequestId(self.n), ExprId(self.n)
        self.emit(ExprStarted(ForkId(fork), expr, kind, "a", 1, "assistant"))
        is_elsewhere = prompt[0] < 1 << 52
        self.emit(RequestQueued(request, ForkId(fork), expr, kind, prompt, 8, request, is_elsewhere=is_elsewhere))
        return request

    def say(self, request: RequestId, *tokens: int) -> None:
        self.emit(TextArrived(request, 0, tuple(Sample(request, token, None, (), None, False) for token in tokens)))

    def answer(self, request: RequestId, n_prompt: int, n_completion: int, n_cached: int | None) -> None:
        self.emit(RequestAnswered(request, "stop", n_prompt, n_completion, n_cached, None, ""))

    def ask(self, fork: int, prompt: tuple[int, ...], n_cached: int | None, *, late: bool = True) -> None:
        request = self.queue(fork, prompt)
        if not late:
            self.tree.admitted(request, n_cached or 0, len(prompt))
        self.say(request, 7)
        self.say(request, 8, 9)
        self.answer(request, len(prompt), 3, n_cached)

    def views(self, run: int = 1) -> RunViews:
        views = views_of(RunId(run), str)
        for entry in self.entries:
            for view in views:
                view.fold(entry)
        return views


def origins(views: RunViews, fork: int) -> dict[str, int]:
    """Tokens of a fork's own stream by state."""
    found: dict[str, int] = {}
    for op in views.tokens.full()["ops"]:
        for tok in op["toks"] if op["fork"] == fork else ():
            found[tok[1]] = found.get(tok[1], 0) + 1
    return found


def bars(views: RunViews) -> list[tuple[str, int, Any]]:
    return [(bar["kind"], bar["n"], bar["at"]) for bar in views.lanes.full()["bars"] if bar["kind"] not in ("text", "host")]


@pytest.mark.parametrize("late", [True, False])
def test_counts_are_taken_when_they_come_with_the_first_part_or_with_the_answer(late: bool) -> None:
    away = Away()
    away.open(1)
    away.emit(StreamExtended(ForkId(1), 0, PROMPT, "text", "user"))
    away.ask(1, PROMPT, 127, late=late)
    views = away.views()
    strip = views.metrics.full()
    assert (strip["found"], strip["reused"], strip["computed"], strip["generated"]) == (127, 0, 5, 3)
    assert strip["hit_rate"] == 127 / 132
    assert origins(views, 1) == {"cached": 127, "computed": 5, "generated": 3}
    rest = [("decode", 3, 132), ("found", 127, 0)]
    assert bars(views) == [("sent", 132, None), *(rest if late else rest[::-1])]
    first, decode = (bar for bar in views.lanes.full()["bars"] if bar["kind"] in ("sent", "decode"))
    assert first["t1"] == decode["t0"] < decode["t1"], "the answer's time is not drawn as the prompt's"
    assert "127 cached by the server · 5 computed · 3 generated" in text.metrics(strip)


def test_while_the_answer_comes_its_tokens_are_counted_and_the_rest_is_open() -> None:
    away = Away()
    away.open(1)
    away.emit(StreamExtended(ForkId(1), 0, PROMPT, "text", "user"))
    request = away.queue(1, PROMPT)
    views = away.views()
    assert (views.metrics.full()["waiting"], bars(views)) == (1, [("sent", 132, None)])
    away.say(request, 7, 8)
    views = away.views()
    strip = views.metrics.full()
    assert (strip["cached"], strip["computed"], strip["generated"], strip["running"]) == (0, 0, 2, 1)
    assert origins(views, 1) == {"text": 132, "generated": 2}, "whether it was cached is not known yet"
    away.answer(request, 132, 2, 100)
    assert origins(away.views(), 1) == {"cached": 100, "computed": 32, "generated": 2}


def test_what_this_run_had_sent_before_is_reused_and_the_rest_is_only_cached() -> None:
    away = Away()
    away.open(1)
    away.emit(StreamExtended(ForkId(1), 0, PROMPT, "text", "user"))
    away.ask(1, PROMPT, 64)
    away.open(2, 1)
    away.emit(StreamExtended(ForkId(2), 132, (1, 2, 3), "text", "user"))
    away.ask(2, (*PROMPT, 1, 2, 3), 132)
    views = away.views()
    strip = views.metrics.full()
    assert (strip["found"], strip["reused"], strip["computed"]) == (64, 132, 71)
    drawn = freeze(tokens=views.tokens, tree=views.tree, lanes=views.lanes, metrics=views.metrics, title="m · there")["text/html"]
    assert "cached by the server" in drawn
    assert "cached by the server" in drawn
    assert "reused in this run" in drawn
    assert "from earlier runs" not in drawn
    assert "from this run" not in drawn


def test_a_select_is_a_bar_of_the_time_that_its_scores_took() -> None:
    away = Away()
    away.open(1)
    away.answer(away.queue(1, PROMPT, "score"), 140, 0, 128)
    views = away.views()
    assert bars(views) == [("score", 12, 128), ("found", 128, 0)]
    assert views.metrics.full()["computed"] == 12
    score, found = (bar for bar in views.lanes.full()["bars"] if bar["kind"] in ("score", "found"))
    assert score["t0"] == found["t0"] < score["t1"]


def test_a_server_that_does_not_count_its_hits_is_not_said_to_have_none() -> None:
    away = Away(replace(RULES, unit="words"))
    away.open(1)
    prompt = pieces("one two three four five")
    away.emit(StreamExtended(ForkId(1), 0, prompt, "text", "user"))
    away.ask(1, prompt, None)
    views = away.views()
    strip = views.metrics.full()
    assert "cached: not reported · 5 prompt tokens" in text.metrics(strip)
    assert "cached: not reported" in still.counts(strip).source
    assert origins(views, 1)["text"] == len(prompt), "what of it was computed is not known"


def test_a_conversations_prompt_is_computed_where_it_was_not_cached() -> None:
    away = Away(replace(RULES, unit="words"))
    away.open(1)
    prompt = pieces("one two three four five six seven eight")
    away.emit(StreamExtended(ForkId(1), 0, prompt, "text", "user"))
    away.ask(1, prompt, 4)
    found = origins(away.views(), 1)
    assert (found["cached"], found["computed"]) == (4, len(prompt) - 4)


def test_the_request_list_has_the_servers_count() -> None:
    away = Away()
    away.open(1)
    away.ask(1, PROMPT, 127)
    recent = RecentView()
    for entry in away.entries:
        recent.fold(entry)
    assert [(bar["kind"], bar["n"]) for bar in recent.full()["bars"]] == [("sent", 132), ("decode", 3), ("found", 127)]
