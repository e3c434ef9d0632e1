"""`%%sgl --interact x=1..5`: a cell with controls, which runs again when a control is moved.

Each run is a background job that cancels the previous one. One panel shows all of them. After a
short pause the output is drawn again, so that a saved notebook contains the last result.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from .cell_view import live_panel, run_views, title_of
from .jobs import Job
from .options import SETTINGS, Control
from .output import Output, in_kernel
from .printing import say

if TYPE_CHECKING:
    from ..recorded import RecordedLab
    from ..trace import Record
    from ..viz.panel import Panel
    from .prepared import Cell
    from .session import Session

REST_S = 1.5
WAIT_S = 0.05


class Interact:
    def __init__(self, session: Session, cell: Cell, controls: tuple[Control, ...]) -> None:
        self._session, self._cell, self._controls = session, cell, controls
        self._chosen = dict.fromkeys((control.name for control in controls), 0)
        self._job: Job | None = None
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._output = Output(cell.shell)
        self._panel: Panel | None = None
        if in_kernel(cell.shell) and cell.options.views:
            self._panel = live_panel(cell.title, cell.options.views, self._on_message, controls=self._described())

    def first(self) -> None:
        """Run with the first values, in the cell, which waits for it. Raises what the body raises."""
        job = self._run()
        try:
            while not job.wait(WAIT_S):
                self._session.interrupts.check()
        except KeyboardInterrupt:
            job.cancel()
            job.wait(None)
            raise
        finally:
            self._draw(job)
        job.result()

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._job is not None:
                self._job.cancel()
            if self._panel is not None:
                self._panel.close()
                self._panel = None

    def _on_message(self, message: Mapping[str, object]) -> None:
        """A control was moved, or Stop was pressed."""
        if self._panel is None:
            return
        if message.get("kind") == "stop" and self._job is not None:
            self._panel.stopping()
            self._job.cancel()
        elif message.get("kind") == "set" and isinstance(values := message.get("values"), Mapping):
            for control in self._controls:
                index = values.get(control.name)
                if type(index) is int and 0 <= index < len(control.values):
                    self._chosen[control.name] = index
            self._panel.set_options(controls=self._described())
            self._run()

    def _described(self) -> list[dict[str, object]]:
        return [control.described(self._chosen[control.name]) for control in self._controls]

    def _run(self) -> Job:
        """Run with the current values. The previous run is cancelled."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._job is not None:
                self._job.cancel()
            values = {control.name: control.values[self._chosen[control.name]] for control in self._controls}
            settings = {name: value for name, value in values.items() if name in SETTINGS}
            cell = replace(self._cell, options=replace(self._cell.options, **settings))
            variables = {name: value for name, value in values.items() if name not in SETTINGS}
            words = ", ".join(f"{name}={value!r}" for name, value in values.items())
            title = f"{cell.title} · {words}"
            self._job = cell.in_background(self._session, variables, title=title, begun=self._begun, ended=self._ended)
            return self._job

    def _begun(self, job: Job, lab: RecordedLab, record: Record) -> None:
        with self._lock:
            if self._panel is not None and job is self._job:
                self._panel.status("running")
                self._panel.bind(
                    lab.ring, run_views(lab, record.run), lab.snapshot, since=record.snapshot.seq, title=f"{job.title} · {title_of(lab)}"
                )

    def _ended(self, job: Job) -> bool:
        """Whether it was the newest run."""
        with self._lock:
            if self._job not in (job, None):
                return False
            if self._panel is not None:
                self._panel.status(job.status)
                self._panel.end()
            self._timer = threading.Timer(REST_S, self._draw, (job,))
            self._timer.daemon = True
            self._timer.start()
            return True

    def _draw(self, job: Job) -> None:
        """Replace the output by the picture of this job."""
        with self._lock:
            if job is not self._job or job.frozen is None:
                return
            bundle, metadata = job.frozen
            if not in_kernel(self._cell.shell):
                say(bundle["text/plain"])
                return
            self._output.show(bundle, metadata, self._panel)
