"""Metrics of an engine: tokens, finished requests, steps, and time by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ParamSpec

from ..plan import Runner, Timed
from .cache.pins import Pins
from .cache.tree import RadixTree
from .scheduling.request import Request
from .scheduling.scheduler import Scheduler

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


class Metrics:
    """Seconds are those of `clock` and do not overlap: events and masks have parts of their own,
    whichever part contains them.
    """

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

    def stats(self, runner: Runner, tree: RadixTree, scheduler: Scheduler, pins: Pins) -> dict[str, float]:
        """Counts since the engine was created. Tokens, except generated ones, are those of finished
        requests.

        `*_s` are seconds in the parts of steps, none of them counted twice: `model` is waiting for
        the runner, without `sampler` if the runner reports it; `commit` is processing its results;
        `listeners` is calling listeners.
        """
        tokens, n_steps = self.tokens, max(1, self.n_steps)
        seconds = dict(self.seconds)
        if isinstance(runner, Timed):
            seconds["sampler"] = runner.seconds["sampler"]
            seconds["model"] -= seconds["sampler"]
        return {
            **{f"{name}_tokens": n for name, n in tokens.items()},
            "evicted_tokens": tree.n_evicted_tokens,
            "evictions": tree.n_evicted,
            "hit_rate": tokens["cached_prompt"] / max(1, tokens["prompt"]),
            "preemptions": scheduler.n_preempted,
            "steps": self.n_steps,
            "step_ms": sum(seconds.values()) * 1000 / n_steps,
            "step_rows": self.n_rows / n_steps,
            **{f"{part}_s": spent for part, spent in seconds.items()},
            "nodes": tree.n_nodes,
            "pages_total": tree.pool.n_pages,
            "pages_free": tree.pool.n_free,
            "pages_pinned": pins.n_pages,
            "pins": len(pins.pinned),
            **{f"requests_{reason}": n for reason, n in self.requests.items()},
            "requests_running": len(scheduler.running),
            "requests_waiting": len(scheduler.waiting),
        }
