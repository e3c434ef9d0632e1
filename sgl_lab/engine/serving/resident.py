"""The engine's thread, and the only module with it: an engine in this process that receives
messages between steps.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ...contracts.errors import EngineStopped, InvariantBroken, SglError
from ...contracts.ids import ForkId, RequestId
from ...contracts.tree import TreeSnapshot
from .engine import Engine
from .forked import check_not_forked, is_forked
from .gate import Gate, Reply
from .group import RequestGroup
from .notifying import Notifier
from .pattern_threads import PatternThreads
from .processing import process_here

T = TypeVar("T")

RECOUNT_AFTER_S = 2.0
"""Idle seconds after which the books are recounted, once."""
SLICE_S = 0.5
"""How long a caller waits before it asks whether the thread still lives."""
TELL_S = 1.0
"""Seconds that `close` waits for listeners to receive their answers."""
EXIT_S = 10.0
"""Seconds that the end of the interpreter waits for the steps in flight."""


def _do_nothing() -> None:
    """There is something to look at."""


class _Life:
    """The thread's data: the engine and its inbox, and nothing of the owner."""

    def __init__(self, engine: Engine, after_close: Callable[[], object]) -> None:
        self.engine = engine
        self.inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.is_closing = False
        self.ended = Gate()
        self.notifier = Notifier(engine.report_raised)
        self._patterns = PatternThreads()
        self._after_close = after_close
        engine.process = self._patterns
        engine.wake_with(partial(self.inbox.put, _do_nothing))

    def ask_to_close(self) -> None:
        self.inbox.put(self._begin_to_close)

    def _begin_to_close(self) -> None:
        self.is_closing = True

    def live(self) -> None:
        is_busy = False
        try:
            while not self.is_closing:
                if not is_busy:
                    self._run(self._awaited())
                self._run_queued()
                is_busy = not self.is_closing and self.engine.step()
                self.notifier.settle()
            self._run_queued()
            self.engine.close()
            self._after_close()
        finally:
            self.engine.process = process_here
            self._patterns.close()
            self.notifier.close()
            self.ended.open()

    def _run_queued(self) -> None:
        for _ in range(self.inbox.qsize()):
            self._run(self.inbox.get())

    def run_all(self, messages: Sequence[Callable[[], object]]) -> None:
        for message in messages:
            self._run(message)

    def _run(self, message: Callable[[], object]) -> None:
        try:
            message()
        except Exception as error:  # no caller can cause it: our books are wrong
            self.engine.recover(error)

    def _awaited(self) -> Callable[[], object]:
        """The next message; the books are recounted once if none comes for a while."""
        try:
            return self.inbox.get(timeout=RECOUNT_AFTER_S)
        except Empty:
            pass
        try:
            self.engine.check()
        except InvariantBroken as error:
            self.engine.recover(error)
        return self.inbox.get()


class _Thread(threading.Thread):
    """A daemon, for which the interpreter waits at its end nevertheless: torch aborts a process whose
    interpreter ends while another of its threads computes, or frees a model.
    """

    def __init__(self, life: _Life) -> None:
        super().__init__(target=life.live, name="sgl_lab engine", daemon=True)
        self.life = life


@atexit.register
def _end_all() -> None:
    threads = [thread for thread in threading.enumerate() if isinstance(thread, _Thread)]
    for thread in threads:
        thread.life.ask_to_close()
    until = time.monotonic() + EXIT_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


class _Together(threading.local):
    """Messages that a thread sends while it is inside `at_once`; None outside."""

    messages: list[Callable[[], object]] | None = None


