"""What the streams of one program run share: a backend, a lock, and the two ways to wait.

Appending never waits; reading does: a thread in short slices, a coroutine on its loop (`loop.py`), so
that an interrupt is felt and a dead backend is noticed. The lock is held while a stream advances, also on
the backend's thread.
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
from typing import Any, Protocol

from ..contracts.conversation import AnyBackend
from ..contracts.errors import BackendUnsupported, EngineStopped, ProgramError, Stopped
from ..contracts.events import Emit, Event, silent
from ..contracts.ids import ForkId, RunId
from ..contracts.params import SamplingParams
from .chat_template import chat_of
from .expressions import Instruction, Name
from .history import History
from .interrupts import INTERRUPTS
from .loop import SLICE_S, Loop, running_loop
from .variable import Variable

_log = logging.getLogger(__name__)

_here: ContextVar[tuple[Run, ...]] = ContextVar("sgl_runs_here", default=())
"""The runs whose bodies are executing here, the innermost last."""


def current_run() -> Run | None:
    """The run whose body is executing here; programs started inside inherit from it."""
    return _here.get()[-1] if _here.get() else None


def do_nothing() -> None:
    """There is nothing to end."""


class Strand(Protocol):
    """What an executor offers of one strand of a program: the root, or a child of a fork. The run's lock guards it.

    One method takes what a program says; all else is there to be read. A run, a state and what they show know an
    executor by this alone. `Stream` and `Tracer` are executors.
    """

    id: ForkId
    run: Run
    label: str
    variables: dict[Name, Variable]
    inherited: dict[Name, Variable]
    """those of the parent, as they were at the fork"""
    defaults: SamplingParams
    """of sampling"""
    role: str | None
    """the role that is open once everything appended so far is done"""
    error: Exception | None
    joined: bool

    @property
    def parent(self) -> Strand | None: ...

    @property
    def transcript(self) -> History: ...

    @property
    def idle(self) -> bool:
        """Nothing is under way and nothing will be until more is appended."""

    @property
    def partial(self) -> str:
        """Text of the generation that is under way."""

    def submit(self, instruction: Instruction) -> Sequence[Strand]:
        """Take what comes next; the strands that it opens. It is refused whole if any part of it cannot be."""

    def stop(self, stopped: Stopped) -> None:
        """Cancel what runs, whose partial result will still arrive, and drop the rest."""

    def abandon(self, error: Exception) -> None:
        """Nothing that was asked for will ever be answered."""


class Run:
    """One execution of a program or a cell."""

    def __init__(self, backend: AnyBackend, emit: Emit, run_id: RunId, defaults: SamplingParams, eager: bool = False) -> None:
        self.backend = backend
        self.check: Callable[[], None] = INTERRUPTS.check
        """asked between slices of waiting, with no lock held: raises where whoever drives the run wants it interrupted"""
        self.id = run_id
        self.defaults = defaults
        self.eager = eager
        self.card = backend.describe()
        self.chat = chat_of(backend, self.card)
        self.spells_logprobs = True
        """whether log-probabilities come with the text of their tokens, where a gen does not say"""
        self.arguments: dict[str, Any] = {}
        """the program's own"""
        self.n_ahead = 0
        """tokens that one call may ask for in all, past the end of its gen; 0 where that does not pay"""
        self.renew()
        _runs.add(self)
        self.streams: list[Strand] = []
        self.stopped: Stopped | None = None
        self.body_error: Exception | None = None
        self.fork_error: Exception | None = None
        """of a stream that nothing had read when the program's state was asked how it ended"""
        self.body_ended = False
        self.body_task: asyncio.Task[None] | None = None
        """the one that executes a body that was left to itself; a loop alone would not keep it"""
        self.loops: set[Loop] = set()
        """those on which somebody waits for this run"""
        self._listen = emit
        self._seen: list[Exception] = []
        self._has_body = False
        self._body_thread: int | None = None
        self._body_loop: asyncio.AbstractEventLoop | None = None
        self._end_body = do_nothing
        """of one that awaits what is not ours"""
        self._nested: weakref.WeakSet[Run] = weakref.WeakSet()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """those of the batches that its body started"""
        if outer := current_run():
            self.check = outer.check
            with outer.lock:
                outer._nested.add(self)
                self.stopped = outer.stopped

    def missing(self, capability: str) -> BackendUnsupported:
        """The refusal of what the backend does not offer."""
        return self.card.capabilities.missing(capability, self.card.name)

    def renew(self) -> None:
        """A lock that is free: in a forked process whoever held the old one is not there."""
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)

    def emit(self, event: Event) -> None:
        """Say it. A listener that raises is heard no more: what happens to a picture must not happen to the program."""
        try:
            self._listen(event)
        except RecursionError:
            raise  # the program's own, which has no room left to tell of
        except Exception:
            self._listen = silent
            _log.exception("a listener of events failed and is not told of any more")

    # ------------------------------------------------------------ the body

    def body_will_not_come(self) -> None:
        """The body that was expected will not execute: readers wait for it no longer."""
        self._has_body, self.body_ended = False, True
        self.notify()

    def expect_body(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """A body will execute soon, elsewhere or, if `loop` is given, as a task of that one: until it has ended, readers wait for it."""
        self._has_body = True
        self._body_loop, self._body_thread = loop, threading.get_ident() if loop else None

    @contextmanager
    def body(self) -> Iterator[None]:
        """The program's own code runs inside. If it raises, what it started is cancelled."""
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
        """The body awaits inside, on the loop that runs here: a stop of the run is met there too by one that awaits something else."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # a loop runs here
        n_cancelled, inside, ended = task.cancelling(), True, False

        def end() -> None:
            nonlocal ended
            if inside and not self._drained():
                loop.call_later(SLICE_S, end)  # what waits for a partial text meets the stop by itself
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
        """Whether a body may still append that is not the one that asks."""
        return self._has_body and not any(run is self for run in _here.get())

    def seen(self, error: Exception) -> Exception:
        """What to raise for `error`, which the user has seen then. A run that was stopped because its body raised failed of that, and where
        it was raised is told; of others' errors the way inside us is not."""
        if not self.has_seen(error):
            self._seen.append(error)
        return self.body_error if self.body_error and error is self.stopped else error.with_traceback(None)

    def has_seen(self, error: Exception) -> bool:
        return any(error is seen for seen in self._seen)

    def unseen_error(self) -> Exception | None:
        """The first that nobody has seen, on any stream."""
        return next((stream.error for stream in self.streams if stream.error is not None and not self.has_seen(stream.error)), None)

    def adopt_thread(self) -> None:
        """The thread that calls this works for the run, and so do the programs that it starts."""
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
        """As `idle`, with all that was started inside it."""
        with self.lock:
            return self.idle and all(run._drained() for run in self._nested)

    def settled(self) -> bool:
        """Whether its streams have nothing to do and nobody elsewhere may give them more."""
        return not self.body_elsewhere and self.idle

    def quiet(self) -> bool:
        """Whether it and all that was started inside it are settled, and its threads have ended."""
        with self.lock:
            return self.settled() and not any(thread.is_alive() for thread in self._threads) and all(run.quiet() for run in self._nested)

    def notify(self) -> None:
        with self.lock:
            self._changed.notify_all()
            for loop in self.loops:
                loop.stir(self)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Return when `ready()`, asked under the lock, is true. EngineStopped if it will never be."""
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
        """As `wait`, while other tasks of the loop that runs here go on."""
        stands = self._body_loop is not running_loop() and self._stands_still()
        await Loop.here().until(self, (lambda: ready() or self.idle) if stands else ready)
        if stands and not ready():
            raise _stuck()

    def _stands_still(self) -> bool:
        """Whether a body elsewhere is one of this very thread, which cannot go on while something else here waits."""
        return self.body_elsewhere and self._body_thread == threading.get_ident()

    def pulse(self) -> None:
        """What whoever waits asks now and then: raises if this run is to be interrupted, or fails it if its backend is dead."""
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
        """Drop what is queued and cancel what runs, in nested runs too; does not wait for it."""
        with self.lock:
            self.stopped = self.stopped or Stopped(why)
            self.check = INTERRUPTS.check  # what `check` asked for is done: it must not end the wait for partial results
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
    """Why a run was stopped whose body raised this."""
    if isinstance(error, KeyboardInterrupt):
        return "the run was interrupted"
    if isinstance(error, asyncio.CancelledError):
        return "the task was cancelled"
    return f"the program raised {type(error).__name__}"


def _stuck() -> ProgramError:
    return ProgramError(
        "this waits for a program whose body stands still meanwhile, being a task of this very thread",
        hint="await it: `await s.get(name)`, `await prog.run_async(...)`",
    )
