"""The counts of a run: tokens by origin, speed, hit rate, pages, forks.

Token counts are those of one run (or of all); pages and evictions are those of the whole engine
during the run. A prompt token counts once, as cached or as computed, by its first occurrence:
recomputation after a preemption does not change it. The prompt of a select counts once, however
many choices use it. Tokens that a constraint forces right after a prompt count as generated, cached
or not. Cached tokens are either found from before the run or reused within it (`Reuse`).

An engine behind an API reports its counts with the answer. What its texts and matches tell before
that is shown meanwhile, and replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from ...contracts.events import (
    Entry,
    ForkOpened,
    ModelLoaded,
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
from ...contracts.ids import ForkId, RequestId, RunId
from ...contracts.pieces import is_text
from ...contracts.tree import TreeSnapshot
from .names import is_elsewhere
from .reuse import Reuse


class MetricsPicture(TypedDict):
    tok_s: float
    """generated tokens per second, from the first request to the last token; for a whole engine
    those of the last two seconds
    """
    hit_rate: float | None
    cached: int
    """prompt tokens found in the tree: from before and reused"""
    found: int
    """the part of these that earlier runs had computed"""
    reused: int
    """the part of these that the run itself had computed; for a whole engine all of them"""
    computed: int
    """prompt tokens computed"""
    generated: int
    forced: int
    """the part of these that a constraint forced"""
    evicted: int
    """tokens"""
    n_pages: int
    free_pages: int
    forks: int
    """streams with a parent"""
    running: int
    waiting: int
    steps: int
    elsewhere: bool
    """whether an engine behind an API serves requests: its own counts are those above"""
    answered: int
    """requests that it answered"""
    uncounted: int
    """the part of these for which it does not report how much was cached"""
    cost: float
    """of these requests, as far as prices are known"""
    currency: str
    unpriced: int
    """the part of these requests whose cost is unknown"""


@dataclass(slots=True)
class _Prompt:
    """The progress of a request. The engine counts the same way (`Request.n_counted`)."""

    n_tokens: int
    n_counted: int
    """leading tokens that are counted already, including those counted for the first request of the
    group
    """
    n_there: int = 0
    """leading tokens in the cache or computed, since its last admission"""

    def reach(self, n: int) -> int:
        """Record that the first `n` tokens are in KV. Returns by how many prompt tokens this
        exceeds the previous maximum.
        """
        self.n_there = n
        n_new = max(0, min(n, self.n_tokens) - self.n_counted)
        self.n_counted += n_new
        return n_new


@dataclass(slots=True)
class _Sent:
    """A request to an engine behind an API: what is counted of it until its counts come."""

    is_text: bool
    """whether its prompt is in pieces of text, so that only the server's own counts are tokens"""
    cached: int = 0
    reused: int = 0
    computed: int = 0
    generated: int = 0


