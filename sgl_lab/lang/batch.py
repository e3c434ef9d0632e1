"""Many runs of one program: functions on a pool of threads, one for each body that is executing; coroutines as tasks of one loop.

Common prefixes are the backend's to find, from the prompts themselves.
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
from typing import Any

from ..contracts.errors import BadArgument
from .execution import Execution
from .loop import SLICE_S
from .run import Run, current_run
from .state import ProgramState

AUTO_OPEN = 64

Begin = Callable[[], Execution]
"""Makes the execution of one item."""
Outcome = ProgramState | Exception


def checked_width(num_threads: object) -> int:
    """How many bodies may be executing at once."""
    if num_threads == "auto":
        return AUTO_OPEN
    if type(num_threads) is not int or num_threads < 1:
        raise BadArgument(f"num_threads must be 1 or more, or 'auto', not {num_threads!r}")
    return num_threads


class _Bar:
    """How many items are over, in a line of text that is drawn again and again, and stays as it was at the end.

    Plain text, and no error: a widget would be saved as "model not found" with the notebook, stderr as a red box. Whoever
    gets the states one by one may print between them: the bar steps aside meanwhile.
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
    items: Sequence[Begin], is_async: bool, n_open: int, *, progress_bar: bool, generator_style: bool, return_exceptions: bool
) -> Iterator[Any]:
    """Each item's state, in order, as soon as it and those before it are done. Left early, or interrupted, it cancels what still runs."""
    states: list[ProgramState] = []
    leaving = threading.Event()

    def noted(begin: Begin) -> Execution:
        execution = begin()
        states.append(execution.state)
        if leaving.is_set():
            execution.state.cancel()
        return execution

    bar = _Bar(len(items), is_shown=progress_bar, steps_aside=generator_style)
    results: list[Any] = []
    workers = _workers([partial(noted, begin) for begin in items], is_async, n_open)
    try:
        for future in workers.futures:
            results.append(_result(future, workers.futures, bar))
            if return_exceptions or not isinstance(results[-1], Exception):
                bar.step_aside()
                yield results[-1]
    finally:
        leaving.set()
        if len(results) == len(items):
            workers.join()
        else:
            for state in list(states):
                state.cancel()
            # A body that sleeps must not hold up an interrupt; it ends at its next append or read.
            workers.leave()
        bar.close()
    for index, result in enumerate(results):
        if isinstance(result, Exception) and not return_exceptions:
            vars(result)["results"] = results
            result.add_note(f"in item {index} of the batch")
            raise result


def begin_all(items: Sequence[Begin], is_async: bool, n_open: int) -> list[ProgramState]:
    """The states of all items at once; the bodies run meanwhile, and each can be read, streamed and cancelled by itself."""
    executions = [begin() for begin in items]
    for execution in executions:
        execution.state._run.expect_body()
    _workers([partial(_made, execution) for execution in executions], is_async, n_open)
    return [execution.state for execution in executions]


def _made(execution: Execution) -> Execution:
    return execution


def _workers(items: Sequence[Begin], is_async: bool, n_open: int) -> _Threads | _Tasks:
    return _Tasks(items, n_open) if is_async else _Threads(items, n_open)


class _Threads:
    """At most `n_open` threads, until the last item is done."""

    def __init__(self, items: Sequence[Begin], n_open: int) -> None:
        around = current_run()
        n_threads = max(1, min(n_open, len(items)))
        self._pool = ThreadPoolExecutor(n_threads, "sgl-batch", initializer=around.adopt_thread if around else None)
        self.futures: list[Future[Outcome]] = [self._pool.submit(contextvars.copy_context().run, self._one, begin) for begin in items]
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
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Tasks:
    """One thread with a loop, until the last item is done; at most `n_open` of them have begun."""

    def __init__(self, items: Sequence[Begin], n_open: int) -> None:
        self.futures: list[Future[Outcome]] = [Future() for _ in items]
        self._places = asyncio.Semaphore(n_open)
        self._loop = asyncio.new_event_loop()
        self._leaving = asyncio.Event()
        serve = contextvars.copy_context().run
        self._thread = threading.Thread(target=serve, args=(self._serve, items, current_run()), name="sgl-batch", daemon=True)
        self._thread.start()

    def _serve(self, items: Sequence[Begin], around: Run | None) -> None:
        if around:
            around.adopt_thread()
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._all(items))

    async def _all(self, items: Sequence[Begin]) -> None:
        leaving = asyncio.create_task(self._leaving.wait())
        done = asyncio.gather(*map(self._one, items, self.futures), return_exceptions=True)  # which are in the futures
        await asyncio.wait((leaving, done), return_when=asyncio.FIRST_COMPLETED)

    async def _one(self, begin: Begin, future: Future[Outcome]) -> None:
        async with self._places:
            try:
                state = await begin().run_async()
                future.set_result(state.error() or state)
            except Exception as error:
                future.set_result(error)
            except BaseException as error:
                future.set_exception(error)
                if isinstance(error, asyncio.CancelledError):
                    raise

    def join(self) -> None:
        self._thread.join()

    def leave(self) -> None:
        """Cancel all tasks."""
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._leaving.set)


def _result(future: Future[Outcome], futures: Sequence[Future[Outcome]], bar: _Bar) -> Outcome:
    """Wait in slices, drawing the bar from the waiting thread alone."""
    while True:
        done, _ = wait((future,), timeout=SLICE_S)
        if outer := current_run():
            outer.check()
        bar.show(futures)
        if done:
            return future.result()
