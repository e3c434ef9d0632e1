"""Many runs of one program, on a pool of threads: one for each body that is executing.

Common prefixes are the backend's to find, from the prompts themselves.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal, TypeVar

from ..contracts.errors import BadArgument
from .run import SLICE_S, current_run
from .state import ProgramState

AUTO_THREADS = 64

Call = TypeVar("Call")


def run_all(
    launch: Callable[[Call, Callable[[ProgramState], None]], ProgramState],
    calls: Sequence[Call],
    num_threads: int | Literal["auto"],
    progress_bar: bool,
    return_exceptions: bool,
) -> Iterator[Any]:
    """Each call's state, in order, as soon as it and those before it are done.

    `launch(call, started)` tells `started` its state before the body runs. Left early, or
    interrupted, it cancels what still runs.
    """
    if num_threads != "auto" and (type(num_threads) is not int or num_threads < 1):
        raise BadArgument(f"num_threads must be 1 or more, or 'auto', not {num_threads!r}")
    n_threads = AUTO_THREADS if num_threads == "auto" else num_threads
    return _run_all(launch, calls, max(1, min(n_threads, len(calls))), progress_bar, return_exceptions)


def _run_all(
    launch: Callable[[Call, Callable[[ProgramState], None]], ProgramState],
    calls: Sequence[Call],
    n_threads: int,
    progress_bar: bool,
    return_exceptions: bool,
) -> Iterator[Any]:
    states: list[ProgramState] = []
    leaving = threading.Event()

    def one(call: Call) -> ProgramState | Exception:
        def started(state: ProgramState) -> None:
            states.append(state)
            if leaving.is_set():
                state.cancel()

        try:
            state = launch(call, started)
            return state.error() or state
        except Exception as error:
            return error

    bar = _bar(len(calls)) if progress_bar else None
    results: list[Any] = []
    around = current_run.get()
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="sgl-batch", initializer=around.adopt_thread if around else None)
    try:
        futures = [pool.submit(contextvars.copy_context().run, one, call) for call in calls]
        for future in futures:
            results.append(_result(future, futures, bar))
            if return_exceptions or not isinstance(results[-1], Exception):
                yield results[-1]
    finally:
        leaving.set()
        left_early = len(results) < len(calls)
        for state in list(states) if left_early else ():
            state.cancel()
        # A body that sleeps must not hold up an interrupt; it ends at its next append or read.
        pool.shutdown(wait=not left_early, cancel_futures=True)
        if bar is not None:
            bar.close()
    for result in results:
        if isinstance(result, Exception) and not return_exceptions:
            vars(result)["results"] = results
            raise result


def _result(future: Future[Any], futures: Sequence[Future[Any]], bar: Any) -> Any:
    """Wait in slices, drawing the bar from the waiting thread alone."""
    while True:
        done, _ = wait((future,), timeout=SLICE_S)
        if outer := current_run.get():
            outer.check()
        if bar is not None:
            bar.update(sum(map(Future.done, futures)) - bar.n)
        if done:
            return future.result()


def _bar(total: int) -> Any:
    # Plain text, and no error: a widget bar would be saved as "model not found" with the notebook, stderr as a red box.
    from tqdm import tqdm

    return tqdm(total=total, file=sys.stdout)