class MetricsView:
    """Counts of one run, or of all runs with `run=None`. Views of the same run may share a `Reuse`."""

    def __init__(self, run: RunId | None = None, reuse: Reuse | None = None) -> None:
        self._run = run
        self._reuse = reuse or Reuse(run)
        self._streams: set[ForkId] = set()
        self._requests: dict[RequestId, _Prompt] = {}
        self._heads: dict[RequestId, int] = {}
        """of request groups that score: tokens before the choices"""
        self._waiting: set[RequestId] = set()
        self._running: set[RequestId] = set()
        self._sent_away: dict[RequestId, _Sent] = {}
        self._is_elsewhere = False
        self._first_ns: int | None = None
        """when the first request was queued"""
        self._last_ns = 0
        """when the last token arrived"""
        self._cached = self._reused = self._computed = self._generated = self._forced = self._evicted = 0
        self._n_pages = self._free_pages = self._forks = self._steps = 0
        self._answered = self._unpriced = self._uncounted = 0
        self._cost, self._currency = 0.0, ""
        self._sent: MetricsPicture | None = None

    def load(self, snapshot: TreeSnapshot) -> None:
        """Take over the number of pages from a snapshot."""
        self._n_pages, self._free_pages = snapshot.n_pages, snapshot.free_pages

    def fold(self, entry: Entry) -> None:
        self._reuse.fold(entry)
        match entry.event:
            case ModelLoaded(n_pages=n_pages):
                self._n_pages = self._free_pages = n_pages
            case ForkOpened(run=run, fork=fork, parent=parent) if self._run in (None, run):
                self._streams.add(fork)
                self._forks += parent is not None
            case RequestQueued(request=request, fork=fork, prompt=prompt) as event if self._run is None or fork in self._streams:
                if is_elsewhere(event):
                    self._sent_away[request] = _Sent(is_text(prompt))
                    self._is_elsewhere = True
                else:
                    self._requests[request] = _Prompt(len(prompt), self._shared(event))
                self._waiting.add(request)
                self._first_ns = entry.t_ns if self._first_ns is None else self._first_ns
            case PrefixMatched(request=request) as match if sent := self._sent_away.get(request):
                if not sent.is_text:
                    n_reused = min(match.n_hit, self._reuse.n_reused(request))
                    self._report(sent, _Sent(False, match.n_hit, n_reused, match.n_prompt - match.n_hit, sent.generated))
            case PrefixMatched(request=request, n_hit=n_hit) if request in self._waiting:
                self._waiting.remove(request)
                self._running.add(request)
                mine = self._requests[request]
                n_reused = mine.reach(min(n_hit, self._reuse.n_reused(request)))
                self._reused += n_reused
                self._cached += n_reused + mine.reach(n_hit)
            case RequestPreempted(request=request) if request in self._running:
                self._running.remove(request)
                self._waiting.add(request)
            case RequestFinished(request=request):
                self._waiting.discard(request)
                self._running.discard(request)
            case TextArrived(request=request) as arrived if sent := self._sent_away.get(request):
                if request in self._waiting:
                    self._waiting.remove(request)
                    self._running.add(request)
                if not (sent.is_text or arrived.is_whole):
                    self._report(sent, replace(sent, generated=sent.generated + len(arrived.samples)))
                self._last_ns = entry.t_ns
            case RequestAnswered(request=request) as answered if request in self._sent_away:
                self._waiting.discard(request)
                self._running.discard(request)
                self._last_ns = entry.t_ns
                self._answer(self._sent_away.pop(request), answered)
            case StepRan() as step:
                self._step(step)
            case TokensSampled(samples=samples):
                own = [sample for sample in samples if sample.request in self._requests]
                self._forced += sum(sample.forced for sample in own)
                self._generated += len(own)
                self._last_ns = entry.t_ns if own else self._last_ns
            case NodeEvicted(n_tokens=n_tokens):
                self._evicted += n_tokens

    def delta(self) -> MetricsPicture | None:
        """The counts, or None if nothing changed since the last call."""
        picture = self.full()
        if picture == self._sent:
            return None
        self._sent = picture
        return picture

    def full(self) -> MetricsPicture:
        n_prompt = self._cached + self._computed
        return {
            "tok_s": self._tok_s(),
            "hit_rate": self._cached / n_prompt if n_prompt else None,
            "cached": self._cached,
            "found": self._cached - self._reused,
            "reused": self._reused,
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
            "elsewhere": self._is_elsewhere,
            "answered": self._answered,
            "uncounted": self._uncounted,
            "cost": self._cost,
            "currency": self._currency,
            "unpriced": self._unpriced,
        }

    def _report(self, before: _Sent, now: _Sent) -> None:
        """What is known of a request now takes the place of what was."""
        self._cached += now.cached - before.cached
        self._reused += now.reused - before.reused
        self._computed += now.computed - before.computed
        self._generated += now.generated - before.generated
        before.cached, before.reused, before.computed, before.generated = now.cached, now.reused, now.computed, now.generated

    def _answer(self, sent: _Sent, answered: RequestAnswered) -> None:
        self._answered += 1
        if answered.n_prompt:  # otherwise it failed before its counts came
            n_cached = min(answered.n_cached or 0, answered.n_prompt)
            n_computed = answered.n_prompt - n_cached
            self._report(sent, _Sent(sent.is_text, n_cached, min(sent.reused, n_cached), n_computed, answered.n_completion))
            self._uncounted += answered.n_cached is None
        if answered.cost is None:
            self._unpriced += 1
        else:
            self._cost += answered.cost
            self._currency = answered.currency

    def least_bytes(self) -> int:
        """A lower bound of the size of `full` as JSON: it is always small."""
        return 0

    def _shared(self, queued: RequestQueued) -> int:
        """Leading tokens that are counted for the first request of the group."""
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

    def _tok_s(self) -> float:
        ns = self._last_ns - (self._first_ns or 0)
        return round(1e9 * self._generated / ns, 1) if self._generated and ns > 0 else 0.0
