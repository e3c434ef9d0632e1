"""Which tokens a run found in the cache because an earlier one left them there, and which because it had them itself.

A run has a prefix as soon as a request of it has entered the engine with it, or has sampled the last token of it. What a later
request of the same run finds of that is *reused*; all else that it finds is there *from before*. A prefix is known by the hash of
the prefix before it and its last token: one number a token. Nothing here waits for the step: it ends after its requests have.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...contracts.events import (
    Entry,
    ForkOpened,
    PrefixMatched,
    RequestFinished,
    RequestQueued,
    TokensSampled,
)
from ...contracts.ids import ForkId, RequestId, RunId


@dataclass(slots=True)
class _Walk:
    """How far along its tokens a request has come."""

    tokens: list[int]
    at: int = 0
    prefix: int = 0
    """hash of the tokens before `at`"""
    n_reused: int = 0
    is_in: bool = False
    """matched once; tokens that a constraint forced before that say nothing of what the run has"""


class Reuse:
    """Requests of one run, or of all with `run=None`. Several views may share one: an entry counts once."""

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
            case TokensSampled(samples=samples):
                for sample in samples:
                    if walk := self._walks.get(sample.request):
                        walk.tokens.append(sample.token)
                        if walk.is_in:
                            self._advance(walk, len(walk.tokens))
            case RequestFinished(request=request):
                self._walks.pop(request, None)

    def n_reused(self, request: RequestId) -> int:
        """Leading tokens of its last match that its own run had before."""
        walk = self._walks.get(request)
        return 0 if walk is None else walk.n_reused

    def _advance(self, walk: _Walk, to: int) -> int:
        """The run has the request's first `to` tokens; how many of them it had already."""
        n_known = walk.at
        for at in range(walk.at, min(to, len(walk.tokens))):
            walk.prefix = hash((walk.prefix, walk.tokens[at]))
            if n_known == at and walk.prefix in self._known:
                n_known = at + 1
            else:
                self._known.add(walk.prefix)
            walk.at = at + 1
        return n_known
