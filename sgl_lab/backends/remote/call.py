"""One call under way: what a vendor's `_converse` and `_decide` are given."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from ...contracts.errors import RequestFailed, RequestTimedOut, SglError
from ...contracts.ids import RequestId
from .deadlines import ALARMS, Deadlines
from .faults import Fault

MAX_TEXT = 16 << 20
"""characters of one answer"""
MAX_LINE = 8 << 20
"""bytes of a response without an end of line: of one event, or of an answer that is no stream"""


class Closable(Protocol):
    def close(self) -> object: ...


C = TypeVar("C", bound=Closable)

_here = threading.local()


def current() -> Call | None:
    """The call that this thread works on."""
    call: Call | None = getattr(_here, "call", None)
    return call


class Call:
    """Made by `RemoteBackend`, once a job; a vendor uses `delta`, `check` and, for what is not read
    through the backend's own `client`, `closing` and `remaining_s`."""

    def __init__(self, request: RequestId, place: str, deadlines: Deadlines, on_delta: Callable[[int, str], None]) -> None:
        self.request = request
        self.deadlines = deadlines
        self.has_begun = False
        """a byte of an answer has come: it is not asked for again"""
        self.fault: Fault | None = None
        """of this attempt, where we know it better than the exception tells"""
        self.ended: SglError | None = None
        """why it is over, whatever its thread does: cancelled, closed, or too late"""
        self.first_at: float | None = None
        self._place = place
        self._on_delta = on_delta
        self._pieces: list[list[str]] = []
        self._n_characters = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._open: list[Closable] = []
        self._hang_up: Callable[[], None] | None = None
        self._ends_at = time.monotonic() + deadlines.total

    # ------------------------------------------------------------ for a vendor

    def delta(self, index: int, text: str) -> None:
        """Sample `index` grew by `text`. Raises what ended the call, if it is over."""
        self.check()
        self.begin()
        if not text:
            return
        self._n_characters += len(text)
        if self._n_characters > MAX_TEXT:
            raise self.too_long()
        while len(self._pieces) <= index:
            self._pieces.append([])
        self._pieces[index].append(text)
        self._on_delta(index, text)

    def check(self) -> None:
        """Raise what ended the call, such as Stopped; do nothing while it is wanted."""
        if self.ended is not None:
            raise self.ended
        if self.remaining_s <= 0:
            self.end(self.too_late())
            self.check()

    def closing(self, stream: C) -> C:
        """Have this closed when the call is cancelled or too late, so that a read of it ends at
        once; the stream itself."""
        with self._lock:
            self._open.append(stream)
            is_over = self.ended is not None
        if is_over:
            _close(stream)
        self.check()
        return stream

    @property
    def remaining_s(self) -> float:
        """Seconds to the deadline of the whole call."""
        return self._ends_at - time.monotonic()

    # ------------------------------------------------------------ for the room

    def hears(self, on_delta: Callable[[int, str], None]) -> None:
        """Where deltas go."""
        self._on_delta = on_delta

    def restart(self) -> None:
        """The deadline of the whole call counts from now."""
        self._ends_at = time.monotonic() + self.deadlines.total

    def sleep(self, seconds: float) -> None:
        """Wait, or raise what ended the call meanwhile."""
        self._over.wait(max(0.0, min(seconds, self.remaining_s)))
        self.fault = None
        self.check()

    @property
    def partial(self) -> tuple[str, ...]:
        """The text of each sample, as far as it came."""
        return tuple("".join(pieces) for pieces in self._pieces)

    def begin(self) -> None:
        self.has_begun = True
        if self.first_at is None:
            self.first_at = time.monotonic()

    def end(self, error: SglError) -> None:
        """The call is over. What it reads is closed; the first reason counts."""
        with self._lock:
            if self.ended is None:
                self.ended = error
            hang_up, streams = self._hang_up, list(self._open)
        self._over.set()
        if hang_up is not None:
            hang_up()
        for stream in streams:
            _close(stream)

    def too_late(self) -> RequestTimedOut:
        return RequestTimedOut(
            f"{self._place} did not finish within {self.deadlines.total:g} s",
            hint="give the backend deadlines=Deadlines(total=...), or lower max_tokens",
        )

    def too_long(self) -> SglError:
        return RequestFailed(f"{self._place} answered more than {MAX_TEXT >> 20} MiB of text, or {MAX_LINE >> 20} MiB in one line")

    @contextmanager
    def works(self) -> Iterator[None]:
        """This thread works on the call inside."""
        outer = current()
        _here.call = self
        try:
            yield
        finally:
            _here.call = outer

    @contextmanager
    def on_wire(self, hang_up: Callable[[], None]) -> Iterator[None]:
        """This thread waits for the network inside; `hang_up` ends the wait."""
        self.check()
        with self._lock:
            self._hang_up = hang_up
            if self.ended is not None:
                raise self.ended
        try:
            yield
        finally:
            with self._lock:
                self._hang_up = None

    @contextmanager
    def within(self, seconds: float, late: Callable[[], Fault]) -> Iterator[None]:
        """What a socket's own time-out does not bound (the look-up of a name): the attempt is over
        after `seconds`."""

        def ring() -> None:
            fault = late()
            self.fault = fault
            self.end(fault.error)

        off = ALARMS.at(time.monotonic() + seconds, ring)
        try:
            yield
        finally:
            off()


def _close(stream: Closable) -> None:
    with contextlib.suppress(Exception):
        stream.close()
