"""The shared parts of one program run: a backend, a lock, and the two ways to wait.

Appending never waits; reading does. A thread waits in short slices, a coroutine on its loop
(`loop.py`), so that an interrupt is handled and a dead backend is noticed. The lock is held while a
stream advances, also on the backend's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Protocol

from ..contracts.conversation import AnyBackend
from ..contracts.errors import BackendUnsupported, EngineStopped, ProgramError, Stopped
from ..contracts.events import Emit, Event, silent
from ..contracts.ids import ForkId, RunId
from ..contracts.params import SamplingParams
from ..contracts.port import Following
from .chat_template import chat_of
from .expressions import Instruction, Name
from .history import History
from .interrupts import INTERRUPTS
from .loop import SLICE_S, Loop, running_loop
from .shared import Siblings
from .variable import Variable

_log = logging.getLogger(__name__)

_here: ContextVar[tuple[Run, ...]] = ContextVar("sgl_runs_here", default=())
"""The runs whose bodies execute here, the innermost last."""


def current_run() -> Run | None:
    """The run whose body executes here; programs started inside inherit from it."""
    return _here.get()[-1] if _here.get() else None


def do_nothing() -> None:
    """Does nothing: there is nothing to end."""


class Strand(Protocol):
    """The interface of one strand of a program: the root, or a child of a fork. The run's lock
    guards it.

    One method receives the program's values; everything else is for reading. A run, a state and its
    views use only this interface of an executor. `Stream` and `Tracer` are executors.
    """

    id: ForkId
    run: Run
    label: str
    variables: dict[Name, Variable]
    inherited: dict[Name, Variable]
    """the parent's variables at the fork"""
    defaults: SamplingParams
    """of sampling"""
    role: str | None
    """the open role once everything appended so far is done"""
    error: Exception | None
    joined: bool
    n_unnamed: int
    """gens and selects without a name so far"""

    @property
    def parent(self) -> Strand | None: ...

    @property
    def transcript(self) -> History: ...

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight and nothing will be until more is appended."""

    @property
    def partial(self) -> str:
        """Text of the generation in flight."""

    def submit(self, instruction: Instruction) -> Sequence[Strand]:
        """Accept the next value. Returns the strands that it opens. It is refused completely if any
        part of it is invalid.
        """

    def assign(self, name: Name, value: object) -> None:
        """Keep a value of the program's own under a name."""

    def stop(self, stopped: Stopped) -> None:
        """Cancel what runs, whose partial result will still arrive, and drop the rest."""

    def abandon(self, error: Exception) -> None:
        """Fail everything in flight: it will never be answered."""


