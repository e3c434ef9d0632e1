"""An interrupt while a cell runs: felt at once in the user's code, at the next safe point in ours.

KeyboardInterrupt can be raised between any two bytecodes. In the user's own code that is what they
expect; inside a lock, a queue or a picture of ours it would leave the books wrong for every later
cell. So, while a cell runs, SIGINT raises only if the innermost code of interest is the user's.
Otherwise it is noted: code of ours that waits asks `check` twenty times a second, and until
somebody has raised, a thread knocks again, in case the user's code goes on without waiting.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import is_ours

KNOCK_S = 0.02
PATIENCE_S = 5.0
"""After this long without a safe point something of ours is stuck: then the interrupt is raised anywhere."""


class Interrupts:
    """One cell's interrupts. On another thread than the main one, where no signal arrives, it does nothing."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self._cell_file = ""
        self._since: float | None = None
        """when an interrupt came that nobody has raised yet"""
        self._is_over = threading.Event()
        self._knocking: threading.Thread | None = None
        self._ending = threading.Lock()

    @contextmanager
    def watched(self, cell_file: str) -> Iterator[None]:
        """While this lasts, an interrupt is raised in code of `cell_file` and in what that calls of others', or by `check`.

        One that came too late for either is raised on leaving.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        self._cell_file, self._since = cell_file, None
        self._is_over.clear()
        self._thread = threading.get_ident()
        signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            with self._ending:
                self._thread = None
            self._is_over.set()
            if self._knocking is not None:
                self._knocking.join()
            signal.signal(signal.SIGINT, before)
        self.check()

    def request(self) -> None:
        """What an interrupt of the kernel would do, from any thread; nothing once the cell has ended."""
        with self._ending:
            if self._thread is not None:
                signal.pthread_kill(self._thread, signal.SIGINT)

    def check(self) -> None:
        """A safe point: raises KeyboardInterrupt here if one is due. Other threads than the cell's pass."""
        if self._since is not None and threading.current_thread() is threading.main_thread():
            self._raise()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            self._knocking = threading.Thread(target=self._knock, args=(self._since,), name="sgl-interrupt", daemon=True)
            self._knocking.start()
        if self._is_the_users(frame) or time.monotonic() - self._since > PATIENCE_S:
            self._raise()

    def _raise(self) -> None:
        self._since = None
        raise KeyboardInterrupt

    def _is_the_users(self, frame: FrameType | None) -> bool:
        """Whether code of the cell is further in than code of ours; what lies further in still (a library's) belongs to its caller."""
        while frame is not None:
            name = frame.f_code.co_filename
            if name == self._cell_file:
                return True
            if is_ours(name):
                return False
            frame = frame.f_back
        return False

    def _knock(self, since: float) -> None:
        while not self._is_over.wait(KNOCK_S) and self._since == since:
            self.request()