class Resident:
    """Owns the engine and its daemon thread. All methods may be called from any thread, including a
    listener's.

    A caller may be interrupted anywhere: it never shares a lock with the thread. `cursor` returns
    the number of the next event, which a snapshot contains. A resident without references is
    closed; `after_close` is then called on the thread, as after `close`.
    """

    def __init__(self, engine: Engine, cursor: Callable[[], int] = lambda: 0, after_close: Callable[[], object] = lambda: None) -> None:
        self.engine = engine
        self._cursor = cursor
        self._together = _Together()
        self._life = _Life(engine, after_close)
        self._thread = _Thread(self._life)
        self._thread.start()
        weakref.finalize(self, self._life.ask_to_close).atexit = False

    @property
    def is_open(self) -> bool:
        return not (self._life.is_closing or self._life.ended.is_open)

    def on_own_thread(self, listener: Any) -> Any:
        """A version of `listener` for the engine, which calls it on a thread of its own, so that it
        may be slow.
        """
        return self._life.notifier.listener(listener)

    def submit(self, group: RequestGroup) -> None:
        """Let a group that `engine.gen`, `score`, `warm` or `pin` made wait for its turn."""
        self._post(lambda: self.engine.add(group))

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Messages that this thread sends inside the block take effect together at its end, without
        a step in between.
        """
        if self._together.messages is not None:
            yield
            return
        messages: list[Callable[[], object]] = []
        self._together.messages = messages
        try:
            yield
        finally:
            self._together.messages = None
            if messages:
                self._life.inbox.put(partial(self._life.run_all, messages))

    def cancel(self, request: RequestId) -> None:
        """Cancel a request before the next step. Unknown requests are ignored, and so are all after
        `close`.
        """
        with suppress(EngineStopped):
            self._post(lambda: self.engine.cancel(request))

    def ended(self, forks: tuple[ForkId, ...], *, is_all: bool, batch: int = 0) -> None:
        """As the event ForksEnded says. Nothing is done after `close`."""
        with suppress(EngineStopped):
            self._post(lambda: self.engine.ended(forks, is_all=is_all, batch=batch))

    def abort_all(self) -> int:
        """Cancel everything that runs or waits; returns how many jobs there were."""
        return self.call(self.engine.abort_all)

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the engine's thread between two steps. Returns its result or raises its
        exception.
        """
        if threading.current_thread() is self._thread:
            return function()
        self._life.notifier.excuse()
        reply: Reply[T] = Reply()
        self._send(lambda: reply.of(function))
        while not reply.wait(SLICE_S):
            if self._life.ended.is_open and not reply.is_open:
                self.poll()
        return reply.result()

    def flush(self) -> int:
        """Evict everything that no running request reads; returns the number of pages freed."""
        return self.call(self.engine.flush)

    def unpin(self, handle: RequestId) -> None:
        """Release a pin. BadArgument if there is none of that number."""
        self.call(lambda: self.engine.unpin(handle))

    def snapshot(self) -> TreeSnapshot:
        """The tree between two steps, with the number of the first event that is not in it."""
        return self.call(lambda: self.engine.snapshot(self._cursor()))

    def check(self) -> None:
        """Recount tree and pool; InvariantBroken if they do not add up."""
        self.call(self.engine.check)

    def stats(self) -> dict[str, float]:
        return self.call(self.engine.stats)

    def poll(self) -> None:
        """EngineStopped when nothing that waits will ever be answered."""
        check_not_forked()
        if not self.is_open:
            raise EngineStopped("the engine was closed", hint="make a new lab")
        self._life.notifier.look()

    def close(self, timeout_s: float = 10.0) -> None:
        """Answer open requests with EngineStopped, free the memory, end the thread. A second call
        does nothing.

        SglError if a step is still being computed after `timeout_s`: the engine closes when that
        step ends.
        """
        if is_forked():
            return  # the engine is the parent's
        self._life.ask_to_close()
        if threading.current_thread() is self._thread:
            return
        if not self._life.ended.wait(timeout_s):
            raise SglError(
                f"the engine is still computing a step {timeout_s:g} s after it was closed, and holds its memory until the step ends",
                hint="call close() again to wait for it",
            )
        self._life.notifier.wait(TELL_S)

    def _post(self, message: Callable[[], object]) -> None:
        """Like `_send`, together with other messages inside `at_once`."""
        if (messages := self._together.messages) is None:
            self._send(message)
        else:
            self.poll()
            messages.append(message)

    def _send(self, message: Callable[[], object]) -> None:
        self.poll()
        self._life.inbox.put(message)
        self.poll()  # a message from before the closing is taken; a later one may be lost
