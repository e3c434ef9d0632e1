"""Every request of an engine, from any program: one lane for each request that runs, waits, or was
among the last to end.

Memory is bounded: older lanes are dropped and reported as `gone`. Times are milliseconds since the
engine's log began. Lanes and bars have the shape of `LanesView`, so that the same page draws them.

Knows no token's text and no tree.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from ...contracts.events import (
    CellStarted,
    DraftVerified,
    Entry,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestPreempted,
    RequestQueued,
    StepRan,
    TextArrived,
)
from ...contracts.ids import ExprId, ForkId, RequestId, RunId
from ...contracts.legible import clipped
from .lanes import LEAST_BYTES, BarRow, LaneRow, LanesPicture
from .names import is_elsewhere, unnamed

KEPT = 60
"""finished requests"""
KEPT_NAMES = 20_000
"""forks and runs whose names are kept"""
WINDOW_MS = 60_000.0
"""milliseconds that the page shows at first"""
LABEL = 60

Id = TypeVar("Id")


class RecentPicture(LanesPicture):
    gone: list[str]
    """lanes that are no longer kept, with their bars"""
    queue: list[str]
    """waiting requests, first come first"""


@dataclass(slots=True)
class _Request:
    lane: LaneRow
    work: str
    bars: list[BarRow]
    name: str
    is_elsewhere: bool = False
    """whether its engine is behind an API, which reports its counts with the answer"""
    waits: bool = True
    over: bool = False
    n_accepted: int = 0
    """accepted draft tokens of a step that is not reported yet"""
    busy_until: float = 0.0
    is_sent: bool = False
    changed: dict[int, None] = field(default_factory=dict)


class RecentView:
    """Requests of all runs. Of the finished ones the last `kept` remain."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._now = 0.0
        self._n_bars = 0
        self._requests: dict[RequestId, _Request] = {}
        self._over: OrderedDict[RequestId, None] = OrderedDict()
        self._titles: OrderedDict[RunId, str] = OrderedDict()
        self._forks: OrderedDict[ForkId, str] = OrderedDict()
        self._exprs: OrderedDict[ExprId, str] = OrderedDict()
        self._gone: list[str] = []
        self._stale = False

    def fold(self, entry: Entry) -> None:
        now = self._now = round(entry.t_ns / 1e6, 3)
        match entry.event:
            case CellStarted(run=run, title=title):
                _remember(self._titles, run, title)
            case ForkOpened(run=run, fork=fork, parent=parent, index=index, label=label):
                title = self._titles.get(run, f"program {run}")
                _remember(self._forks, fork, title if parent is None else f"{title} · {label or f'fork {index + 1}'}")
            case ExprStarted(expr=expr, name=name, kind=kind):
                _remember(self._exprs, expr, name or kind)
            case ExprFinished(expr=expr):
                self._exprs.pop(expr, None)
            case RequestQueued() as queued:
                self._queue(queued, now)
            case PrefixMatched(request=request, n_hit=n_hit) if (mine := self._requests.get(request)) and not mine.is_elsewhere:
                self._close(mine, now)
                mine.waits, mine.busy_until = False, now
                if n_hit:
                    self._bar(mine, "reused", now, now, n_hit, request, 0)
            case StepRan(prefill=prefill, decode=decode, ms=ms):
                for request, n_tokens in prefill:
                    if mine := self._requests.get(request):
                        self._work(mine, mine.work, now, ms, n_tokens, request)
                for request in decode:
                    if mine := self._requests.get(request):
                        self._work(mine, "decode", now, ms, 1 + mine.n_accepted, request)
                        mine.n_accepted = 0
                self._forget()
            case DraftVerified(request=request, n_accepted=n_accepted) if mine := self._requests.get(request):
                mine.n_accepted += n_accepted
            case RequestPreempted(request=request, n_released=n_released) if mine := self._requests.get(request):
                mine.waits = True
                self._bar(mine, "preempted", now, None, n_released, request)
            case TextArrived(request=request, samples=samples, is_whole=False) if mine := self._requests.get(request):
                self._arrived(mine, now, len(samples), request)
            case RequestAnswered(request=request, n_completion=n_completion, n_cached=n_cached) if mine := self._requests.get(request):
                if n_completion:
                    self._arrived(mine, now, 0, request)
                    mine.bars[-1]["n"] = n_completion
                if n_cached:
                    at = mine.bars[-1]["t0"]
                    self._close(mine, now)
                    self._bar(mine, "found", at, at, n_cached, request, 0)
                self._end(mine, now, request)
                self._forget()
            case RequestFinished(request=request) if mine := self._requests.get(request):
                self._end(mine, now, request)
            case _:
                pass

    def delta(self) -> RecentPicture | None:
        """The changes since the last call, or None."""
        if not self._stale:
            return None
        picture = self._picture(whole=False)
        for mine in self._requests.values():
            mine.is_sent = True
            mine.changed.clear()
        self._gone = []
        self._stale = False
        return picture

    def full(self) -> RecentPicture:
        """Everything, in the shape of a delta."""
        return self._picture(whole=True)

    def least_bytes(self) -> int:
        """A lower bound of the size of `full` as JSON."""
        return LEAST_BYTES * sum(len(mine.bars) for mine in self._requests.values())

    @property
    def running(self) -> int:
        return sum(not mine.over and not mine.waits for mine in self._requests.values())

    @property
    def waiting(self) -> int:
        return sum(mine.waits for mine in self._requests.values())

    # ------------------------------------------------------------ events

    def _queue(self, event: RequestQueued, now: float) -> None:
        who = self._forks.get(event.fork, f"program of fork {event.fork}") if event.fork is not None else f"request {event.request}"
        name = unnamed(event.kind) if event.expr is None else self._exprs.get(event.expr, event.kind)
        lane: LaneRow = {
            "lane": f"r{event.request}",
            "parent": None,
            "label": clipped(f"{who} · {name}", LABEL),
            "kind": "request",
            "state": "",
        }
        elsewhere = is_elsewhere(event)
        mine = _Request(lane, "score" if event.kind == "score" else "prefill", [], clipped(name, LABEL), elsewhere)
        self._requests[event.request] = mine
        self._bar(mine, "sent" if elsewhere else "wait", now, None, len(event.prompt), event.request)

    def _work(self, mine: _Request, kind: str, now: float, ms: float, n_tokens: int, request: RequestId) -> None:
        """A step processed `n_tokens` for this request: extend its newest bar, or begin another."""
        bar = mine.bars[-1]
        if bar["kind"] == kind:
            bar["t1"] = now
            bar["n"] += n_tokens
            mine.changed[bar["id"]] = None
            self._stale = True
        else:
            self._close(mine, now)
            self._bar(mine, kind, max(round(now - ms, 3), mine.busy_until), now, n_tokens, request)
        mine.busy_until = now

    def _arrived(self, mine: _Request, now: float, n_pieces: int, request: RequestId) -> None:
        """A part of an answer of an engine behind an API."""
        if mine.bars[-1]["kind"] != "decode":
            self._close(mine, now)
            mine.waits = False
            self._bar(mine, "decode", now, now, 0, request)
        bar = mine.bars[-1]
        bar["t1"] = now
        bar["n"] += n_pieces
        mine.changed[bar["id"]] = None
        self._stale = True

    def _end(self, mine: _Request, now: float, request: RequestId) -> None:
        self._close(mine, now)
        mine.waits, mine.over = False, True
        self._over[request] = None
        self._stale = True

    def _close(self, mine: _Request, now: float) -> None:
        bar = mine.bars[-1]
        if bar["t1"] is None:
            bar["t1"] = now
            mine.changed[bar["id"]] = None
            self._stale = True

    def _bar(self, mine: _Request, kind: str, t0: float, t1: float | None, n: int, request: RequestId, at: int | None = None) -> None:
        bar: BarRow = {
            "id": self._n_bars,
            "lane": mine.lane["lane"],
            "kind": kind,
            "t0": t0,
            "t1": t1,
            "n": n,
            "name": mine.name,
            "request": request,
            "at": at,
            "wrong": 0,
        }
        self._n_bars += 1
        mine.bars.append(bar)
        mine.changed[bar["id"]] = None
        self._stale = True

    def _forget(self) -> None:
        """Drop the oldest finished requests, but only after the next step report, which may still
        mention the last ones.
        """
        while len(self._over) > self._kept:
            request, _ = self._over.popitem(last=False)
            mine = self._requests.pop(request)
            if mine.is_sent:
                self._gone.append(mine.lane["lane"])
            self._stale = True

    # ------------------------------------------------------------ JSON

    def _picture(self, whole: bool) -> RecentPicture:
        shown = self._requests.values()
        bars = [bar for mine in shown for bar in mine.bars if whole or not mine.is_sent or bar["id"] in mine.changed]
        first = min((mine.bars[0]["t0"] for mine in shown), default=self._now)
        return {
            "lanes": [mine.lane for mine in shown if whole or not mine.is_sent],
            "bars": [bar.copy() for bar in bars],
            "now": self._now,
            "gone": [] if whole else self._gone,
            "since": max(first, self._now - WINDOW_MS),
            "queue": [mine.lane["label"] for mine in shown if mine.waits],
        }


def _remember(names: OrderedDict[Id, str], key: Id, name: str) -> None:
    names[key] = name
    if len(names) > KEPT_NAMES:
        names.popitem(last=False)
