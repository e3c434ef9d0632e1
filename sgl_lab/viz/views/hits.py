"""The course of the hit rate: one point for each finished request, counted as the engine does.
Knows no token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...contracts.events import Entry, RequestAnswered, RequestFinished, RequestQueued
from ...contracts.ids import RequestId


class Hits(NamedTuple):
    """One finished request, and the totals up to it."""

    n_prompt: int
    n_cached: int
    all_prompt: int
    all_cached: int

    @property
    def rate(self) -> float:
        return self.all_cached / max(1, self.all_prompt)


def hits(entries: Iterable[Entry], prompt_tokens: int, cached_prompt_tokens: int) -> tuple[Hits, ...]:
    """Points in the order in which the requests ended. What the engine counted beyond these
    requests came before them.
    """
    queued: dict[RequestId, RequestQueued] = {}
    found: list[tuple[int, int]] = []
    for entry in entries:
        match entry.event:
            case RequestQueued(request=request) as event:
                queued[request] = event
            case RequestFinished(request=request, n_prompt=n_prompt, n_cached=n_cached) if request in queued:
                n_own = n_prompt - n_shared(queued[request], queued)
                # tokens that a constraint forced right after the prompt may be cached too
                found.append((n_own, min(n_cached, n_own)))
            case RequestAnswered(request=request, n_prompt=n_prompt, n_cached=n_cached) if request in queued:
                found.append((n_prompt, min(n_cached or 0, n_prompt)))
            case _:
                pass
    all_prompt = max(0, prompt_tokens - sum(n for n, _ in found))
    all_cached = max(0, cached_prompt_tokens - sum(n for _, n in found))
    points = []
    for n_prompt, n_cached in found:
        all_prompt, all_cached = all_prompt + n_prompt, all_cached + n_cached
        points.append(Hits(n_prompt, n_cached, all_prompt, all_cached))
    return tuple(points)


def n_shared(mine: RequestQueued, queued: dict[RequestId, RequestQueued]) -> int:
    """Leading tokens of a choice that are counted for the first request of its group."""
    head = queued.get(mine.group)
    if mine.kind != "score" or head is None or head is mine or head.reusable is None:
        return 0
    return head.reusable + 1
