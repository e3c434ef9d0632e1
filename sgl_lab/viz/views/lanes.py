"""The timeline: one lane per fork, and on it one bar for every phase of a request.

Times are milliseconds since the run's first event. A bar without an end is still growing. The work
of a step lasted from `ms` before its report until the report. Forced and drafted tokens are bars on
top of the decode bar of the same steps. Between two requests of a fork the program runs its own
code, which includes compiling grammars, or waits for the fork's forks. A long stretch of either is
a bar of its own.

An engine behind an API shows no steps: of a request to it there is the time until the first part of
its answer came, and the time from then on.

Knows no token's text and no tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from ...contracts.events import (
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
    StreamExtended,
    TextArrived,
    TokensSampled,
)
from ...contracts.ids import ExprId, ForkId, RequestId, RunId
from ...contracts.legible import legible
from ...contracts.pieces import is_text
from .clock import RunClock
from .names import is_elsewhere, unnamed
from .reuse import Reuse


class LaneRow(TypedDict):
    lane: str
    parent: str | None
    label: str
    kind: str
    """a fork, or a request without a fork, or one of several samples"""
    state: str
    """error or stopped if something in the lane ended so; otherwise empty"""


class BarRow(TypedDict):
    id: int
    lane: str
    kind: str
    """wait, sent (to an engine behind an API, no answer yet), host (no request: the program's own
    code), forks (no request: it waits for them), found (in the cache, from before the run), reused
    (within the run), prefill, decode, score, preempted, text; on top of a decode bar: forced, drafted
    """
    t0: float
    t1: float | None
    n: int
    """tokens; for a draft the accepted ones"""
    name: str
    request: int | None
    at: int | None
    """position in the sequence of the first of its `n` tokens"""
    wrong: int
    """draft tokens that were rejected"""


MIN_GAP_MS = 5.0
"""milliseconds between two requests of a fork from which on the gap is a bar"""


LEAST_BYTES = 100
"""of a bar as JSON"""


class LanesPicture(TypedDict):
    lanes: list[LaneRow]
    bars: list[BarRow]
    now: float
    since: float
    """where the page's time begins"""


@dataclass(slots=True)
class _Request:
    lane: str
    name: str
    work: str
    """purpose of computing its prompt tokens: prefill or score"""
    id: RequestId
    n_prompt: int
    bar: BarRow
    """the newest bar"""
    busy_until: float = 0.0
    began: float = 0.0
    """when the newest step began"""
    n_done: int = 0
    """tokens of its sequence in KV, cached or computed"""
    n_drawn: int = 0
    n_accepted: int = 0
    """accepted draft tokens of a step that is not reported yet"""
    is_elsewhere: bool = False
    is_text: bool = False
    """whether its prompt is in pieces of text: only the server's own counts are tokens"""
    is_matched: bool = False
    over: dict[str, BarRow] = field(default_factory=dict)
    """the newest bar of each kind on top of another"""


