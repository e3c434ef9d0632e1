"""A bounded ring of numbered, stamped events that admits loss.

Writers (any thread) append; each reader keeps its own cursor and learns how many events it
missed. The cure for a loss is a snapshot of the tree, then reading on from the snapshot's number.
Listeners are called under the ring's lock, in order, on the writer's thread: they must be quick
(a recorder's append, a flag that wakes a pump), and may not wait for whoever emits. One that raises is
heard no more. What a user gives is called by a `Follower`, on a thread of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from ..contracts.events import Emit, Entry, Event

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
        self._lock = threading.RLock()
        _rings.add(self)
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


_rings: weakref.WeakSet[Ring] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process: whoever held a lock is not there to let it go."""
    for ring in tuple(_rings):
        ring._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)


class Follower:
    """Calls `emit` with every event of a ring from now on, in order, on a thread of its own; if it raises it is called no more.

    It may take its time and read the ring. Of what the ring has dropped before it came to it, a warning says how much.
    """

    def __init__(self, ring: Ring, emit: Emit) -> None:
        wake = self._wake = SimpleQueue[bool]()

        def heard(entry: Entry) -> None:
            if wake.empty():
                wake.put(True)

        cursor, stop = ring.cursor, ring.listen(heard)
        self._thread = threading.Thread(target=_follow, args=(ring, emit, wake, cursor, stop), name="sgl_lab emit", daemon=True)
        self._thread.start()
        weakref.finalize(self, wake.put, False).atexit = False

    def close(self, timeout_s: float = 5.0) -> None:
        """Let it take what has happened so far, for `timeout_s` at most, and then no more."""
        self._wake.put(False)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)


def _follow(ring: Ring, emit: Emit, wake: SimpleQueue[bool], cursor: int, stop: Callable[[], None]) -> None:
    try:
        goes_on = True
        while goes_on:
            goes_on = wake.get()
            while (batch := ring.read(cursor, 1000)).entries:
                if batch.n_missed:
                    _log.warning("a listener was too slow and missed %d events", batch.n_missed)
                cursor = batch.cursor
                for entry in batch.entries:
                    emit(entry.event)
    except BaseException:
        _log.exception("a listener raised and will hear no more events")
    finally:
        stop()
