"""Event loops: waiting on one without a thread, and driving a coroutine on one of its own.

All who wait on a loop share one heartbeat. Whoever changes a run stirs the loop, once however often
it changes until the loop has looked, and the loop then asks, on its own thread, who can go on.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

SLICE_S = 0.05
"""how long one waits before asking whether the backend lives and whether to be interrupted"""

Result = TypeVar("Result")
Waiting = dict["asyncio.Future[None]", Callable[[], bool]]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs on this thread."""
    return asyncio._get_running_loop()


class Awaited(Protocol):
    """What a loop needs of a run that is waited for."""

    lock: threading.RLock
    loops: set[Loop]
    """those on which somebody waits for it"""

    def pulse(self) -> None:
        """Raise where the waiting has to end: on an interrupt, or because its backend is dead."""


class Loop:
    """Who waits on one event loop, for which run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._waiting: dict[Awaited, Waiting] = {}
        self._stirred: set[Awaited] = set()
        self._lock = threading.Lock()
        self._beats = False

    @classmethod
    def here(cls) -> Loop:
        """The one that runs on this thread; RuntimeError if there is none."""
        loop = asyncio.get_running_loop()
        with _known_lock:
            return _known.get(loop) or _known.setdefault(loop, cls(loop))

    async def until(self, run: Awaited, ready: Callable[[], bool]) -> None:
        """Return when `ready()`, asked under the run's lock and in this context, is true. EngineStopped if it will never be."""
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
        """The run has changed. From any thread, under the run's lock."""
        with self._lock:
            first = not self._stirred
            self._stirred.add(run)
        loop = self._loop()
        if first and loop is not None:
            with suppress(RuntimeError):  # it is closed: nobody waits there any more
                loop.call_soon_threadsafe(self._look_at_stirred, context=contextvars.Context())

    def _look_at_stirred(self) -> None:
        with self._lock:
            stirred, self._stirred = self._stirred, set()
        for run in stirred:
            self._wake(run)

    def _wake(self, run: Awaited, error: Exception | None = None) -> None:
        """Let those go on who can; the others go on waiting or, if there is an error, meet it."""
        with run.lock:
            for woken, ready in self._waiting.get(run, {}).items():
                if woken.done():
                    continue
                if ready():
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


def drive(coroutine: Coroutine[Any, Any, Result], check: Callable[[], None]) -> Result:
    """Run it to its end on a loop of its own, on this thread; meanwhile `check` is asked now and then, and may raise.

    Where a loop runs already, that one stands still meanwhile, as in any call that blocks; what belongs to it cannot be awaited.
    """
    with _aside(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(_checked(coroutine, check))


async def _checked(coroutine: Coroutine[Any, Any, Result], check: Callable[[], None]) -> Result:
    """What it returns. If `check` raises that is raised, and the runner cancels the coroutine, whatever it awaits."""
    task = asyncio.create_task(coroutine)
    while not (await asyncio.wait((task,), timeout=SLICE_S))[0]:
        check()
    return task.result()


@contextmanager
def _aside() -> Iterator[None]:
    """While this lasts, no loop runs on this thread, as far as asyncio knows."""
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