class LanesView:
    """Lanes of one run, or of all runs with `run=None`, which includes requests without a fork."""

    def __init__(self, run: RunId | None = None, reuse: Reuse | None = None) -> None:
        self._run = run
        self._reuse = reuse or Reuse(run)
        self._clock = RunClock(run)
        self._now = 0.0
        self._lanes: dict[str, LaneRow] = {}
        self._bars: list[BarRow] = []
        self._names: dict[ExprId, str] = {}
        self._requests: dict[RequestId, _Request] = {}
        self._idle: dict[str, float] = {}
        """when the last request of a lane ended, while the lane has none"""
        self._forks_until: dict[str, float] = {}
        """when a request of a lane's forks was last active"""
        self._new_lanes: dict[str, None] = {}
        """new or changed"""
        self._changed: dict[int, None] = {}

    def fold(self, entry: Entry) -> None:
        self._reuse.fold(entry)
        if (now := self._clock.read(entry)) is None:
            return
        self._now = now
        match entry.event:
            case ForkOpened(run=run, fork=fork, parent=parent, index=index, label=label) if self._run in (None, run):
                above = _lane(parent) if parent is not None and _lane(parent) in self._lanes else None
                self._open_lane(_lane(fork), above, label or ("main" if parent is None else f"fork {index + 1}"), "fork")
                self._idle[_lane(fork)] = now
            case ExprStarted(fork=fork, expr=expr, name=name) if _lane(fork) in self._lanes:
                self._names[expr] = name
            case ExprFinished(fork=fork, status=status) if status != "ok" and (row := self._lanes.get(_lane(fork))):
                row["state"] = legible(status)
                self._new_lanes[row["lane"]] = None
            case StreamExtended(fork=fork, start=start, kind="text", tokens=tokens, role=role) if tokens and _lane(fork) in self._lanes:
                self._bar(_lane(fork), "text", now, now, len(tokens), legible(role), at=start)
            case RequestQueued() as queued:
                self._queue(queued, now)
            case PrefixMatched(request=request, n_hit=n_hit) if mine := self._requests.get(request):
                self._matched(mine, now, n_hit, min(n_hit, self._reuse.n_reused(request)))
            case StepRan(prefill=prefill, decode=decode, ms=ms):
                for request, n_tokens in prefill:
                    if mine := self._requests.get(request):
                        self._work(mine, mine.work, now, ms, n_tokens)
                for request in decode:
                    if mine := self._requests.get(request):
                        self._work(mine, "decode", now, ms, 1 + mine.n_accepted)
                        mine.n_accepted = 0
            case RequestPreempted(request=request, n_released=n_released) if mine := self._requests.get(request):
                mine.bar = self._bar(mine.lane, "preempted", now, None, n_released, mine.name, request)
            case DraftVerified(request=request, n_drafted=n_drafted, n_accepted=n_accepted) if mine := self._requests.get(request):
                self._lay_over(mine, "drafted", now, n_accepted, n_drafted - n_accepted)
                mine.n_accepted += n_accepted
            case TokensSampled(samples=samples):
                for sample in samples:
                    if mine := self._requests.get(sample.request):
                        if sample.forced:
                            self._lay_over(mine, "forced", now, 1, 0)
                        mine.n_drawn += 1
            case TextArrived(request=request, samples=samples, is_whole=False) if mine := self._requests.get(request):
                self._arrived(mine, now, len(samples))
            case RequestAnswered(request=request) as answered if mine := self._requests.get(request):
                self._answered(mine, now, answered)
                self._end(mine, now)
            case RequestFinished(request=request) if mine := self._requests.get(request):
                self._end(mine, now)
            case _:
                pass

    def delta(self) -> LanesPicture | None:
        """The changes since the last call, or None."""
        if not (self._new_lanes or self._changed):
            return None
        picture: LanesPicture = {
            "lanes": [self._lanes[lane].copy() for lane in self._new_lanes],
            "bars": [self._bars[index].copy() for index in self._changed],
            "now": self._now,
            "since": 0.0,
        }
        self._new_lanes = {}
        self._changed = {}
        return picture

    def full(self) -> LanesPicture:
        """Everything, in the shape of a delta."""
        lanes, bars = [row.copy() for row in self._lanes.values()], [bar.copy() for bar in self._bars]
        return {"lanes": lanes, "bars": bars, "now": self._now, "since": 0.0}

    def least_bytes(self) -> int:
        """A lower bound of the size of `full` as JSON."""
        return LEAST_BYTES * len(self._bars)

    # ------------------------------------------------------------ events

    def _queue(self, event: RequestQueued, now: float) -> None:
        lane = _lane(event.fork) if event.fork is not None else None
        if lane is None or lane not in self._lanes:
            if self._run is not None:
                return
            lane = self._open_lane(f"r{event.request}", None, f"request {event.request}", "request")
        elif event.kind == "gen" and event.request != event.group:
            lane = self._open_lane(f"r{event.request}", lane, f"sample {event.request - event.group + 1}", "request")
        if now - (since := self._idle.pop(lane, now)) >= MIN_GAP_MS:
            kind = "forks" if self._forks_until.get(lane, 0.0) > since else "host"
            self._bar(lane, kind, since, now, 0, "")
        name = legible(unnamed(event.kind) if event.expr is None else self._names.get(event.expr, event.kind))
        elsewhere = is_elsewhere(event)
        bar = self._bar(lane, "sent" if elsewhere else "wait", now, None, len(event.prompt), name, event.request)
        work = "score" if event.kind == "score" else "prefill"
        mine = _Request(lane, name, work, event.request, len(event.prompt), bar, now, now, is_elsewhere=elsewhere)
        mine.is_text = is_text(event.prompt)
        self._requests[event.request] = mine

    def _matched(self, mine: _Request, now: float, n_hit: int, n_reused: int) -> None:
        """A diamond for each origin of its cached tokens: where an engine here has looked them up,
        and where the answer of one elsewhere, or its scoring, began, however late their number
        comes.
        """
        if mine.is_text:
            return
        hits = [(kind, first, end) for kind, first, end in (("reused", 0, n_reused), ("found", n_reused, n_hit)) if first < end]
        if mine.is_elsewhere:
            mine.is_matched = True
            at = mine.bar["t0"] if mine.bar["kind"] == "decode" or mine.work == "score" else now
            for kind, first, end in hits:
                self._bar(mine.lane, kind, at, at, end - first, mine.name, mine.id, first)
            return
        self._close(mine, now)
        mine.busy_until = now
        mine.n_done = n_hit
        for kind, first, end in hits:
            mine.bar = self._bar(mine.lane, kind, now, now, end - first, mine.name, mine.id, first)

    def _work(self, mine: _Request, kind: str, now: float, ms: float, n_tokens: int) -> None:
        """A step processed `n_tokens` for this request: extend its newest bar, or begin another."""
        if mine.bar["kind"] == kind:
            mine.bar["t1"] = now
            mine.bar["n"] += n_tokens
            self._changed[mine.bar["id"]] = None
        else:
            self._close(mine, now)
            began = max(round(now - ms, 3), mine.busy_until)
            mine.bar = self._bar(mine.lane, kind, began, now, n_tokens, mine.name, mine.id, mine.n_done)
        mine.n_done += n_tokens
        mine.began, mine.busy_until = mine.busy_until, now

    def _arrived(self, mine: _Request, now: float, n_pieces: int) -> None:
        """A part of an answer of an engine behind an API. Its tokens are counted when it reports them."""
        if mine.bar["kind"] != "decode":
            self._close(mine, now)
            mine.bar = self._bar(mine.lane, "decode", now, now, 0, mine.name, mine.id, mine.n_prompt)
        mine.bar["t1"] = now
        mine.bar["n"] += n_pieces
        self._changed[mine.bar["id"]] = None

    def _answered(self, mine: _Request, now: float, answered: RequestAnswered) -> None:
        if answered.n_completion:
            self._arrived(mine, now, 0)
            mine.bar["n"] = answered.n_completion
        elif mine.work == "score" and answered.n_prompt:
            mine.bar |= {"kind": "score", "n": answered.n_prompt - (answered.n_cached or 0), "at": answered.n_cached or 0}
            self._changed[mine.bar["id"]] = None
        if answered.n_cached and not mine.is_matched:
            self._bar(mine.lane, "found", mine.bar["t0"], mine.bar["t0"], answered.n_cached, mine.name, mine.id, 0)

    def _end(self, mine: _Request, now: float) -> None:
        self._close(mine, now)
        self._idle[mine.lane] = now
        if (above := self._lanes[mine.lane]["parent"]) is not None:
            self._forks_until[above] = now

    def _lay_over(self, mine: _Request, kind: str, now: float, n_tokens: int, n_wrong: int) -> None:
        """Tokens of the newest step that were forced or drafted. The bar grows if the step before
        had some as well.
        """
        bar = mine.over.get(kind)
        if bar is None or bar["t1"] is None or bar["t1"] < mine.began:
            began = mine.busy_until if mine.busy_until < now else mine.began
            bar = mine.over[kind] = self._bar(mine.lane, kind, began, now, 0, mine.name, mine.id, mine.n_prompt + mine.n_drawn)
        bar["t1"] = now
        bar["n"] += n_tokens
        bar["wrong"] += n_wrong
        self._changed[bar["id"]] = None

    def _close(self, mine: _Request, now: float) -> None:
        if mine.bar["t1"] is None:
            mine.bar["t1"] = now
            self._changed[mine.bar["id"]] = None

    def _open_lane(self, lane: str, parent: str | None, label: str, kind: str) -> str:
        self._lanes[lane] = {"lane": lane, "parent": parent, "label": legible(label), "kind": kind, "state": ""}
        self._new_lanes[lane] = None
        return lane

    def _bar(
        self,
        lane: str,
        kind: str,
        t0: float,
        t1: float | None,
        n_tokens: int,
        name: str,
        request: RequestId | None = None,
        at: int | None = None,
    ) -> BarRow:
        bar: BarRow = {
            "id": len(self._bars),
            "lane": lane,
            "kind": kind,
            "t0": t0,
            "t1": t1,
            "n": n_tokens,
            "name": name,
            "request": request,
            "at": at,
            "wrong": 0,
        }
        self._bars.append(bar)
        self._changed[bar["id"]] = None
        return bar


def _lane(fork: ForkId) -> str:
    return f"f{fork}"
