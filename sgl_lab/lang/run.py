"""What the streams of one program run share: a backend, a lock, and the way to wait.

Appending never waits; reading does, in short slices, so that an interrupt is felt and a dead
backend is noticed. The lock is held while a stream advances, also on the backend's thread.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ..contracts.errors import EngineStopped, Stopped
from ..contracts.events import Emit
from ..contracts.ids import RunId
from ..contracts.params import SamplingParams
from ..contracts.port import Backend
from .chat_template import chat_of

if TYPE_CHECKING:
    from .stream import Stream

SLICE_S = 0.05

current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)
"""The run whose body is executing here; programs started inside inherit from it."""


def do_nothing() -> None:
    """Nobody interrupts."""


class Run:
    """One execution of a program or a cell."""

    def __init__(self, backend: Backend, emit: Emit, run_id: RunId, defaults: SamplingParams, eager: bool = False) -> None:
        self.backend = backend
        self.check: Callable[[], None] = do_nothing
        """asked between slices of waiting, with no lock held: raises where whoever drives the run wants it interrupted"""
        self.emit = emit
        self.id = run_id
        self.defaults = defaults
        self.eager = eager
        self.chat = chat_of(backend)
        self.lock = threading.RLock()
        self.streams: list[Stream] = []
        self.body_error: Exception | None = None
        self._seen: list[Exception] = []
        self._changed = threading.Condition(self.lock)
        self._body_thread: int | None = None
        self._nested: weakref.WeakSet[Run] = weakref.WeakSet()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """those of the batches that its body started"""
        self.stopped: Stopped | None = None
        if outer := current_run.get():
            self.check = outer.check
            with outer.lock:
                outer._nested.add(self)
                self.stopped = outer.stopped

    # ------------------------------------------------------------ the body

    @contextmanager
    def body(self) -> Iterator[None]:
        """The program's own code runs inside. If it raises, what it started is cancelled."""
        outer = current_run.get()
        try:
            current_run.set(self)
            self._body_thread = threading.get_ident()
            yield
        except BaseException as error:
            if isinstance(error, Exception):
                self.body_error = error
            self.stop("the run was interrupted" if isinstance(error, KeyboardInterrupt) else f"the program raised {type(error).__name__}")
            raise
        finally:
            current_run.set(outer)
            self._body_thread = None
            self.notify()

    @property
    def body_active(self) -> bool:
        return self._body_thread is not None

    @property
    def body_elsewhere(self) -> bool:
        """Whether another thread may still append."""
        return self._body_thread not in (None, threading.get_ident())

    def seen(self, error: Exception) -> Exception:
        """What to raise for `error`, which the user has seen then. A run that was stopped because its body raised failed of that."""
        if not self.has_seen(error):
            self._seen.append(error)
        return self.body_error if self.body_error and error is self.stopped else error

    def has_seen(self, error: Exception) -> bool:
        return any(error is seen for seen in self._seen)

    def adopt_thread(self) -> None:
        """The thread that calls this works for the run."""
        with self.lock:
            self._threads.add(threading.current_thread())

    # ------------------------------------------------------------ waiting

    def settled(self) -> bool:
        """Whether its streams have nothing to do and nobody elsewhere may give them more."""
        return not self.body_elsewhere and all(stream.idle for stream in self.streams)

    def quiet(self) -> bool:
        """Whether it and all that was started inside it are settled, and its threads have ended."""
        with self.lock:
            return self.settled() and not any(thread.is_alive() for thread in self._threads) and all(run.quiet() for run in self._nested)

    def notify(self) -> None:
        with self.lock:
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool]) -> None:
        """Return when `ready()`, asked under the lock, is true."""
        while True:
            with self.lock:
                if ready():
                    return
                self._changed.wait(SLICE_S)
                if ready():
                    return
            self.check()
            try:
                self.backend.poll()
            except EngineStopped as error:
                self._fail(error)
                return

    def _fail(self, error: Exception) -> None:
        with self.lock:
            for stream in self.streams:
                stream.abandon(error)
            self._changed.notify_all()

    def stop(self, why: str) -> None:
        """Drop what is queued and cancel what runs, in nested runs too; does not wait for it."""
        with self.lock:
            self.stopped = self.stopped or Stopped(why)
            for stream in self.streams:
                stream.stop(self.stopped)
            nested = tuple(self._nested)
            self._changed.notify_all()
        for run in nested:
            run.stop(why)
