"""The counts of a whole engine. They are the engine's own counters, read when they are shown, and
are therefore exact.

The engine is passed as a function. Only the speed is computed here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from ...contracts.errors import SglError
from ...contracts.events import Entry, TextArrived, TokensSampled
from ...contracts.tree import TreeSnapshot
from .metrics import MetricsPicture
from .recent import RecentView

WINDOW_S = 2.0

Counts = Callable[[], Mapping[str, float | str]]
"""the engine's counters, as returned by `Lab.stats`"""


class CountsView:
    """The counts of an engine. Its own counters are complemented by the tokens generated per
    second.
    """

    def __init__(self, counts: Counts, recent: RecentView, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._recent, self._clock = counts, recent, clock
        self._counts: Mapping[str, float | str] = {}
        self._grown: deque[tuple[float, int]] = deque()
        self._sent: MetricsPicture | None = None

    def load(self, snapshot: TreeSnapshot) -> None:
        pass

    def fold(self, entry: Entry) -> None:
        if isinstance(event := entry.event, TokensSampled) or (isinstance(event, TextArrived) and not event.is_whole):
            now = self._clock()
            self._grown.append((now, len(event.samples)))
            self._forget(now)

    def delta(self) -> MetricsPicture | None:
        """The counts, or None if nothing changed since the last call."""
        picture = self.full()
        if picture == self._sent:
            return None
        self._sent = picture
        return picture

    def full(self) -> MetricsPicture:
        try:
            found = self._counts = self._ask()
        except SglError:  # the engine is gone: its last counts remain
            found = self._counts
        count = {name: int(found.get(name, 0)) for name in _COUNTED}
        n_prompt = count["prompt_tokens"]
        return {
            "tok_s": self._speed(),
            "hit_rate": float(found["hit_rate"]) if n_prompt else None,
            "cached": count["cached_prompt_tokens"],
            "found": 0,
            "reused": count["cached_prompt_tokens"],
            "computed": n_prompt - count["cached_prompt_tokens"],
            "generated": count["generated_tokens"],
            "forced": count["forced_tokens"],
            "evicted": count["evicted_tokens"],
            "n_pages": count["pages_total"],
            "free_pages": count["pages_free"],
            "forks": 0,
            "running": self._recent.running,
            "waiting": self._recent.waiting,
            "steps": count["steps"],
            "elsewhere": "answered" in found,
            "answered": count["answered"],
            "uncounted": count["uncounted"],
            "cost": float(found.get("cost", 0.0)),
            "currency": str(found.get("currency", "")),
            "unpriced": count["unpriced"],
        }

    def least_bytes(self) -> int:
        """A lower bound of the size of `full` as JSON: it is always small."""
        return 0

    def _speed(self) -> float:
        now = self._clock()
        self._forget(now)
        if not (self._recent.running or self._recent.waiting):
            return 0.0
        return round(sum(n for _, n in self._grown) / min(WINDOW_S, max(now - self._grown[0][0], 0.1)), 1) if self._grown else 0.0

    def _forget(self, now: float) -> None:
        while self._grown and self._grown[0][0] < now - WINDOW_S:
            self._grown.popleft()


_COUNTED = (
    "prompt_tokens",
    "cached_prompt_tokens",
    "generated_tokens",
    "forced_tokens",
    "evicted_tokens",
    "pages_total",
    "pages_free",
    "steps",
    "answered",
    "uncounted",
    "unpriced",
)
