"""What an engine counts of itself: tokens and requests that are over, steps, and where the time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ..contracts.events import Emit, Event
from .plan.request import Request

REASONS = ("stop", "length", "abort", "error")
PARTS = ("scheduler", "model", "commit", "listeners", "events")


class Account:
    """Seconds are of `clock` and do not overlap: those of saying events are not in the part in which they are said."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.tokens: Counter[str] = Counter(prompt=0, cached=0, computed=0, recomputed=0, generated=0, drafted=0, accepted=0, rejected=0)
        self.requests = Counter(dict.fromkeys(REASONS, 0))
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.n_steps = 0
        self.n_rows = 0
        self._clock = clock
        self._since = 0.0
        self._in_events = 0.0

    def count(self, request: Request, reason: str) -> None:
        """A request is over."""
        self.requests[reason] += 1
        self.tokens["prompt"] += len(request.prompt) - request.n_shared
        self.tokens["cached"] += request.n_cached
        self.tokens["computed"] += request.n_computed
        self.tokens["recomputed"] += request.n_recomputed
        self.tokens["drafted"] += request.n_drafted
        self.tokens["accepted"] += request.n_drafted - request.n_rejected
        self.tokens["rejected"] += request.n_rejected

    def start(self) -> None:
        """A step begins, now."""
        self._since, self._in_events = self._clock(), 0.0

    def lap(self, part: str) -> None:
        """What was spent since the last lap was spent in `part`."""
        now = self._clock()
        self.seconds[part] += now - self._since - self._in_events
        self._since, self._in_events = now, 0.0

    def timed(self, emit: Emit) -> Emit:
        """`emit`, with the time that it takes put down."""

        def say(event: Event) -> None:
            started = self._clock()
            emit(event)
            spent = self._clock() - started
            self.seconds["events"] += spent
            self._in_events += spent

        return say
