"""What the magics of one shell share: the lab, the interrupts of the cell that runs, the run that was seen last.

A model is loaded on a thread of its own while the cell's thread waits in slices: an interrupt ends
the waiting, not the loading, and the next cell finds the lab ready or nearly so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..contracts.errors import Stopped
from .interrupts import Interrupts

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
        self.interrupts = Interrupts()
        self._has_told = False

    def ready_lab(self, report: Report, model: str | None = None) -> Lab:
        """The default lab, loaded if need be; with `model`, a lab of that model takes its place. ModelError, Stopped."""
        from ..labs import LABS

        attempt = LABS.loading(model)
        try:
            while not attempt.wait(SLICE_S):
                report(attempt.text, attempt.share)
                self.interrupts.check()
        except KeyboardInterrupt:
            raise Stopped(f"stopped waiting: {attempt.model} goes on loading and will be there for a later cell") from None
        lab = attempt.lab()
        if lab.notice is not None and not self._has_told:
            self._has_told = True
            print(f"sgl: {lab.notice}")
        return lab