class Run:
    """One execution of a program or a cell."""

    def __init__(self, backend: AnyBackend, emit: Emit, run_id: RunId, defaults: SamplingParams, eager: bool = False) -> None:
        self.backend = backend
        self.check: Callable[[], None] = INTERRUPTS.check
        """called between slices of waiting, without a lock; raises to interrupt the run"""
        self.id = run_id
        self.defaults = defaults
        self.eager = eager
        self.card = backend.describe()
        self.chat = chat_of(backend, self.card)
        self.spells_logprobs = True
        """default for whether log-probabilities include the text of their tokens"""
        self.siblings: Siblings | None = None
        """the other items, of a batch"""
        self.arguments: dict[str, object] = {}
        """the program's own"""
        self.n_ahead = 0
        """tokens that one call may request in total, past the end of its gen; 0 if that does not
        pay
        """
        self.traced: Callable[[str, dict[str, object]], Run] | None = None
        """where a program is traced: begins another one inside it, with its name and sampling arguments"""
        self.renew()
        _runs.add(self)
        self.streams: list[Strand] = []
        self.stopped: Stopped | None = None
        self.body_error: Exception | None = None
        self.fork_error: Exception | None = None
        """errors of streams that no read had raised when the program's state was asked how it ended"""
        self.body_ended = False
        self.is_over = False
        """whether its backend knows that all of its streams have ended; appending changes that"""
        self.body_task: asyncio.Task[None] | None = None
        """the task of a background body; a loop alone would not keep a reference to it"""
        self.loops: set[Loop] = set()
        """loops with waiters for this run"""
        self._listen = emit
        self._seen: list[Exception] = []
        self._has_body = False
        self._body_thread: int | None = None
        self._body_loop: asyncio.AbstractEventLoop | None = None
        self._end_body = do_nothing
        """tasks of bodies that await something else"""
        self._nested: weakref.WeakSet[Run] = weakref.WeakSet()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """threads of batches that its body started"""
        self.within: ForkId | None = None
        """the root stream of the program whose body started this one"""
        if outer := current_run():
            self.check = outer.check
            self.within = outer.streams[0].id if outer.streams else None
            with outer.lock:
                outer._nested.add(self)
                self.stopped = outer.stopped

    def missing(self, capability: str) -> BackendUnsupported:
        """The error for a feature that the backend does not offer."""
        return self.card.capabilities.missing(capability, self.card.name)

    def renew(self) -> None:
        """Replace the lock by a free one: in a forked process, the thread that held the old one
        does not exist.
        """
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)

    def emit(self, event: Event) -> None:
        """Emit an event. A listener that raises is removed: a failure in a picture must not fail
        the program.
        """
        try:
            self._listen(event)
        except RecursionError:
            raise  # the program's own error: there is no memory left to report it
        except Exception:
            self._listen = silent
            _log.exception("a listener of events failed and receives no more events")

    # ------------------------------------------------------------ the body

    def expect_body(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """A body will execute soon, elsewhere or, with `loop`, as a task of that loop. Readers wait
        for its end.
        """
        self._has_body = True
        self._body_loop, self._body_thread = loop, threading.get_ident() if loop else None

    @contextmanager
    def body(self) -> Iterator[None]:
        """The program's own code runs inside. If it raises, everything that it started is
        cancelled.
        """
        outer = _here.get()
        try:
            _here.set((*outer, self))
            self._has_body, self._body_thread, self._body_loop = True, threading.get_ident(), running_loop()
            if self.stopped:
                raise self.stopped
            yield
        except BaseException as error:
            self.stop(_reason(error))
            self.body_error = error if isinstance(error, Exception) else self.stopped
            raise
        finally:
            _here.set(outer)
            self._has_body, self._body_thread, self._body_loop = False, None, None
            self.body_ended = True
            self.notify()

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """The body awaits inside, on the current loop. A stop of the run also ends an await of
        something else.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # a loop runs here
        n_cancelled, inside, ended = task.cancelling(), True, False

        def end() -> None:
            nonlocal ended
            if inside and not self._drained():
                loop.call_later(SLICE_S, end)  # a wait for a partial text ends by itself
            elif inside:
                ended = task.cancel()

        def end_soon() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(loop.call_later, SLICE_S, end)

        with self.lock:
            self._end_body = end_soon
            if self.stopped:  # since the body began, while its loop was made
                end_soon()
        try:
            yield
        except asyncio.CancelledError:
            if ended and task.cancelling() == n_cancelled + 1 and self.stopped:
                raise self.stopped from None
            raise
        finally:
            inside = False
            self._end_body = do_nothing
            if ended:
                task.uncancel()

    @property
    def body_active(self) -> bool:
        return self._has_body

    @property
    def body_elsewhere(self) -> bool:
        """Whether a body other than the caller's may still append."""
        return self._has_body and not any(run is self for run in _here.get())

    def seen(self, error: Exception) -> Exception:
        """The exception to raise for `error`, which then counts as seen. A run that was stopped
        because its body raised fails with that error. The traceback of the body is kept; our own
        frames of other errors are removed.
        """
        if not self.has_seen(error):
            self._seen.append(error)
        return self.body_error if self.body_error and error is self.stopped else error.with_traceback(None)

    def has_seen(self, error: Exception) -> bool:
        return any(error is seen for seen in self._seen)

    def unseen_error(self) -> Exception | None:
        """The first error on any stream that no read has raised."""
        return next((stream.error for stream in self.streams if stream.error is not None and not self.has_seen(stream.error)), None)

    def adopt_thread(self) -> None:
        """The calling thread works for the run, and so do the programs that it starts."""
        if self not in _here.get():
            _here.set((*_here.get(), self))
        with self.lock:
            self._threads.add(threading.current_thread())

    # ------------------------------------------------------------ waiting

    @property
    def idle(self) -> bool:
        """Whether its streams have nothing to do."""
        return all(stream.idle for stream in self.streams)

    def _drained(self) -> bool:
        """Like `idle`, including everything started inside it."""
        with self.lock:
            return self.idle and all(run._drained() for run in self._nested)

    def settled(self) -> bool:
        """Whether its streams have nothing to do and no other body may add more."""
        return not self.body_elsewhere and self.idle

    def quiet(self) -> bool:
        """Whether it and everything started inside it are settled, and its threads have ended."""
        with self.lock:
            return self.settled() and not any(thread.is_alive() for thread in self._threads) and all(run.quiet() for run in self._nested)

    @property
    def goes_on(self) -> bool:
        """Whether the backend learns when it is over: it has a body, or had one."""
        return self._has_body or self.body_ended

    def ended(self, forks: tuple[ForkId, ...], *, is_all: bool) -> None:
        """Tell a backend that wants to know that these streams have ended."""
        if isinstance(self.backend, Following):
            self.backend.ended(forks, is_all=is_all)

    def notify(self) -> None:
        with self.lock:
            if self.body_ended and not self.is_over and self.streams and self.idle:
                self.is_over = True
                self.ended(tuple(stream.id for stream in self.streams), is_all=True)
            self._changed.notify_all()
            for loop in self.loops:
                loop.stir(self)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Return when `ready()`, called under the lock, is true. EngineStopped if it can never
        become true.
        """
        stands = self._body_loop is not None and self._stands_still()
        while True:
            with self.lock:
                if ready():
                    return
                if stands and self.idle:
                    raise _stuck()
                self._changed.wait(SLICE_S)
                if ready():
                    return
            try:
                self.pulse()
            except EngineStopped:
                if ready():
                    return
                raise

    async def wait_async(self, ready: Callable[[], bool]) -> None:
        """Like `wait`, while other tasks of the current loop continue."""
        stands = self._body_loop is not running_loop() and self._stands_still()
        await Loop.here().until(self, (lambda: ready() or self.idle) if stands else ready)
        if stands and not ready():
            raise _stuck()

    def _stands_still(self) -> bool:
        """Whether a body elsewhere belongs to this very thread, and therefore cannot continue while
        this thread waits.
        """
        return self.body_elsewhere and self._body_thread == threading.get_ident()

    def pulse(self) -> None:
        """Called from time to time while waiting: raises if this run is to be interrupted, and
        fails it if its backend is dead.
        """
        self.check()
        try:
            self.backend.poll()
        except EngineStopped as error:
            with self.lock:
                for stream in self.streams:
                    stream.abandon(error)
                self.notify()
            raise

    def stop(self, why: str) -> None:
        """Drop what is queued and cancel what runs, including nested runs. Does not wait."""
        with self.lock:
            self.stopped = self.stopped or Stopped(why)
            # the request of `check` is fulfilled: it must not end the wait for partial results
            self.check = INTERRUPTS.check
            for stream in self.streams:
                stream.stop(self.stopped)
            nested = tuple(self._nested)
            self._end_body()
            self.notify()
        for run in nested:
            run.stop(why)


_runs: weakref.WeakSet[Run] = weakref.WeakSet()


def _renew_all() -> None:
    for run in tuple(_runs):
        run.renew()


os.register_at_fork(after_in_child=_renew_all)


def _reason(error: BaseException) -> str:
    """The reason why a run was stopped whose body raised this."""
    if isinstance(error, KeyboardInterrupt):
        return "the run was interrupted"
    if isinstance(error, asyncio.CancelledError):
        return "the task was cancelled"
    return f"the program raised {type(error).__name__}"


def _stuck() -> ProgramError:
    return ProgramError(
        "this would wait for a program whose body is a task of this same thread, and therefore cannot continue",
        hint="await it: `await s.get(name)`, `await prog.run_async(...)`",
    )
