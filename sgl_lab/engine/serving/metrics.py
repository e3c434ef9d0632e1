"""What an engine counts of itself: tokens and requests that are over, steps, and where the time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ParamSpec

from .scheduling.request import Request

P = ParamSpec("P")

REASONS = ("stop", "length", "abort", "error")
TOKENS = (
    "prompt",
    "cached_prompt",
    "cached",
    "computed",
    "recomputed",
    "generated",
    "forced",
    "drafted",
    "accepted",
    "rejected",
    "overrun",
)
PARTS = ("scheduler", "model", "masks", "commit", "listeners", "events")


class Account:
    """Seconds are of `clock` and do not overlap: those of saying events and of filling masks are not in the part in which that happens."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.tokens = Counter(dict.fromkeys(TOKENS, 0))
        self.requests = Counter(dict.fromkeys(REASONS, 0))
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.n_steps = 0
        self.n_rows = 0
        self._clock = clock
        self._since = 0.0
        self._apart = 0.0

    def count(self, request: Request, reason: str) -> None:
        """A request is over."""
        self.requests[reason] += 1
        self.tokens["prompt"] += len(request.prompt) - request.n_shared
        self.tokens["cached_prompt"] += request.n_found
        self.tokens["cached"] += request.n_cached
        self.tokens["computed"] += request.n_computed
        self.tokens["recomputed"] += request.n_recomputed
        self.tokens["forced"] += request.n_forced
        self.tokens["drafted"] += request.n_drafted
        self.tokens["accepted"] += request.n_drafted - request.n_rejected
        self.tokens["rejected"] += request.n_rejected

    def start(self) -> None:
        """A step begins, now."""
        self._since, self._apart = self._clock(), 0.0

    def lap(self, part: str) -> None:
        """Attribute the time since the last lap to `part`."""
        now = self._clock()
        self.seconds[part] += now - self._since - self._apart
        self._since, self._apart = now, 0.0

    def timed(self, part: str, function: Callable[P, None]) -> Callable[P, None]:
        """`function` with its time attributed to `part`, whichever part contains the call."""

        def run(*args: P.args, **named: P.kwargs) -> None:
            started = self._clock()
            function(*args, **named)
            spent = self._clock() - started
            self.seconds[part] += spent
            self._apart += spent

        return run
