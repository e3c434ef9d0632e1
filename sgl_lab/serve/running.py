"""The jobs of one request in the engine, and what comes of them, carried to the door's loop.

The engine's listeners never wait: what they get goes into a list, and the loop is woken once for
all lists. A client that reads slowly has its text wait here, at most as much as its answer is long.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from ..contracts.errors import Stopped
from ..contracts.ids import RequestId
from ..contracts.port import Backend, GenJob, GenOutput, ScoreOutput, TokenLogprob
from .clients import Client, Lane
from .parsed import Answer, Job, Piece


class Wakes:
    """Wakes waiters of a loop from any thread, many with one call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[Callable[[], None]] = deque()
        self._is_due = False

    def put(self, call: Callable[[], None]) -> None:
        """Have `call` called on the loop, soon."""
        self._due.append(call)
        if not self._is_due:
            self._is_due = True
            with suppress(RuntimeError):  # the loop is closed: nothing waits any more
                self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._is_due = False
        while self._due:
            self._due.popleft()()


class RunningRequest:
    """Call `start` on a pool's thread, everything else on the loop. `over` is called once, on the
    loop, if it was started."""

    def __init__(self, backend: Backend, wakes: Wakes, jobs: Sequence[Job], *, streams: bool, over: Callable[[], None]) -> None:
        self.answers: list[Answer | None] = [None] * len(jobs)
        self.error: Exception | None = None
        self.is_cancelled = False
        self.is_started = False
        """whether `start` was or will be called"""
        self.began = time.monotonic()
        self._backend = backend
        self._wakes = wakes
        self._jobs = jobs
        self._streams = streams
        self._over = over
        self._requests: list[RequestId] = []
        self._pieces: list[Piece] = []
        self._changed = asyncio.Event()
        self._lock = threading.Lock()
        self._n_open = len(jobs)

    def start(self, arrive: Callable[[], Client], label: str) -> None:
        """Submit the jobs together. An error of one ends the others and is raised."""
        submitted = 0
        try:
            client = arrive()
            with self._backend.at_once():
                for number, job in enumerate(self._jobs):
                    if self.is_cancelled:
                        raise Stopped("the client is gone")
                    self._submit(number, job, client.lane(label, job.prompt, "gen" if isinstance(job, GenJob) else "select"))
                    submitted += 1
        except BaseException as error:
            self._wakes.put(self.cancel)
            for _ in range(len(self._jobs) - submitted):
                self.end(error if isinstance(error, Exception) else None)
            raise

    def _submit(self, number: int, job: Job, lane: Lane) -> None:
        job = replace(job, fork=lane.fork, expr=lane.expr)
        try:
            if isinstance(job, GenJob):
                listener = Listener(self, number, lane, self._streams, job.params.logprobs)
                self._requests.append(self._backend.submit(job, listener))
            else:
                self._requests.append(self._backend.score(job, ScoreListener(self, number, lane)))
        except Exception as error:
            lane.failed(error)
            raise

    def cancel(self) -> None:
        """End it as soon as possible."""
        self.is_cancelled = True
        for request in tuple(self._requests):
            self._backend.cancel(request)

    # ------------------------------------------------------------ from the engine's listeners

    def put(self, piece: Piece) -> None:
        if not self.is_cancelled:
            self._pieces.append(piece)
            self._wakes.put(self._changed.set)

    def end(self, error: Exception | None = None) -> None:
        """One job is over."""
        with self._lock:
            self._n_open -= 1
            is_over = self._n_open == 0
            if error is not None and self.error is None:
                self.error = error
                self._wakes.put(self.cancel)
        if is_over:
            self._wakes.put(self._ended)

    def _ended(self) -> None:
        self._changed.set()
        self._over()

    # ------------------------------------------------------------ for the answer

    @property
    def is_over(self) -> bool:
        return self._n_open <= 0

    async def pieces(self, idle_s: float) -> AsyncIterator[list[Piece]]:
        """What came since the last time, until all is over; an empty list after `idle_s` seconds
        without anything."""
        while True:
            if not self._pieces and not self.is_over:
                with suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):
                        await self._changed.wait()
            self._changed.clear()
            if self.error is not None and self.is_over:
                raise self.error
            is_over = self.is_over
            found, self._pieces = self._pieces, []
            if found or not is_over:
                yield found
            if is_over and not self._pieces:
                return

    async def wait(self) -> None:
        """Until all is over."""
        while not self.is_over:
            await self._changed.wait()
            self._changed.clear()

    def result(self) -> Sequence[Answer]:
        if self.error is not None:
            raise self.error
        answers = [answer for answer in self.answers if answer is not None]
        if len(answers) < len(self._jobs):
            raise Stopped("the request was stopped")
        return answers


class Listener:
    """Of a gen."""

    def __init__(self, running: RunningRequest, number: int, lane: Lane, streams: bool, logprobs: bool) -> None:
        self._running = running
        self._number = number
        self._lane = lane
        self._streams = streams
        self._logprobs: dict[int, list[TokenLogprob]] = {}
        self._cached: dict[int, int] = {}

    def on_cached(self, index: int, n_tokens: int) -> None:
        self._cached[index] = n_tokens

    def on_logprobs(self, index: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        if self._streams:
            self._logprobs.setdefault(index, []).extend(logprobs)

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        if self._streams:
            logprobs = tuple(self._logprobs.pop(index, ()))
            self._running.put(Piece(self._number, index, text, ids, logprobs, self._cached.get(index, 0)))

    def on_done(self, outputs: tuple[GenOutput, ...]) -> None:
        self._running.answers[self._number] = outputs
        try:
            self._lane.generated(outputs)
        finally:
            self._running.end()

    def on_error(self, error: Exception) -> None:
        try:
            self._lane.failed(error)
        finally:
            self._running.end(error)


class ScoreListener:
    """A listener of a score."""

    def __init__(self, running: RunningRequest, number: int, lane: Lane) -> None:
        self._running = running
        self._number = number
        self._lane = lane

    def on_done(self, output: ScoreOutput) -> None:
        self._running.answers[self._number] = output
        try:
            self._lane.scored()
        finally:
            self._running.end()

    def on_error(self, error: Exception) -> None:
        try:
            self._lane.failed(error)
        finally:
            self._running.end(error)
