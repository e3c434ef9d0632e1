"""The time axis that the views of one run share."""

from __future__ import annotations

from ...contracts.events import CellStarted, Entry, ForkOpened
from ...contracts.ids import RunId


class RunClock:
    """Milliseconds since the first event of one run, or of all runs with `run=None`."""

    def __init__(self, run: RunId | None = None) -> None:
        self._run = run
        self._born_ns: int | None = None

    def read(self, entry: Entry) -> float | None:
        """The time of `entry`; None before the run began."""
        if self._born_ns is None:
            event = entry.event
            if self._run is not None and not (isinstance(event, CellStarted | ForkOpened) and event.run == self._run):
                return None
            self._born_ns = entry.t_ns
        return round((entry.t_ns - self._born_ns) / 1e6, 3)
