"""The view of one run: live while the cell runs, frozen when it has ended.

In a kernel, self-contained HTML and text replace the live widget at the end of the cell, so a saved
notebook is readable without a kernel.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..contracts.errors import Stopped
from ..contracts.ids import RunId
from ..contracts.legible import clipped
from ..viz.views import views_of
from ..viz.views.explore import ExploreView
from .folded import Folded, about
from .output import Output, Pictures, html_line, in_kernel, is_captured
from .printing import say
from .shell import Shell

if TYPE_CHECKING:
    from ..recorded import RecordedLab
    from ..trace import Record
    from ..viz.live import Live, LiveHandle
    from ..viz.panel import Panel
    from ..viz.sender import Views

_log = logging.getLogger(__name__)


class CellView:
    """The view of one run: live within the block, frozen after it, with a button that explores it if
    there are `doors`. Without any views it shows nothing.
    """

    def __init__(
        self,
        shell: Shell,
        output: Output,
        lab: RecordedLab,
        record: Record,
        views: Sequence[str],
        on_stop: Callable[[], None],
        doors: Pictures | None = None,
    ) -> None:
        self._doors = doors
        self._shell, self._output, self._lab, self._record, self._on_stop = shell, output, lab, record, on_stop
        self._views = views_for(lab, views)
        self._live: LiveHandle | None = None

    def __enter__(self) -> CellView:
        if self._views and in_kernel(self._shell) and not is_captured(self._shell):
            self._live = self._open(self._record.run)
            self._output.show(_mimebundle(self._live.widget))
        return self

    def _open(self, run: RunId) -> LiveHandle:
        from ..viz.live import open_live

        options = {"views": list(self._views), "title": title_of(self._lab), "kernel_id": _kernel_id(), **about(self._lab)}
        live = open_live(self._lab.ring, run_views(self._lab, run), snapshot=self._lab.snapshot, options=options, on_stop=self._on_stop)
        live.status("running", "")
        return live

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        status, message = "ok", ""
        if isinstance(error, KeyboardInterrupt | Stopped):
            status = "stopped"
        elif error is not None:
            status, message = "error", f"{type(error).__name__}: {error}"
        self._freeze(status, message)

    def _freeze(self, status: str, message: str) -> None:
        if not self._views:
            return
        if self._live is not None:
            self._live.status("done" if status == "ok" else status, message)
            self._live.close()
            if broken := self._live.error:
                _log.warning("the live view stopped early (%s: %s); this view is complete", type(broken).__name__, broken)
        folded = Folded.of(self._lab, self._record)
        if status == "error" and not folded.has_run:
            self._output.show(html_line(f"✕ nothing ran: {clipped(message, 200)}"))
            return
        bundle = folded.bundle(self._views, title_of(self._lab), status, message)
        metadata = {"sgl_lab": {"counts": folded.counts(), "status": status}}
        if not in_kernel(self._shell):
            say(bundle["text/plain"])
        elif self._doors is not None:
            self._doors.show(self._output, bundle, metadata, self._lab, self._record)
        else:
            self._output.show(bundle, metadata)


def views_for(lab: RecordedLab, views: Sequence[str]) -> tuple[str, ...]:
    """Those of the views for which there is something to see."""
    return tuple(view for view in views if view != "tree" or lab.has_tree)


def title_of(lab: RecordedLab) -> str:
    return lab.title


def run_views(lab: RecordedLab, run: RunId) -> Views:
    """The folds of a live view of one run."""
    from ..viz.sender import Views

    return Views(*views_of(run, lab.spell), ExploreView(lab.spell, run))


def live_panel(title: str, views: Sequence[str], on_message: Callable[[Mapping[str, object]], None], **options: object) -> Panel:
    """A live view that outlasts its cell."""
    from ..viz.panel import Panel

    return Panel({"title": title, "views": list(views), **options}, on_message)


def _mimebundle(widget: Live) -> dict[str, object]:
    """The widget's bundle. Its text is what a notebook contains that was saved during the run."""
    data = widget._repr_mimebundle_()
    bundle: Mapping[str, object] = (data[0] if isinstance(data, tuple) else data) or {}
    return {**bundle, "text/plain": "This cell was still running when the notebook was saved."}


def _kernel_id() -> str:
    """The id under which the server knows this kernel; it is part of the connection file's name."""
    from ipykernel.connect import get_connection_file

    found = re.search(r"kernel-(.+)\.json$", get_connection_file())
    return found.group(1) if found else ""
