"""The numbers of the strip: speed, hit rate, tokens by origin, pages, forks.

Token counts are those of one run (or of all); pages and evictions are the whole engine's while it
lasts. A prompt token counts once, as cached or as computed, by how it was come by the first time: it is
no other when a preemption has it computed again. The prompt of a select counts once, however many of its
choices read it. What a constraint forced at once after a prompt is generated, however it was come by.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypedDict

from ...contracts.events import (
    CellFinished,
    Entry,
    ForkOpened,
    ModelLoaded,
    NodeEvicted,
    PrefixMatched,
    RequestFinished,
    RequestPreempted,
    RequestQueued,
    StepRan,
    TokensSampled,
)
from ...contracts.ids import ForkId, RequestId, RunId
from ...contracts.legible import finite
from ...contracts.tree import TreeSnapshot

WINDOW_NS = 2_000_000_000


class MetricsPicture(TypedDict):
    tok_s: float
    """generated tokens a second: over the last two seconds, and over all its steps once the run has ended"""
    hit_rate: float | None
    cached: int
    """prompt tokens found in the tree"""
    computed: int
    """prompt tokens computed"""
    generated: int
    forced: int
    """of those, the ones that a constraint left no choice about"""
    evicted: int
    """tokens"""
    n_pages: int
    free_pages: int
    forks: int
    """streams that have a parent"""
    running: int
    waiting: int
    steps: int


@dataclass(slots=True)
class _Prompt:
    """How far a request has come; the engine counts the same (`Request.n_counted`)."""

    n_tokens: int
    n_counted: int
    """leading tokens that count already, also those put down to the first request of the family"""
    n_there: int = 0
    """leading tokens that are in the cache or computed, since it was let in last"""

    def reach(self, n: int) -> int:
        """The first `n` tokens are there; how many prompt tokens that is more than ever before."""
        self.n_there = n
        n_new = max(0, min(n, self.n_tokens) - self.n_counted)
        self.n_counted += n_new
        return n_new


class MetricsView:
    """Counts of one run, or of all with `run=None`."""

    def __init__(self, run: RunId | None = None) -> None:
        self._run = run
        self._streams: set[ForkId] = set()
        self._requests: dict[RequestId, _Prompt] = {}
        self._heads: dict[RequestId, int] = {}
        """of families that score: tokens before the choices"""
        self._waiting: set[RequestId] = set()
        self._running: set[RequestId] = set()
        self._recent: deque[tuple[int, int]] = deque()
        """(t_ns, tokens generated), newest last"""
        self._first_ns: int | None = None
        self._now_ns = 0
        self._busy_ms = 0.0
        self._ended = False
        self._cached = self._computed = self._generated = self._forced = self._evicted = 0
        self._n_pages = self._free_pages = self._forks = self._steps = 0
        self._told: MetricsPicture | None = None

    def load(self, snapshot: TreeSnapshot) -> None:
        """Take the pool's pages from a snapshot."""
        self._n_pages, self._free_pages = snapshot.n_pages, snapshot.free_pages

    def fold(self, entry: Entry) -> None:
        self._now_ns = entry.t_ns
        match entry.event:
            case ModelLoaded(n_pages=n_pages):
                self._n_pages = self._free_pages = n_pages
            case CellFinished(run=run) if self._run in (None, run):
                self._ended = True
            case ForkOpened(run=run, fork=fork, parent=parent) if self._run in (None, run):
                self._ended = False
                self._streams.add(fork)
                self._forks += parent is not None
            case RequestQueued(request=request, fork=fork, prompt=prompt) as event if self._run is None or fork in self._streams:
                self._requests[request] = _Prompt(len(prompt), self._shared(event))
                self._waiting.add(request)
            case PrefixMatched(request=request, n_hit=n_hit) if request in self._waiting:
                self._waiting.remove(request)
                self._running.add(request)
                self._cached += self._requests[request].reach(n_hit)
            case RequestPreempted(request=request) if request in self._running:
                self._running.remove(request)
                self._waiting.add(request)
            case RequestFinished(request=request):
                self._waiting.discard(request)
                self._running.discard(request)
            case StepRan() as step:
                self._step(step)
            case TokensSampled(samples=samples):
                mine = [sample for sample in samples if sample.request in self._requests]
                self._forced += sum(sample.forced for sample in mine)
                self._sampled(len(mine))
            case NodeEvicted(n_tokens=n_tokens):
                self._evicted += n_tokens

    def delta(self) -> MetricsPicture | None:
        """The strip, if anything on it changed since the last call."""
        picture = self.full()
        if picture == self._told:
            return None
        self._told = picture
        return picture

    def full(self) -> MetricsPicture:
        asked = self._cached + self._computed
        return {
            "tok_s": self._tok_s(),
            "hit_rate": self._cached / asked if asked else None,
            "cached": self._cached,
            "computed": self._computed,
            "generated": self._generated,
            "forced": self._forced,
            "evicted": self._evicted,
            "n_pages": self._n_pages,
            "free_pages": self._free_pages,
            "forks": self._forks,
            "running": len(self._running),
            "waiting": len(self._waiting),
            "steps": self._steps,
        }

    def _shared(self, queued: RequestQueued) -> int:
        """Leading tokens that are put down to the first request of the family."""
        if queued.kind != "score":
            return 0
        if queued.request != queued.group:
            return self._heads.get(queued.group, 0)
        if queued.reusable is not None:
            self._heads[queued.request] = queued.reusable + 1
        return 0

    def _step(self, step: StepRan) -> None:
        self._free_pages = step.free_pages
        mine = [(self._requests[request], n) for request, n in step.prefill if request in self._requests]
        if mine or any(request in self._requests for request in step.decode):
            self._steps += 1
            self._computed += sum(prompt.reach(prompt.n_there + n) for prompt, n in mine)
            self._busy_ms += finite(step.ms) or 0.0

    def _sampled(self, n_tokens: int) -> None:
        if n_tokens:
            self._generated += n_tokens
            self._first_ns = self._now_ns if self._first_ns is None else self._first_ns
            self._recent.append((self._now_ns, n_tokens))
        while self._recent and self._recent[0][0] < self._now_ns - WINDOW_NS:
            self._recent.popleft()

    def _tok_s(self) -> float:
        if self._ended:
            return round(1e3 * self._generated / self._busy_ms, 1) if self._busy_ms else 0.0
        if self._first_ns is None:
            return 0.0
        since = max(self._first_ns, self._now_ns - WINDOW_NS)
        recent = sum(n_tokens for t_ns, n_tokens in self._recent if t_ns > since)
        return round(1e9 * recent / (self._now_ns - since), 1) if recent else 0.0
