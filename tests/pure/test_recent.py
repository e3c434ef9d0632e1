"""The dashboard's folds: every request has a lane, the last are kept, and the strip is the engine's own."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sgl_lab.contracts.events import (
    CellStarted,
    Entry,
    ForkOpened,
    NodeInserted,
    PrefixMatched,
    RequestFinished,
    RequestQueued,
    StepRan,
    TokensSampled,
)
from sgl_lab.contracts.ids import ForkId, NodeId, RequestId, RunId
from sgl_lab.contracts.params import Constraint
from sgl_lab.trace import Ring
from sgl_lab.viz.dashboard import dashboard_views
from sgl_lab.viz.sender import MAX_BYTES, Sender
from sgl_lab.viz.views.counts import CountsView
from sgl_lab.viz.views.metrics import MetricsView
from sgl_lab.viz.views.recent import KEPT_NAMES, RecentView

from .driving import bench
from .story import poll, story
from .test_simulate import ask


def lane(entry_seq: int, request: int, view: RecentView) -> None:
    """A whole request, from its queueing to its end."""
    name = RequestId(request)
    for n, event in enumerate(
        (
            RequestQueued(name, None, None, "gen", (1, 2, 3), 4, name),
            StepRan(request, ((name, 3),), (), 0, 10, 1.0),
            RequestFinished(name, "stop", 3, 1, 0, 3, 1),
        )
    ):
        view.fold(Entry(entry_seq + n, (entry_seq + n) * 1_000_000, event))


def test_the_last_finished_requests_are_kept_and_dropped_ones_are_reported() -> None:
    view = RecentView(kept=10)
    lanes: set[str] = set()
    for n in range(300):
        lane(10 * n, n, view)
        if n % 7 == 0 and (delta := view.delta()):
            lanes |= {row["lane"] for row in delta["lanes"]}
            lanes -= set(delta["gone"])
    view.fold(Entry(9999, 9_999_000_000, StepRan(301, (), (), 0, 10, 1.0)))
    delta = view.delta()
    assert delta is not None
    lanes |= {row["lane"] for row in delta["lanes"]}
    lanes -= set(delta["gone"])
    assert lanes == {row["lane"] for row in view.full()["lanes"]} == {f"r{n}" for n in range(290, 300)}
    assert {bar["lane"] for bar in view.full()["bars"]} == lanes


def test_a_waiting_request_is_queued_under_the_name_of_its_cell_and_fork() -> None:
    view = RecentView()
    ring = Ring()
    ring.listen(view.fold)
    ring.emit(CellStarted(RunId(1), "In[4]", "source"))
    ring.emit(ForkOpened(RunId(1), ForkId(1), None, 0, "s"))
    ring.emit(ForkOpened(RunId(1), ForkId(2), ForkId(1), 1, ""))
    ring.emit(RequestQueued(RequestId(7), ForkId(2), None, "gen", (1, 2), 5, RequestId(7)))
    assert view.full()["queue"] == ["In[4] · fork 2 · gen"]
    assert (view.waiting, view.running) == (1, 0)


def test_names_of_forks_are_dropped_eventually() -> None:
    view = RecentView()
    for n in range(KEPT_NAMES + 500):
        view.fold(Entry(n, n, ForkOpened(RunId(n), ForkId(n), None, 0, "s")))
    assert len(view._forks) == KEPT_NAMES


def test_the_strip_is_the_engines_own_counters_after_every_step() -> None:
    b = bench()
    view = CountsView(b.engine.stats, RecentView())
    for _ in range(3):
        b.gen(tuple(b"what is counted"), max_tokens=5, ignore_eos=True)
        b.drain()
        picture, counts = view.full(), b.engine.stats()
        assert picture["cached"] == counts["cached_prompt_tokens"]
        assert picture["cached"] + picture["computed"] == counts["prompt_tokens"]
        assert picture["generated"] == counts["generated_tokens"]
        assert picture["n_pages"] - picture["free_pages"] == counts["pages_total"] - counts["pages_free"]


@pytest.mark.parametrize(
    "config", [{}, {"n_pages": 64, "draft_tokens": 0}, {"n_pages": 16, "page_size": 4, "step_tokens": 24, "max_rows": 8}]
)
def test_the_strip_of_a_run_and_the_engine_agree_whatever_was_forced_chosen_or_preempted(config: dict[str, Any]) -> None:
    draw, b = random.Random(7), bench(**config)
    for _ in range(20):
        ask(b, draw, 9, [])
    whole, own = CountsView(b.engine.stats, RecentView()).full(), MetricsView()
    for n, event in enumerate(b.fold.events):
        own.fold(Entry(n, n, event))
    counts, strip = b.engine.stats(), own.full()
    n_forced = sum(end.n_prompt for end in b.fold.of(RequestFinished) if not end.n_steps and not end.n_cached)
    assert counts["forced_tokens"]
    assert counts["preemptions"] or not config
    assert [strip[name] for name in ("cached", "generated", "forced", "evicted", "steps")] == [
        whole[name] for name in ("cached", "generated", "forced", "evicted", "steps")
    ]
    assert strip["cached"] + strip["computed"] == counts["prompt_tokens"] - n_forced, "a completely forced text makes no request"
    assert 0 < counts["hit_rate"] == counts["cached_prompt_tokens"] / counts["prompt_tokens"] < 1


def test_the_hit_rate_never_exceeds_one_although_forced_tokens_are_cached_too() -> None:
    b, views = bench(), []
    for _ in range(2):
        views.append(b.gen(tuple(b"a form: "), max_tokens=20, constraint=Constraint("regex", "so it begins: [a-z]{3}")))
        b.drain()
    again, counts = views[1].output.usage, b.engine.stats()
    assert again.cached_tokens > again.prompt_tokens
    assert counts["cached_tokens"] == again.cached_tokens
    assert counts["cached_prompt_tokens"] == again.prompt_tokens
    assert counts["hit_rate"] == 0.5
    assert CountsView(b.engine.stats, RecentView()).full()["computed"] == again.prompt_tokens


def test_speed_is_of_the_last_two_seconds_and_zero_when_nothing_runs() -> None:
    clock = [0.0]
    recent = RecentView()
    view = CountsView(dict, recent, lambda: clock[0])
    recent.fold(Entry(0, 0, RequestQueued(RequestId(1), None, None, "gen", (1,), 5, RequestId(1))))
    for n in range(40):
        clock[0] = n / 10
        view.fold(Entry(n + 1, 0, TokensSampled(n, ())))
        view._grown[-1] = (clock[0], 5)
    assert 45 < view.full()["tok_s"] < 55
    recent.fold(Entry(99, 1, RequestFinished(RequestId(1), "stop", 1, 1, 0, 1, 1)))
    assert view.full()["tok_s"] == 0.0


def test_a_dashboards_memory_does_not_grow_with_time() -> None:
    def size(n_requests: int) -> int:
        views = dashboard_views(str, dict)
        ring = Ring()
        ring.listen(lambda entry: views.fold([entry]))
        ring.emit(NodeInserted(NodeId(1), None, (), ("model",)))
        ring.emit(NodeInserted(NodeId(2), NodeId(1), (1, 2), ("model",)))
        for n in range(1, n_requests):
            name = RequestId(n)
            ring.emit(ForkOpened(RunId(n), ForkId(n), None, 0, "s"))
            ring.emit(RequestQueued(name, ForkId(n), None, "gen", (1, 2, 3), 4, name))
            ring.emit(PrefixMatched(name, 2, 3, NodeId(2)))
            ring.emit(StepRan(n, ((name, 1),), (), 0, 10, 1.0))
            ring.emit(RequestFinished(name, "stop", 3, 1, 2, 1, 1))
            for view in views.named().values():
                view.delta()
        return len(json.dumps({name: view.full() for name, view in views.named().items()}))

    assert size(1500) < 1.1 * size(300)


def test_deltas_and_one_full_message_have_the_same_lanes_and_no_text() -> None:
    stage = story()
    sender = Sender(dashboard_views(stage.spell, dict))
    sent = []
    for entry in stage.entries:
        sender.fold([entry])
        sent += poll(sender, entry.t_ns)
    sent += poll(sender, stage.entries[-1].t_ns, flush=True)
    lanes: dict[str, object] = {}
    bars: dict[int, object] = {}
    for message in sent:
        assert len(json.dumps(message)) <= MAX_BYTES
        assert "tokens" not in message
        changes = message.get("lanes", {})
        lanes |= {row["lane"]: row for row in changes.get("lanes", [])}
        bars |= {bar["id"]: bar for bar in changes.get("bars", [])}
    view = RecentView()
    for entry in stage.entries:
        view.fold(entry)
    full = view.full()
    assert len(sent) > 8
    assert len(lanes) > 3
    assert lanes == {row["lane"]: row for row in full["lanes"]}
    assert bars == {bar["id"]: bar for bar in full["bars"]}
    assert (view.running, view.waiting, full["queue"]) == (0, 0, [])
