"""How many calls a server gets at once and a minute, from all backends of this process together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from ...contracts.errors import BadArgument

CONCURRENCY = 16


class Limits:
    """Of one server. `enter` waits for a place; `leave` gives it back; `pause` keeps all out for a
    while, as Retry-After asks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.concurrency = CONCURRENCY
        self._is_set = False
        """whether the number of calls at once was asked for"""
        self.per_minute: int | None = None
        self.n_running = 0
        self._starts: deque[float] = deque()
        self._paused_until = 0.0

    def set(self, concurrency: int | None, per_minute: int | None, *, default: int | None = None) -> None:
        """None leaves what is. `default` is for a server whose calls at once no backend has asked for."""
        for name, value in (("concurrency", concurrency), ("requests_per_minute", per_minute)):
            if value is not None and (type(value) is not int or value < 1):
                raise BadArgument(f"{name} must be a whole number, 1 or more, not {value!r}")
        with self._changed:
            if concurrency is None and not self._is_set:
                concurrency = max(default or 0, self.concurrency)
            else:
                self._is_set = True
            self.concurrency = concurrency or self.concurrency
            self.per_minute = per_minute or self.per_minute
            self._changed.notify_all()

    def enter(self, check: Callable[[], None]) -> None:
        """Wait until one more call may start. `check` raises where it is no longer wanted."""
        with self._changed:
            while (wait_s := self._wait_s()) > 0:
                check()
                self._changed.wait(min(wait_s, 0.25))
            check()
            self.n_running += 1
            self._starts.append(time.monotonic())

    def leave(self) -> None:
        with self._changed:
            self.n_running -= 1
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        with self._changed:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _wait_s(self) -> float:
        now = time.monotonic()
        while self._starts and self._starts[0] <= now - 60:
            self._starts.popleft()
        if self.n_running >= self.concurrency:
            return 60.0
        if self._paused_until > now:
            return self._paused_until - now
        if self.per_minute is not None and len(self._starts) >= self.per_minute:
            return self._starts[0] + 60 - now
        return 0.0


_limits: dict[tuple[str, str, int], Limits] = {}
_lock = threading.Lock()


def limits_of(origin: tuple[str, str, int]) -> Limits:
    with _lock:
        return _limits.setdefault(origin, Limits())
