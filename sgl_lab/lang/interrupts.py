"""An interrupt while code of ours runs: raised at once in the user's code, at the next safe point in ours.

KeyboardInterrupt can be raised between any two bytecodes. In the user's own code that is what they expect; inside a lock, a
queue or a thread that is being started it would leave work behind that nothing ends. So, while `watched` lasts, SIGINT raises
only if the innermost code is the user's (or a library's that the user called). Otherwise it is noted: code of ours that waits
asks `check` twenty times a second, and until something has raised, a thread knocks again, in case the user's code goes on
without waiting. Programs and batches are watched wherever they run on the main thread; a notebook's cells are, too.
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
"""After this long without a safe point something of ours is stuck: then the interrupt is raised anywhere."""

PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
LIBRARIES = ("<frozen ", *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def is_ours(filename: str) -> bool:
    return filename.startswith(PACKAGE)


def is_below_us(filename: str) -> bool:
    """Whether a file is ours or a library's."""
    return is_ours(filename) or filename.startswith(LIBRARIES)


class Interrupts:
    """Those of the process: signals arrive on its main thread. On another thread this does nothing."""

    def __init__(self) -> None:
        self._thread: int | None = None
        """the main one, while it is watched"""
        self._since: float | None = None
        """when an interrupt came that has not been raised yet"""
        self._is_over = threading.Event()
        self._knocking: threading.Thread | None = None
        self._ending = threading.Lock()

    @property
    def is_watching(self) -> bool:
        return self._thread is not None and threading.current_thread() is threading.main_thread()

    @contextmanager
    def watched(self, *, whatever_handler: bool = False) -> Iterator[None]:
        """While this lasts, an interrupt is raised in the user's code or by `check`; one that came too late for either, on leaving.

        Inside another such block it adds nothing. A handler of SIGINT that is not Python's own is left alone, unless told otherwise.
        """
        if threading.current_thread() is not threading.main_thread() or self._thread is not None:
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        if not whatever_handler and before is not signal.default_int_handler:
            yield
            return
        self._since = None
        self._is_over.clear()
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
        """What an interrupt of the kernel would do, from any thread; nothing once the cell has ended."""
        with self._ending:
            if self._thread is not None:
                signal.pthread_kill(self._thread, signal.SIGINT)

    def check(self) -> None:
        """A safe point: raises KeyboardInterrupt here if one is due. Other threads than the main one pass."""
        if self._since is not None and threading.current_thread() is threading.main_thread():
            self._raise()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
            self._knocking = threading.Thread(target=self._knock, args=(self._since,), name="sgl-interrupt", daemon=True)
            self._knocking.start()
        if _is_the_users(frame) or time.monotonic() - self._since > PATIENCE_S:
            self._raise()

    def _raise(self) -> None:
        self._since = None
        raise KeyboardInterrupt

    def _knock(self, since: float) -> None:
        while not self._is_over.wait(KNOCK_S) and self._since == since:
            self.request()


def _is_the_users(frame: FrameType | None) -> bool:
    """Whether code of the user is further in than code of ours; what lies further in still (a library's) belongs to its caller."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not is_below_us(name):
            return True
        if is_ours(name):
            return False
        frame = frame.f_back
    return False


INTERRUPTS = Interrupts()
