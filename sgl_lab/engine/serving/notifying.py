"""Calls listeners on threads that are not the engine's.

A listener continues a program: it renders chat templates, runs a user's choices method, waits for
locks. None of this may hold up a step. One thread calls all listeners, each in the order of its
notifications. If one takes long, another thread continues with the others.

The engine waits briefly for the listeners that it notified (`Notifier.settle`), so that their next
requests arrive before the next step and counts do not depend on the speed of threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from .gate import Gate

MAX_THREADS = 16
LATE_S = 0.05
"""how long a listener waits for the threads there are before another one is started"""
SLICES = 5
"""of `LATE_S`, that the engine waits for a listener"""


class Listener:
    """In a listener's place (`group.Deferring`): passes the notifications on, in order. Of any job."""

    def __init__(self, listener: Any, notifier: Notifier) -> None:
        self.calls: deque[Callable[[], None]] = deque()
        self.is_queued = False
        """or busy: a thread will process `calls`"""
        self._listener = listener
        self._notifier = notifier

    def deliver(self, call: Callable[[Any], None]) -> None:
        """Have `call` called with the listener."""
        self._notifier.notify(self, partial(call, self._listener))


class Notifier:
    """`failed` is called with exceptions of listeners."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._lock = threading.Lock()
        self._due: set[Listener] = set()
        """for whom the engine waits"""
        self._settled = threading.Condition(self._lock)
        self._here = threading.local()
        self._queue: SimpleQueue[Listener | None] = SimpleQueue()
        self._n_threads = self._n_idle = 0
        self._taken = 0.0
        """when a thread last took a listener from the queue, or it was empty"""
        self._is_closed = False
        self._over = Gate()

    def listener(self, listener: Any) -> Listener:
        return Listener(listener, self)

    def notify(self, listener: Listener, call: Callable[[], None]) -> None:
        with self._lock:
            listener.calls.append(call)
            if listener.is_queued:
                return
            listener.is_queued = True
            self._due.add(listener)
            if self._queue.empty():
                self._taken = time.monotonic()
            self._queue.put(listener)
        self.look()

    def settle(self) -> None:
        """Wait until listeners have processed their notifications. A slow listener is not waited
        for again until it is done.
        """
        for _ in range(SLICES):
            with self._lock:
                if self._settled.wait_for(lambda: not self._due, LATE_S):
                    return
            self.look()
        with self._lock:
            self._due.clear()

    def excuse(self) -> None:
        """The listener that is called on this thread, if one is, waits for the engine itself."""
        if (listener := getattr(self._here, "listener", None)) is not None:
            with self._lock:
                self._forget(listener)

    def look(self) -> None:
        """Start a thread if listeners wait and the existing threads do not reach them. Called from
        time to time by waiting threads.
        """
        if self._queue.empty() or (self._n_threads and time.monotonic() - self._taken < LATE_S):
            return
        with self._lock:
            if self._is_closed or self._n_idle or self._n_threads >= MAX_THREADS:
                return
            self._n_threads += 1
            self._taken = time.monotonic()
        threading.Thread(target=self._work, name="sgl_lab listener", daemon=True).start()

    def close(self) -> None:
        """End the threads when all notifications have been passed on."""
        with self._lock:
            self._is_closed = True
            for _ in range(self._n_threads):
                self._queue.put(None)
            if not self._n_threads:
                self._over.open()

    def wait(self, seconds: float) -> bool:
        """Whether the threads have ended, after waiting at most `seconds`; True on one of them."""
        return threading.current_thread().name == "sgl_lab listener" or self._over.wait(seconds)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._n_idle += 1
            listener = self._queue.get()
            with self._lock:
                self._n_idle -= 1
                self._taken = time.monotonic()
                if listener is None:
                    self._n_threads -= 1
                    if not self._n_threads:
                        self._over.open()
                    return
            self._here.listener = listener
            while (call := self._next(listener)) is not None:
                try:
                    call()
                except Exception as error:
                    self._failed(error)
            self._here.listener = None
            del listener, call  # what a listener holds, a program and its backend say, is not held while this thread waits

    def _next(self, listener: Listener) -> Callable[[], None] | None:
        with self._lock:
            if listener.calls:
                return listener.calls.popleft()
            listener.is_queued = False
            self._forget(listener)
            return None

    def _forget(self, listener: Listener) -> None:
        """The engine does not wait for it; with the lock held."""
        self._due.discard(listener)
        if not self._due:
            self._settled.notify_all()
