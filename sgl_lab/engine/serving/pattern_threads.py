"""Threads that match rows against users' patterns (`processing`), so that the engine's thread does
not.

The engine waits until all rows of a step are through, but for a pattern that computes for long: of
that one it goes on without the request. How long is measured in the time that its thread computes,
so that no count depends on how busy the machine is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from .processing import Filling, Processing

Task = Processing | Filling

PATIENCE_S = 0.005
"""of computing, that the engine waits for one row"""
SLICE_S = 0.005
"""how long it waits before it looks at what the threads do"""
MAX_THREADS = 16


class PatternThreads:
    """Called by one thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._through: SimpleQueue[Task] = SimpleQueue()
        self._workers: list[_Worker] = []
        """the last one takes what comes next; the others are not done with what they took"""

    def __call__(self, tasks: Sequence[Task], *, until_done: bool = False) -> None:
        """Returns when all are done. Without `until_done` it also returns when each unfinished one
        has computed for longer than `PATIENCE_S`.
        """
        if not self._workers:
            self._workers.append(_Worker(self._queue, self._through))
        for task in tasks:
            self._queue.put(task)
        left = set(tasks)
        while left:
            try:
                left.discard(self._through.get(timeout=SLICE_S))
            except Empty:
                if self._gives_up(left) and not until_done:
                    return

    def _gives_up(self, left: set[Task]) -> bool:
        """Whether nothing but what takes long is left. Another thread goes on with the rest."""
        self._workers = [worker for worker in self._workers if worker.thread.is_alive()]
        last = self._workers[-1]
        long = {worker.current for worker in self._workers if worker.computed_s() > PATIENCE_S}
        if last.current in long:
            if len(self._workers) == MAX_THREADS:
                return True
            last.is_last = True
            self._workers.append(_Worker(self._queue, self._through))
        return left <= long

    def close(self) -> None:
        """End the threads, each when it is done with what it took."""
        for _ in range(MAX_THREADS):
            self._queue.put(None)


class _Worker:
    def __init__(self, queue: SimpleQueue[Task | None], through: SimpleQueue[Task]) -> None:
        self.current: Task | None = None
        self.is_last = False
        """what is taken now, or has just been, is the last that this thread takes"""
        self._queue, self._through = queue, through
        self._clock: int | None = None
        self._began_s = 0.0
        self.thread = threading.Thread(target=self._work, name="sgl_lab patterns", daemon=True)
        self.thread.start()

    def computed_s(self) -> float:
        """How long this thread has computed over what it took."""
        try:
            return self._now_s() - self._began_s if self.current is not None else 0.0
        except OSError:  # it has just ended
            return 0.0

    def _now_s(self) -> float:
        """CPU seconds of this thread; elapsed seconds if the system does not report them."""
        return time.monotonic() if self._clock is None else time.clock_gettime(self._clock)

    def _work(self) -> None:
        with suppress(AttributeError, OSError):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        while not self.is_last and (task := self._queue.get()) is not None:
            self._began_s = self._now_s()
            self.current = task
            task()
            self.current = None
            self._through.put(task)
            del task  # it holds a request and its program
