"""How long a call may take, and the thread that ends it then, whatever its own thread is stuck in."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ...contracts.errors import BadArgument

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds: to be connected; between two pieces of an answer; for a call with its retries."""

    connect: float = 5.0
    idle: float = 60.0
    total: float = 600.0

    def __post_init__(self) -> None:
        for name in ("connect", "idle", "total"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < threading.TIMEOUT_MAX):
                raise BadArgument(f"deadline {name} must be a number of seconds above 0, not {value!r}")


class Alarms:
    """Calls functions at their times, on one thread, which ends when nothing is left."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def at(self, when: float, ring: Callable[[], None]) -> Callable[[], None]:
        """Call `ring` at `when` (time.monotonic); what is returned calls it off."""
        number = next(self._numbers)
        with self._changed:
            heapq.heappush(self._heap, (when, number, ring))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="sgl-remote-clock", daemon=True)
                self._thread.start()
            self._changed.notify()

        def off() -> None:
            with self._changed:
                self._heap = [entry for entry in self._heap if entry[1] != number]
                heapq.heapify(self._heap)
                self._changed.notify()

        return off

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._heap or self._heap[0][0] > time.monotonic():
                    if not self._heap:
                        if not self._changed.wait(5.0) and not self._heap:
                            self._thread = None
                            return
                    else:
                        self._changed.wait(max(0.0, self._heap[0][0] - time.monotonic()))
                ring = heapq.heappop(self._heap)[2]
            try:
                ring()
            except Exception:
                _log.exception("a deadline could not be kept")


ALARMS = Alarms()
