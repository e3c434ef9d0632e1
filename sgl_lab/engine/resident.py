"""The one place with the thread: an engine that lives in this process and obeys messages between steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from ..contracts.errors import EngineStopped, InvariantBroken
from ..contracts.ids import RequestId
from ..contracts.tree import TreeSnapshot
from .engine import Engine
from .family import Family

T = TypeVar("T")

RECOUNT_AFTER_S = 2.0
"""Idle seconds after which the books are recounted, once."""


class Resident:
    """Owns the engine and its daemon thread. All methods may be called from any thread, listeners' included.

    `cursor` gives the number that the next event will get; a snapshot carries it.
    """

    def __init__(self, engine: Engine, cursor: Callable[[], int] = lambda: 0) -> None:
        self.engine = engine
        self._cursor = cursor
        self._inbox: deque[Callable[[], object]] = deque()
        self._wake = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._live, name="sgl_lab engine", daemon=True)
        self._thread.start()

    def submit(self, family: Family) -> None:
        """Let a family that `engine.gen`, `score`, `warm` or `pin` made wait for its turn."""
        self._send(lambda: self.engine.add(family))

    def cancel(self, request: RequestId) -> None:
        """Obeyed before the next step; unknown requests, and any after `close`, are ignored."""
        with suppress(EngineStopped):
            self._send(lambda: self.engine.cancel(request))

    def abort_all(self) -> int:
        """Cancel everything that runs or waits; returns how many jobs there were."""
        return self.call(self.engine.abort_all)

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the engine's thread between two steps and hand back what it returns or raises."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()

        def answer() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._send(answer)
        return future.result()

    def flush(self) -> int:
        """Evict everything that no running request reads; returns the number of pages freed."""
        return self.call(self.engine.flush)

    def unpin(self, handle: RequestId) -> None:
        """Let a pin go; BadArgument if there is none of that number."""
        self.call(lambda: self.engine.unpin(handle))

    def snapshot(self) -> TreeSnapshot:
        """The tree between two steps, with the number of the first event that is not in it."""
        return self.call(lambda: self.engine.snapshot(self._cursor()))

    def check(self) -> None:
        """Recount tree and pool; InvariantBroken if they do not add up."""
        self.call(self.engine.check)

    def stats(self) -> dict[str, Any]:
        return self.call(self.engine.stats)

    def poll(self) -> None:
        """EngineStopped when nothing that waits will ever be answered."""
        if self._is_closing or not self._thread.is_alive():
            raise EngineStopped("the engine was closed", hint="make a new lab")

    def close(self, timeout_s: float = 10.0) -> None:
        """Answer what is open with EngineStopped, free the memory, end the thread; a second time does nothing."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    # ------------------------------------------------------------ the thread

    def _send(self, message: Callable[[], object]) -> None:
        with self._wake:
            self.poll()
            self._inbox.append(message)
            self._wake.notify()

    def _live(self) -> None:
        is_busy = False
        while True:
            with self._wake:
                if not is_busy:
                    self._sleep()
                messages, self._inbox = self._inbox, deque()
                is_closing = self._is_closing
            for message in messages:
                self._obey(message)
            if is_closing:
                self.engine.close()
                return
            is_busy = self.engine.step()

    def _obey(self, message: Callable[[], object]) -> None:
        try:
            message()
        except Exception as error:  # nothing that a caller can cause: our books are wrong
            self.engine.recover(error)

    def _sleep(self) -> None:
        """Wait for a message; recount the books once if none comes for a while."""
        if self._wake.wait_for(self._has_news, RECOUNT_AFTER_S):
            return
        try:
            self.engine.check()
        except InvariantBroken as error:
            self.engine.recover(error)
        self._wake.wait_for(self._has_news)

    def _has_news(self) -> bool:
        return bool(self._inbox) or self._is_closing
