"""An interrupt at any line of ours ends programs and batches, and leaves neither a thread nor a request.

Not by timing: a trace function calls the signal's handler at the n-th line that the main thread executes in the language, for many n.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.lang.interrupts import INTERRUPTS

from .language import watchdog  # noqa: F401

OURS = ("/lang/batch.py", "/lang/execution.py", "/lang/program.py", "/lang/loop.py", "/lang/run.py")
BELOW = ("/lang/interrupts.py", "/lang/stream.py", "/lang/state.py", "/threading.py", "/concurrent/futures/thread.py")
"""where only what waits for a safe point leaves nothing behind"""
N_POINTS = 15
MANY = 60
"""lines with no new one among them: here it waits"""
ITEMS = [(str(n),) for n in range(3)]


@sgl.function
def ask(s: Any, question: str) -> None:
    s += question + sgl.gen("answer")


@sgl.function
async def ask_later(s: Any, question: str) -> Any:
    s += question + sgl.gen("answer")
    return await s.get("answer")


def taken_one_by_one(program: sgl.SglFunction, backend: ScriptedBackend) -> None:
    for _ in program.run_batch(ITEMS, backend=backend, num_threads=2, generator_style=True):
        pass


CALLS: dict[str, Callable[[ScriptedBackend], object]] = {
    "run": lambda backend: ask.run("a", backend=backend),
    "run a coroutine": lambda backend: ask_later.run("a", backend=backend),
    "batch": lambda backend: ask.run_batch(ITEMS, backend=backend, num_threads=2),
    "batch of coroutines": lambda backend: ask_later.run_batch(ITEMS, backend=backend),
    "one by one": lambda backend: taken_one_by_one(ask, backend),
    "coroutines one by one": lambda backend: taken_one_by_one(ask_later, backend),
}


class Tracer:
    """Does `act` once, at the n-th line of ours among those that are met for the first or second time, or where nothing new comes."""

    def __init__(self, n: int | None, act: Callable[[FrameType], None], files: tuple[str, ...] = (*OURS, *BELOW)) -> None:
        self.n_seen, self.has_acted, self.where = 0, False, ""
        self._n, self._act, self._files = n, act, files
        self._n_nothing_new = 0
        self._visits: Counter[tuple[str, int]] = Counter()

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        name = frame.f_code.co_filename
        if not name.endswith(self._files):
            return None
        if event == "line" and not self.has_acted:
            place = name.rpartition("/")[2], frame.f_lineno
            self._visits[place] += 1
            is_new = self._visits[place] <= 2
            self.n_seen += is_new
            self._n_nothing_new = 0 if is_new else self._n_nothing_new + 1
            if self._n is not None and (self.n_seen > self._n or self._n_nothing_new > MANY):
                self.has_acted, self.where = True, str(place)
                self._act(frame)
        return self


def traced(call: Callable[[], object], tracer: Tracer) -> BaseException | None:
    before = sys.gettrace()
    try:
        sys.settrace(tracer)
        call()
    except BaseException as error:
        return error
    finally:
        sys.settrace(before)
    return None


def at_rest(backend: ScriptedBackend) -> bool:
    """Whether all has ended by the deadline: threads of ours and requests."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        working = [thread for thread in threading.enumerate() if thread.name.startswith(("sgl-batch", "sgl-program", "sgl-interrupt"))]
        if not working and not backend._waiting and not backend._running:
            return True
        time.sleep(0.001)
    return False


@pytest.fixture(params=["held", "answered"])
def backend(request: pytest.FixtureRequest) -> Iterator[ScriptedBackend]:
    """One that answers nothing, so that nothing ends by itself; one that answers at once, so that an end is interrupted too."""
    backend = ScriptedBackend("x" * 100, held=request.param == "held")
    yield backend
    backend.close()


def points_of(call: Callable[[ScriptedBackend], object], files: tuple[str, ...] = (*OURS, *BELOW)) -> range:
    """Some of its lines, from its first to its last where it is answered at once."""
    backend = ScriptedBackend("x")
    tracer = Tracer(None, lambda frame: None, files)
    traced(lambda: call(backend), tracer)
    backend.close()
    assert tracer.n_seen > 50
    return range(0, tracer.n_seen, tracer.n_seen // N_POINTS)


def interrupt(frame: FrameType) -> None:
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, frame)


def going_on_after(error: BaseException | None, expected: type[BaseException], tracer: Tracer, backend: ScriptedBackend) -> list[str]:
    """What is wrong after the error; nothing where all has ended."""
    if isinstance(error, expected) and at_rest(backend) and not INTERRUPTS.is_watching:
        return []
    return [f"{tracer.where}: {error!r}, {[thread.name for thread in threading.enumerate()]}"]


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_line_ends_all_of_it(name: str, backend: ScriptedBackend) -> None:
    going_on = []
    for n in points_of(CALLS[name]):
        tracer = Tracer(n, interrupt)
        error = traced(lambda: CALLS[name](backend), tracer)
        going_on += going_on_after(error, KeyboardInterrupt, tracer, backend)
    assert going_on == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith("run")])
def test_what_is_raised_at_any_line_of_a_batch_ends_all_of_it(name: str, backend: ScriptedBackend) -> None:
    """Not only an interrupt, which waits for a safe point: also a thread that cannot be started, or memory that is not there."""

    def refuse(frame: FrameType) -> None:
        raise MemoryError

    going_on = []
    for n in points_of(CALLS[name], OURS):
        tracer = Tracer(n, refuse, OURS)
        error = traced(lambda: CALLS[name](backend), tracer)
        going_on += going_on_after(error, MemoryError, tracer, backend)
    assert going_on == []
