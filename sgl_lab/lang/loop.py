"""Event loops: waiting on one without a thread, and driving a coroutine on one of its own.

All waiters of a loop share one heartbeat. A change of a run notifies the loop, once until the loop
has looked. The loop then checks, on its own thread, which waiters can continue.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol, TypeVar

SLICE_S = 0.05
"""seconds between checks for a dead backend and an interrupt"""

Result = TypeVar("Result")
Waiting = dict["asyncio.Future[None]", Callable[[], bool]]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs on this thread."""
    return asyncio._get_running_loop()


class Awaited(Protocol):
    """What a loop needs of a run that is waited for."""

    lock: threading.RLock
    loops: set[Loop]
    """loops with waiters for this run"""

    def pulse(self) -> None:
        """Raise if the waiting must end: on an interrupt, or because the backend is dead."""


class Loop:
    """The waiters of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._waiting: dict[Awaited, Waiting] = {}
        self._stirred: set[Awaited] = set()
        self._lock = threading.Lock()
        self._beats = False

    @classmethod
    def here(cls) -> Loop:
        """The instance of the loop that runs on this thread. RuntimeError if there is none."""
        loop = asyncio.get_running_loop()
        with _known_lock:
            return _known.get(loop) or _known.setdefault(loop, cls(loop))

    async def until(self, run: Awaited, ready: Callable[[], bool]) -> None:
        """Return when `ready()` is true. It is called under the run's lock and in this context; what
        it raises is raised. EngineStopped if it can never become true.
        """
        with run.lock:
            if ready():
                return
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(run, {})[woken] = partial(contextvars.copy_context().run, ready)
            run.loops.add(self)
        if not self._beats:
            self._beats = True
            self._rest()
        try:
            await woken
        finally:
            with run.lock:
                del self._waiting[run][woken]
                if not self._waiting[run]:
                    del self._waiting[run]
                    run.loops.discard(self)

    def stir(self, run: Awaited) -> None:
        """Report a change of the run. Called from any thread, under the run's lock."""
        with self._lock:
            first = not self._stirred
            self._stirred.add(run)
        loop = self._loop()
        if first and loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has no waiters
                loop.call_soon_threadsafe(self._look_at_stirred, context=contextvars.Context())

    def _look_at_stirred(self) -> None:
        with self._lock:
            stirred, self._stirred = self._stirred, set()
        for run in stirred:
            self._wake(run)

    def _wake(self, run: Awaited, error: Exception | None = None) -> None:
        """Resume the waiters that can continue. The others keep waiting or, if there is an error,
        receive it.
        """
        with run.lock:
            for woken, ready in self._waiting.get(run, {}).items():
                if woken.done():
                    continue
                try:
                    is_ready = ready()
                except Exception as raised:
                    woken.set_exception(raised)
                    continue
                if is_ready:
                    woken.set_result(None)
                elif error is not None:
                    woken.set_exception(error)

    def _rest(self) -> None:
        asyncio.get_running_loop().call_later(SLICE_S, self._beat, context=contextvars.Context())

    def _beat(self) -> None:
        self._beats = bool(self._waiting)
        if self._beats:
            self._rest()
        for run in tuple(self._waiting):
            try:
                run.pulse()
            except Exception as error:
                self._wake(run, error)
            else:
                self._wake(run)


_known: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Loop] = weakref.WeakKeyDictionary()
_known_lock = threading.Lock()


def drive(coroutine: Coroutine[object, None, Result], check: Callable[[], None]) -> Result:
    """Run the coroutine to its end on a new loop, on this thread. `check` is called from time to
    time and may raise.

    If a loop already runs here, it stands still meanwhile, as during any blocking call. Its tasks
    cannot be awaited.
    """
    with _aside(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(_checked(coroutine, check))


async def _checked(coroutine: Coroutine[object, None, Result], check: Callable[[], None]) -> Result:
    """The coroutine's result. If `check` raises, that is raised, and the runner cancels the
    coroutine, whatever it awaits.
    """
    task = asyncio.create_task(coroutine)
    while not (await asyncio.wait((task,), timeout=SLICE_S))[0]:
        check()
    return task.result()


@contextmanager
def _aside() -> Iterator[None]:
    """Within the block, asyncio sees no running loop on this thread."""
    loop = running_loop()
    if loop is None:
        yield
        return
    task = asyncio.current_task(loop)
    if task is not None:
        asyncio._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        if task is not None:
            asyncio._enter_task(loop, task)
