"""A bounded ring of numbered, stamped events that admits loss.

Writers (any thread) append; each reader keeps its own cursor and learns how many events it
missed. The cure for a loss is a snapshot of the tree, then reading on from the snapshot's number.
Listeners are called under the ring's lock, in order, on the writer's thread: they must be quick
(a recorder's append, a flag that wakes a pump), and may not call whoever emits. One that raises is
heard no more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ..contracts.events import Entry, Event

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    entries: tuple[Entry, ...]
    cursor: int
    """what to pass next time"""
    n_missed: int


class Ring:
    """Keeps the last `capacity` events. `clock` gives nanoseconds and never goes back."""

    def __init__(self, capacity: int = 65_536, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._capacity = capacity
        self._slots: list[Entry] = []
        self._next = 0
        self._clock = clock
        self.born_ns = clock()
        self._lock = threading.Lock()
        self._listeners: tuple[Callable[[Entry], None], ...] = ()

    def emit(self, event: Event) -> None:
        """Append one event. This is the `Emit` that the engine and the language are given."""
        with self._lock:
            entry = Entry(self._next, self._clock() - self.born_ns, event)
            slot = entry.seq % self._capacity
            self._slots[slot : slot + 1] = [entry]
            self._next = entry.seq + 1  # last: whoever emits may be interrupted, and the next entry then takes the same slot
            for listener in self._listeners:
                try:
                    listener(entry)
                except Exception:
                    self._listeners = tuple(other for other in self._listeners if other is not listener)
                    _log.exception("a listener raised and will hear no more events")

    @property
    def cursor(self) -> int:
        """The number that the next event will get."""
        return self._next

    def read(self, cursor: int, limit: int = 1_000_000) -> Batch:
        """Events from number `cursor` on, at most `limit`, and how many of those asked for are gone."""
        with self._lock:
            first = max(0, self._next - self._capacity)
            if first < self._next and self._slots[first % self._capacity].seq != first:  # taken by an emit that was interrupted
                first += 1
            start = max(cursor, first)
            entries = tuple(self._slots[i % self._capacity] for i in range(start, min(self._next, start + limit)))
        return Batch(entries, start + len(entries), start - min(cursor, start))

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Call `listener` with every entry from now on; returns the function that ends it."""
        with self._lock:
            self._listeners += (listener,)

        def stop() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop
