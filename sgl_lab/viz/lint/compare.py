"""Where a prompt differs from an earlier one, within fixed limits."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...contracts.prefixes import n_common
from ..explain.change import stretch
from .finding import MIN_TOKENS, Case
from .seen import MAX_REQUESTS, Request, Seen

MAX_CHANGES = 16
"""changes of one prompt that are followed"""
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """`now` has literal text at `at` where `before` has another; `n_after` tokens after it are the same."""

    request: Request
    earlier: Request
    of: Seen
    """the run of the earlier request"""
    at: int
    now: Tokens
    before: Tokens
    n_after: int

    def texts(self, seen: Seen) -> tuple[str, str]:
        return seen.text(self.now), self.of.text(self.before)


def difference(request: Request, earlier: Request, of: Seen) -> Difference | None:
    """The first one; None if there is none, if one prompt begins the other, or outside of literal text."""
    one, two = request.prompt, earlier.prompt
    at = n_common(one, two)
    if at >= min(len(one), len(two)) or not (request.is_text(at) and earlier.is_text(at)):
        return None
    n, m = stretch(one[at:], two[at:])
    return Difference(request, earlier, of, at, one[at : at + n], two[at : at + m], _n_equal(one[at + n :], two[at + m :]))


def _n_equal(one: Tokens, two: Tokens) -> int:
    """Tokens of both that are equal, apart from further changes."""
    found = 0
    for _ in range(MAX_CHANGES):
        n = n_common(one, two)
        found += n
        one, two = one[n:], two[n:]
        if not one or not two:
            break
        skip, other = stretch(one, two)
        one, two = one[skip:], two[other:]
    return found


def reruns(case: Case) -> Iterator[Difference]:
    """Each prompt against that of the same gen or select in the latest run of the same cell."""
    before = next((seen for seen in case.earlier if seen.source == case.seen.source), None)
    if before is None:
        return
    known = {_key(before, request): request for request in reversed(before.requests)}
    for request in case.seen.requests:
        earlier = known.get(_key(case.seen, request))
        if earlier is not None and (found := difference(request, earlier, before)) is not None:
            yield found


def _key(seen: Seen, request: Request) -> tuple[str, int, int]:
    return request.expr.name, request.expr.line, request.fork


def neighbours(case: Case) -> Iterator[Difference]:
    """Each prompt against the one computed before it that shares the longest beginning."""
    shelf: list[tuple[Tokens, int]] = []
    owners: list[tuple[Request, Seen]] = []
    for of in case.earlier:
        for earlier in of.requests[: MAX_REQUESTS - len(owners)]:
            owners.append((earlier, of))
            insort(shelf, (earlier.prompt, len(owners) - 1))
    for request in case.seen.requests:
        at = bisect_left(shelf, (request.prompt, -1))
        near = [owners[index] for _, index in shelf[max(at - 1, 0) : at + 1]]
        found = [one for earlier, of in near if (one := difference(request, earlier, of)) is not None]
        if found and not any(earlier.prompt == request.prompt for earlier, _ in near):
            best = max(found, key=lambda one: one.at)
            if request.n_hit is None or request.n_hit <= best.at:
                yield best
        owners.append((request, case.seen))
        insort(shelf, (request.prompt, len(owners) - 1))


def matters(found: Difference) -> bool:
    return found.n_after >= MIN_TOKENS


def moved(one: Sequence[str], two: Sequence[str], n_least: int = 8) -> list[str]:
    """Lines of at least `n_least` characters that both have once, in another order."""
    here, there = Counter(one), Counter(two)
    both = {line for line, n in here.items() if n == 1 == there[line] and len(line.strip()) >= n_least}
    pairs = zip((line for line in one if line in both), (line for line in two if line in both), strict=True)
    return [line for line, other in pairs if line != other]
