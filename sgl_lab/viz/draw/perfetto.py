"""A run in Chrome's trace event format, which Perfetto and chrome://tracing open.

The engine is one process. Each fork is a thread with its gens and their phases; the steps have a
thread of their own. There are counters, and an arrow from each request to the first step that works
on it. Times are microseconds since the run began. Requests of one fork that overlap get threads of
their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...contracts.events import (
    EngineFault,
    ExprStarted,
    ForkOpened,
    NodeEvicted,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestPreempted,
    RequestQueued,
    StepRan,
    TextArrived,
    TokensSampled,
)
from ...contracts.ids import ForkId, RequestId
from ...contracts.legible import clipped, finite
from ...trace import Record
from ..views.hits import n_shared
from ..views.names import is_elsewhere, unnamed

MARK = '"generator":"sgl_lab"'
PROCESS = 1
STEPS = 1
"""the thread of the steps"""

Row = dict[str, object]


@dataclass(slots=True)
class _Life:
    """A request from its queueing to its end."""

    queued: RequestQueued
    name: str
    start: float
    end: float | None = None
    thread: int = 0
    reason: str = ""
    n_cached: int = 0
    n_generated: int = 0
    pieces: list[tuple[str, float, float, int]] = field(default_factory=list)
    """(kind, start, end, tokens), in order"""
    marks: list[tuple[str, float, Row]] = field(default_factory=list)
    first_step: float | None = None


def trace(record: Record) -> Row:
    """The JSON object to write."""
    rows = [
        _named("process_name", 0, f"sgl_lab {clipped(record.title, 200)}"),
        _named("thread_name", STEPS, "steps"),
        *_Fold(record).rows(),
    ]
    about = {"generator": "sgl_lab", "run": clipped(record.title, 200)}
    return {"otherData": about, "displayTimeUnit": "ms", "traceEvents": rows}


class _Fold:
    def __init__(self, record: Record) -> None:
        self._record = record
        self._t0 = record.entries[0].t_ns if record.entries else 0
        self._lives: dict[RequestId, _Life] = {}
        self._queued: dict[RequestId, RequestQueued] = {}
        self._labels: dict[ForkId, str] = {}
        self._exprs: dict[int, ExprStarted] = {}
        self._steps: list[Row] = []
        self._counters: list[Row] = []
        self._faults: list[Row] = []
        self._free = record.snapshot.free_pages
        self._n_cached = self._n_prompt = self._n_evicted = 0
        self._now = self._step_end = 0.0
        for entry in record.entries:
            self._now = (entry.t_ns - self._t0) / 1e3
            self._fold(entry.event)

    def rows(self) -> Iterator[Row]:
        threads: dict[tuple[ForkId | None, int], int] = {}
        busy: dict[int, float] = {}
        for life in self._lives.values():
            life.end = self._now if life.end is None else life.end
            slot = 0
            while busy.get(threads.get((life.queued.fork, slot), 0), -1.0) > life.start:
                slot += 1
            life.thread = threads.setdefault((life.queued.fork, slot), STEPS + 1 + len(threads))
            busy[life.thread] = life.end
        for (fork, slot), thread in threads.items():
            label = self._labels.get(fork, f"fork {fork}") if fork is not None else "no fork"
            yield _named("thread_name", thread, label + (f" ({slot + 1})" if slot else ""))
        for thread in (STEPS, *threads.values()):
            yield {"ph": "M", "name": "thread_sort_index", "pid": PROCESS, "tid": thread, "args": {"sort_index": thread}}
        yield from self._steps
        for number, life in enumerate(self._lives.values(), 1):
            yield from _life(life, number)
        yield from self._counters
        yield from self._faults

    def _fold(self, event: object) -> None:
        now = self._now
        match event:
            case ForkOpened(fork=fork, parent=parent, index=index, label=label):
                above = f"{self._labels[parent]} › " if parent in self._labels and parent is not None else ""
                self._labels[fork] = clipped(above + (label or ("main" if parent is None else f"fork {index + 1}")), 80)
            case ExprStarted(expr=expr):
                self._exprs[expr] = event
            case RequestQueued(request=request, expr=expr, kind=kind) as queued:
                started = self._exprs.get(expr) if expr is not None else None
                self._queued[request] = queued
                self._lives[request] = _Life(queued, clipped((started.name if started else "") or unnamed(kind), 80), now)
            case PrefixMatched(request=request, n_hit=n_hit, n_prompt=n_prompt) if life := self._lives.get(request):
                if not is_elsewhere(life.queued):
                    waited = life.pieces[-1][2] if life.pieces else life.start
                    life.pieces.append(("wait", waited, now, 0))
                life.marks.append(("prefix matched", now, {"hit tokens": n_hit, "prompt tokens": n_prompt}))
            case StepRan() as step:
                self._step(step)
            case TokensSampled(samples=samples):
                for sample in samples:
                    if life := self._lives.get(sample.request):
                        life.n_generated += 1
            case RequestPreempted(request=request, n_released=n_released) if life := self._lives.get(request):
                life.marks.append(("preempted", now, {"tokens": n_released}))
            case NodeEvicted(n_tokens=n_tokens):
                self._n_evicted += n_tokens
                self._count("evicted", {"tokens": self._n_evicted})
            case TextArrived(request=request, samples=samples, is_whole=False) if life := self._lives.get(request):
                self._arrived(life, len(samples))
            case RequestAnswered(request=request) as answered if life := self._lives.get(request):
                life.end, life.reason, life.n_cached = now, answered.reason, answered.n_cached or 0
                life.n_generated = answered.n_completion
                self._n_cached += answered.n_cached or 0
                self._n_prompt += answered.n_prompt
                self._count("hit rate", {"percent": round(100 * self._n_cached / max(1, self._n_prompt), 2)})
            case RequestFinished(request=request) as ended if life := self._lives.get(request):
                life.end, life.reason, life.n_cached = now, ended.reason, ended.n_cached
                self._n_cached += ended.n_cached
                self._n_prompt += ended.n_prompt - n_shared(life.queued, self._queued)
                self._count("hit rate", {"percent": round(100 * self._n_cached / max(1, self._n_prompt), 2)})
            case EngineFault(message=message):
                args = {"message": clipped(message, 300)}
                self._faults.append({"ph": "i", "s": "p", "name": "fault", "pid": PROCESS, "tid": STEPS, "ts": now, "args": args})
            case _:
                pass

    def _arrived(self, life: _Life, n: int) -> None:
        """A part of an answer of an engine behind an API."""
        life.n_generated += n
        if life.pieces and life.pieces[-1][0] == "decode":
            kind, first, _, before = life.pieces[-1]
            life.pieces[-1] = (kind, first, self._now, before + n)
        else:
            life.pieces += [("sent", life.start, self._now, 0), ("decode", self._now, self._now, n)]

    def _step(self, step: StepRan) -> None:
        start = min(self._now, max(self._step_end, self._now - 1e3 * (finite(step.ms) or 0.0)))
        self._step_end = self._now
        args = {"prefill tokens": sum(n for _, n in step.prefill), "decoding": len(step.decode), "waiting": step.n_waiting}
        self._steps.append(_slice(f"step {step.step}", STEPS, start, self._now, args))
        for kind, request, n in [*(("prefill", r, n) for r, n in step.prefill), *(("decode", r, 1) for r in step.decode)]:
            if life := self._lives.get(request):
                life.first_step = start if life.first_step is None else life.first_step
                last = life.pieces[-1] if life.pieces else ("", life.start, life.start, 0)
                if last[0] == kind:
                    life.pieces[-1] = (kind, last[1], self._now, last[3] + n)
                else:
                    life.pieces.append((kind, min(self._now, max(start, last[2])), self._now, n))
        used = self._record.snapshot.n_pages - step.free_pages
        self._count("pages", {"in use": max(0, used)})
        self._count("requests", {"waiting": step.n_waiting, "running": len({*step.decode, *(request for request, _ in step.prefill)})})

    def _count(self, name: str, values: Row) -> None:
        self._counters.append({"ph": "C", "name": name, "pid": PROCESS, "tid": 0, "ts": self._now, "args": values})


def _life(life: _Life, number: int) -> Iterator[Row]:
    """The request's slice with its phases, and an arrow to the first step that works on it."""
    end = life.start if life.end is None else life.end
    args = {
        "request": life.queued.request,
        "kind": clipped(life.queued.kind, 20),
        "prompt tokens": len(life.queued.prompt),
        "cached tokens": life.n_cached,
        "generated tokens": life.n_generated,
        "end": clipped(life.reason, 40) or "still running",
    }
    yield _slice(life.name, life.thread, life.start, end, args)
    for kind, first, last, n in life.pieces:
        yield _slice(kind, life.thread, first, min(last, end), {"tokens": n} if n else {})
    for name, at, about in life.marks:
        yield {"ph": "i", "s": "t", "name": name, "pid": PROCESS, "tid": life.thread, "ts": min(at, end), "args": about}
    if life.first_step is not None:
        arrow = {"cat": "request", "name": "request to step", "id": number, "pid": PROCESS}
        yield {"ph": "s", **arrow, "tid": life.thread, "ts": life.start}
        yield {"ph": "f", "bp": "e", **arrow, "tid": STEPS, "ts": max(life.first_step, life.start)}


def _slice(name: str, thread: int, start: float, end: float, args: Mapping[str, object]) -> Row:
    when = {"ts": start, "dur": max(0.0, end - start)}
    return {"ph": "X", "name": name, "cat": "sgl_lab", "pid": PROCESS, "tid": thread, **when, "args": args}


def _named(what: str, thread: int, name: str) -> Row:
    return {"ph": "M", "name": what, "pid": PROCESS, "tid": thread, "args": {"name": name}}
