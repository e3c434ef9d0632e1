"""Runs one program many times: functions on a pool of threads, one for each executing body;
coroutines as tasks of one loop.

The backend finds common prefixes, from the prompts themselves.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Protocol

from ..contracts.errors import BadArgument
from .execution import Execution
from .interrupts import INTERRUPTS
from .loop import SLICE_S
from .run import Run, current_run
from .state import ProgramState

AUTO_OPEN = 64
LEAVE_S = 0.3
"""seconds that an abandoned batch waits for cancelled bodies"""

Begin = Callable[[], Execution]
"""Creates the execution of one item."""
Outcome = ProgramState | Exception


class Bar(Protocol):
    """What shows the progress of a batch. The thread that waits calls it, several times a second."""

    def show(self, futures: Sequence[Future[Outcome]]) -> None: ...

    def step_aside(self) -> None:
        """A result is handed out: its receiver may print."""

    def close(self) -> None: ...


def checked_width(num_threads: object) -> int:
    """How many bodies may execute at once."""
    if num_threads == "auto":
        return AUTO_OPEN
    if type(num_threads) is not int or num_threads < 1:
        hint = "did you mean 'auto'?" if isinstance(num_threads, str) else ""
        raise BadArgument(f"num_threads must be 1 or more, or 'auto', not {num_threads!r}", hint=hint)
    return num_threads


class _Bar:
    """The number of finished items, as one line of text that is redrawn and remains at the end.

    It is plain text on stdout: a notebook would save a widget as "model not found", and stderr as a
    red box. A caller that receives the states one by one may print between them: the bar is cleared
    meanwhile.
    """

    def __init__(self, n_items: int, *, is_shown: bool, steps_aside: bool) -> None:
        from tqdm import tqdm

        class Line(tqdm):  # type: ignore[type-arg]
            monitor_interval = 0  # no thread of its own

        self._line = Line(total=n_items, file=sys.stdout, unit=" runs", disable=not (is_shown and n_items))
        self._n_items = n_items
        self._notes: list[str] = []
        self._steps_aside = steps_aside

    def show(self, futures: Sequence[Future[Outcome]]) -> None:
        if self._line.disable:
            return
        over = [future for future in futures if future.done()]
        if n_failed := sum(map(_has_failed, over)):
            self._notes[:1] = [f"{n_failed} failed"]
            self._line.set_postfix_str(self._notes[0], refresh=False)
        self._line.update(len(over) - self._line.n)

    def step_aside(self) -> None:
        if self._steps_aside:
            self._line.clear()

    def close(self) -> None:
        if not self._line.disable and self._line.n < self._n_items:
            self._line.set_postfix_str(", ".join([*self._notes, "stopped"]), refresh=False)
        self._line.close()


def _has_failed(future: Future[Outcome]) -> bool:
    return future.exception() is not None or isinstance(future.result(), Exception)


def run_all(
    items: Sequence[Begin],
    is_async: bool,
    n_open: int,
    *,
    progress_bar: bool,
    generator_style: bool,
    return_exceptions: bool,
    bar: Bar | None = None,
) -> Iterator[Outcome]:
    """Each item's state, in order, as soon as it and those before it are done. If it is abandoned
    or interrupted, it cancels the running items. A `bar` takes the place of the bar of text.

    Nothing starts before the first state is requested.
    """
    batch = _Batch(items, is_async, n_open, bar or _Bar(len(items), is_shown=progress_bar, steps_aside=generator_style))
    try:
        try:
            for _ in items:
                with INTERRUPTS.watched():
                    result = batch.next(steps_aside=return_exceptions)
                if return_exceptions or not isinstance(result, Exception):
                    yield result
        finally:
            batch.end()
    finally:
        batch.end()  # where an interrupt ended the first call
    for index, result in enumerate(batch.results):
        if isinstance(result, Exception) and not return_exceptions:
            vars(result)["results"] = batch.results
            result.add_note(f"in item {index} of the batch")
            raise result


class _Batch:
    """The runs of one batch. `end` ends everything that has started; a second call does nothing."""

    def __init__(self, items: Sequence[Begin], is_async: bool, n_open: int, bar: Bar) -> None:
        self.results: list[Outcome] = []
        self._states: list[ProgramState] = []
        self._n_items = len(items)
        self._leaving = threading.Event()
        self._bar = bar
        self._workers = _workers([partial(self._noted, begin) for begin in items], is_async, n_open)
        self._has_ended = False

    def _noted(self, begin: Begin) -> Execution:
        execution = begin()
        self._states.append(execution.state)
        if self._leaving.is_set():
            execution.state.cancel()
        return execution

    def next(self, *, steps_aside: bool) -> Outcome:
        """Wait for the next item, in slices. Only the waiting thread draws the bar."""
        if not self._workers.futures:
            self._workers.start()
        future = self._workers.futures[len(self.results)]
        while not wait((future,), timeout=SLICE_S).done:
            self._look()
        self._look()
        self.results.append(result := future.result())
        if steps_aside or not isinstance(result, Exception):
            self._bar.step_aside()
        return result

    def _look(self) -> None:
        outer = current_run()
        (outer.check if outer else INTERRUPTS.check)()
        self._bar.show(self._workers.futures)

    def end(self) -> None:
        if self._has_ended:
            return
        with INTERRUPTS.watched():
            self._leaving.set()
            if len(self.results) == self._n_items:
                self._workers.join()
            else:
                for state in list(self._states):
                    state.cancel()
                # A body that sleeps must not delay an interrupt. It ends at its next append or
                # read.
                self._workers.leave()
                wait([future for future in self._workers.futures if not future.cancelled()], timeout=LEAVE_S)
            self._bar.close()
            self._has_ended = True


def begin_all(items: Sequence[Begin], is_async: bool, n_open: int) -> list[ProgramState]:
    """The states of all items at once. The bodies run meanwhile, and each can be read, streamed and
    cancelled separately.

    If not all of them can start, or an interrupt arrives meanwhile, none continues.
    """
    executions: list[Execution] = []
    workers: _Threads | _Tasks | None = None
    try:
        with INTERRUPTS.watched():
            executions.extend(begin() for begin in items)
            for execution in executions:
                execution.state._run.expect_body()
            workers = _workers([partial(_made, execution) for execution in executions], is_async, n_open)
            workers.start()
    except BaseException:
        for execution in executions:
            execution.state.cancel()
        if workers is not None:
            workers.leave()
        raise
    return [execution.state for execution in executions]


def _made(execution: Execution) -> Execution:
    return execution


def _workers(items: Sequence[Begin], is_async: bool, n_open: int) -> _Threads | _Tasks:
    return _Tasks(items, n_open) if is_async else _Threads(items, n_open)


class _Threads:
    """At most `n_open` threads, until the last item is done."""

    def __init__(self, items: Sequence[Begin], n_open: int) -> None:
        self.futures: list[Future[Outcome]] = []
        around = current_run()
        self._items = items
        self._pool = ThreadPoolExecutor(max(1, min(n_open, len(items))), "sgl-batch", initializer=around.adopt_thread if around else None)

    def start(self) -> None:
        for begin in self._items:
            self.futures.append(self._pool.submit(contextvars.copy_context().run, self._one, begin))
        self._pool.shutdown(wait=False)

    def _one(self, begin: Begin) -> Outcome:
        try:
            state = begin().run()
            return state.error() or state
        except Exception as error:
            return error

    def join(self) -> None:
        self._pool.shutdown()

    def leave(self) -> None:
        """Start nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Tasks:
    """One thread with a loop, until the last item is done. At most `n_open` items run at once."""

    def __init__(self, items: Sequence[Begin], n_open: int) -> None:
        self.futures: list[Future[Outcome]] = []
        self._items = items
        self._places = asyncio.Semaphore(n_open)
        self._leaving = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self.futures.extend(Future() for _ in self._items)
        self._loop = asyncio.new_event_loop()
        serve = contextvars.copy_context().run
        self._thread = threading.Thread(target=serve, args=(self._serve, self._loop, current_run()), name="sgl-batch", daemon=True)
        self._thread.start()

    def _serve(self, loop: asyncio.AbstractEventLoop, around: Run | None) -> None:
        if around:
            around.adopt_thread()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._all())

    async def _all(self) -> None:
        leaving = asyncio.create_task(self._leaving.wait())
        # errors are in the futures
        done = asyncio.gather(*map(self._one, self._items, self.futures), return_exceptions=True)
        await asyncio.wait((leaving, done), return_when=asyncio.FIRST_COMPLETED)

    async def _one(self, begin: Begin, future: Future[Outcome]) -> None:
        try:
            async with self._places:
                state = await begin().run_async()
                future.set_result(state.error() or state)
        except Exception as error:
            future.set_result(error)
        except BaseException as error:
            future.set_exception(error)
            if isinstance(error, asyncio.CancelledError):
                raise

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def leave(self) -> None:
        """Cancel all tasks."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._leaving.set)
