"""What the magics of one shell share: the lab, the cell that runs now, the run that was seen last.

A model is loaded on a thread of its own while the cell's thread waits in slices: an interrupt ends
the waiting, not the loading, and the next cell finds the lab ready or nearly so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..session import Lab
    from ..trace import Record

SLICE_S = 0.05

Report = Callable[[str, float | None], None]
"""(what is going on, share done or None)"""


class Desk:
    def __init__(self) -> None:
        self.last: Record | None = None
        """the run that was seen last"""
        self._lock = threading.Lock()
        self._cell_thread: int | None = None

    def ready_lab(self, report: Report, model: str | None = None) -> Lab:
        """The default lab, loaded if need be; with `model`, a lab of that model takes its place. ModelError, KeyboardInterrupt."""
        from ..session import loading

        attempt = loading(model)
        while not attempt.wait(SLICE_S):
            report(attempt.text, attempt.share)
        return attempt.lab()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """While this lasts, `interrupt_cell` raises KeyboardInterrupt on the thread that is in here."""
        with self._lock:
            self._cell_thread = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._cell_thread = None

    def interrupt_cell(self) -> None:
        """The Stop button, from any thread: what an interrupt of the kernel would do, and nothing once the cell has ended."""
        with self._lock:
            if self._cell_thread is not None:
                signal.pthread_kill(self._cell_thread, signal.SIGINT)
