"""Handles an interrupt while our code runs: it is raised at once in the user's code, and at the
next safe point in ours.

KeyboardInterrupt can be raised between any two bytecodes. Users expect that in their own code.
Inside a lock, a queue or a thread that is being started, it would leave work behind that nothing
ends. While `watched` lasts, SIGINT therefore raises only if the innermost code is the user's (or a
library's that the user called). Otherwise it is recorded.

Our waiting code calls `check` twenty
times a second. Until something raises, a thread sends the signal again, in case the user's code
continues without waiting. Programs and batches are watched on the main thread, and so are a
notebook's cells.
"""

from __future__ import annotations

import os
import signal
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

KNOCK_S = 0.02
PATIENCE_S = 5.0
"""seconds without a safe point after which our code counts as stuck: the interrupt is then raised
anywhere
"""

PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
LIBRARIES = ("<frozen ", *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def is_ours(filename: str) -> bool:
    return filename.startswith(PACKAGE)


def is_below_us(filename: str) -> bool:
    """Whether a file is ours or a library's."""
    return is_ours(filename) or filename.startswith(LIBRARIES)


class Interrupts:
    """The interrupts of the process. Signals arrive on its main thread; on another thread this does
    nothing.
    """

    def __init__(self) -> None:
        self._thread: int | None = None
        """the main thread, while it is watched"""
        self._since: float | None = None
        """when an interrupt arrived that has not been raised yet"""
        self._is_over = threading.Event()
        self._knocking: threading.Thread | None = None
        self._ending = threading.Lock()

    @property
    def is_watching(self) -> bool:
        return self._thread is not None and threading.current_thread() is threading.main_thread()

    @contextmanager
    def watched(self, *, whatever_handler: bool = False) -> Iterator[None]:
        """Within the block, an interrupt is raised in the user's code or by `check`, or else when
        the block ends.

        A nested block adds nothing. A SIGINT handler other than Python's own is left alone, unless
        `whatever_handler`.
        """
        if threading.current_thread() is not threading.main_thread() or self._thread is not None:
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if not whatever_handler and before is not signal.default_int_handler:
            yield
            return
        self._since = None
        self._is_over = threading.Event()  # a new one: an interrupt inside `clear` would keep its lock
        try:
            self._thread = threading.get_ident()
            signal.signal(signal.SIGINT, self._on_signal)
            yield
        finally:
            with self._ending:
                self._thread = None
            self._is_over.set()
            if self._knocking is not None:
                self._knocking.join()
                self._knocking = None
            signal.signal(signal.SIGINT, before)
        self.check()

    def request(self) -> None:
        """Request an interrupt, as the kernel would, from any thread. It has no effect after the
        end of the cell.
        """
        with self._ending:
            if self._thread is not None:
                signal.pthread_kill(self._thread, signal.SIGINT)

    def check(self) -> None:
        """A safe point: raises KeyboardInterrupt if one is due. Threads other than the main one
        pass.
        """
        if self._since is not None and threading.current_thread() is threading.main_thread():
            self._raise()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            self._knocking = threading.Thread(target=self._knock, args=(self._since, self._is_over), name="sgl-interrupt", daemon=True)
            self._knocking.start()
        if _is_the_users(frame) or time.monotonic() - self._since > PATIENCE_S:
            self._raise()

    def _raise(self) -> None:
        self._since = None
        raise KeyboardInterrupt

    def _knock(self, since: float, is_over: threading.Event) -> None:
        while not is_over.wait(KNOCK_S) and self._since == since:
            self.request()


def _is_the_users(frame: FrameType | None) -> bool:
    """Whether the user's code is further in than ours. Code further in still (a library's) belongs
    to its caller.
    """
    while frame is not None:
        name = frame.f_code.co_filename
        if not is_below_us(name):
            return True
        if is_ours(name):
            return False
        frame = frame.f_back
    return False


INTERRUPTS = Interrupts()
