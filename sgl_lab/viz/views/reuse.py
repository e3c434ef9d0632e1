"""Tells apart two kinds of cached tokens: those that an earlier run left in the cache, and those
that this run itself had.

A run has a prefix as soon as one of its requests entered the engine with it or sampled its last
token. The part of it that a later request of the same run finds is *reused*; everything else that
it finds is *from before*. A prefix is identified by the hash of the preceding prefix and its last
token: one number per token. The view does not wait for step reports, because a step is reported
after its requests ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...contracts.events import (
    Entry,
    ForkOpened,
    PrefixMatched,
    RequestAnswered,
    RequestFinished,
    RequestQueued,
    TextArrived,
    TokensSampled,
)
from ...contracts.ids import ForkId, RequestId, RunId


@dataclass(slots=True)
class _Walk:
    """How many of its tokens a request has reached."""

    tokens: list[int]
    at: int = 0
    prefix: int = 0
    """hash of the tokens before `at`"""
    n_reused: int = 0
    is_in: bool = False
    """whether the request was matched before; tokens that a constraint forces before that do not
    extend what the run has
    """


class Reuse:
    """Requests of one run, or of all runs with `run=None`. Several views may share one instance: an
    entry counts once.
    """

    def __init__(self, run: RunId | None = None) -> None:
        self._run = run
        self._seq = -1
        self._streams: set[ForkId] = set()
        self._known: set[int] = set()
        self._walks: dict[RequestId, _Walk] = {}

    def fold(self, entry: Entry) -> None:
        if entry.seq <= self._seq:
            return
        self._seq = entry.seq
        match entry.event:
            case ForkOpened(run=run, fork=fork) if self._run in (None, run):
                self._streams.add(fork)
            case RequestQueued(request=request, fork=fork, prompt=prompt) if self._run is None or fork in self._streams:
                self._walks[request] = _Walk(list(prompt))
            case PrefixMatched(request=request, n_hit=n_hit) if walk := self._walks.get(request):
                walk.at = walk.prefix = 0
                walk.n_reused, walk.is_in = self._advance(walk, n_hit), True
                self._advance(walk, len(walk.tokens))
            case TokensSampled(samples=samples) | TextArrived(index=0, samples=samples, is_whole=False):
                walks, known = self._walks, self._known
                for sample in samples:
                    if walk := walks.get(sample.request):
                        walk.tokens.append(sample.token)
                        if walk.is_in:  # then all tokens before this one are reached
                            walk.at += 1
                            walk.prefix = prefix = hash((walk.prefix, sample.token))
                            known.add(prefix)
            case RequestFinished(request=request) | RequestAnswered(request=request):
                self._walks.pop(request, None)

    def n_reused(self, request: RequestId) -> int:
        """Leading tokens of its last match that its own run had before."""
        walk = self._walks.get(request)
        return 0 if walk is None else walk.n_reused

    def _advance(self, walk: _Walk, to: int) -> int:
        """Record that the run has the request's first `to` tokens. Returns how many of them it had
        already.
        """
        n_known = walk.at
        for at in range(walk.at, min(to, len(walk.tokens))):
            walk.prefix = hash((walk.prefix, walk.tokens[at]))
            if n_known == at and walk.prefix in self._known:
                n_known = at + 1
            else:
                self._known.add(walk.prefix)
            walk.at = at + 1
        return n_known
