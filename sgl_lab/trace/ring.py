"""A bounded ring of numbered events with times. Readers can lose events.

Any thread may append. Each reader keeps its own cursor and learns how many events it missed. After
a loss it takes a snapshot of the tree and continues from the snapshot's number. Listeners are
called under the ring's lock, in order, on the writer's thread. They must be quick (a recorder's
append, a flag that wakes a pump) and must not wait for an emitting thread. A listener that raises
is removed. Callbacks of users are called by a `Follower`, on a thread of its own.
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
    """the cursor for the next read"""
    n_missed: int


class Ring:
    """Keeps the last `capacity` events. `clock` returns nanoseconds and never decreases."""

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
        """Append one event. Engine and language receive this method as their `Emit`."""
        with self._lock:
            entry = Entry(self._next, self._clock() - self.born_ns, event)
            slot = entry.seq % self._capacity
            self._slots[slot : slot + 1] = [entry]
            # last: if an emitting thread is interrupted, the next entry takes the same slot
            self._next = entry.seq + 1
            for listener in self._listeners:
                try:
                    listener(entry)
                except Exception:
                    self._listeners = tuple(other for other in self._listeners if other is not listener)
                    _log.exception("a listener raised and receives no more events")

    @property
    def cursor(self) -> int:
        """The number of the next event."""
        return self._next

    def read(self, cursor: int, limit: int = 1_000_000) -> Batch:
        """Events from number `cursor` on, at most `limit`, and how many of the requested ones are
        lost.
        """
        with self._lock:
            first = max(0, self._next - self._capacity)
            # the slot was taken by an interrupted emit
            if first < self._next and self._slots[first % self._capacity].seq != first:
                first += 1
            start = max(cursor, first)
            entries = tuple(self._slots[i % self._capacity] for i in range(start, min(self._next, start + limit)))
        return Batch(entries, start + len(entries), start - min(cursor, start))

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Call `listener` with every entry from now on. Returns a function that removes it."""
        with self._lock:
            self._listeners += (listener,)

        def stop() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop


_rings: weakref.WeakSet[Ring] = weakref.WeakSet()


def _renew_locks() -> None:
    """Renew the locks in a forked process, because the threads that held them do not exist there."""
    for ring in tuple(_rings):
        ring._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)


class Follower:
    """Calls `emit` with every event of a ring from now on, in order, on a thread of its own. If it
    raises, it is not called again.

    It may be slow, and may read the ring. If it misses events, a warning reports how many.
    """

    def __init__(self, ring: Ring, emit: Emit) -> None:
        wake = self._wake = SimpleQueue[bool]()

        def wake_up(entry: Entry) -> None:
            if wake.empty():
                wake.put(True)

        cursor, stop = ring.cursor, ring.listen(wake_up)
        self._thread = threading.Thread(target=_follow, args=(ring, emit, wake, cursor, stop), name="sgl_lab emit", daemon=True)
        self._thread.start()
        weakref.finalize(self, wake.put, False).atexit = False

    def close(self, timeout_s: float = 5.0) -> None:
        """Process the events so far, for at most `timeout_s` seconds, then end."""
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
        _log.exception("a listener raised and receives no more events")
    finally:
        stop()
