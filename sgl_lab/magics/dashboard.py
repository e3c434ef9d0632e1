"""`%sgl dashboard`: one live view of the default lab, which follows changes of the model and shows
every request, from any program.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from ..contracts.errors import SglError
from ..labs import LABS
from ..viz.dashboard import dashboard_views
from ..viz.freeze import freeze
from ..viz.views.counts import CountsView
from ..viz.views.recent import RecentView
from .cell_view import live_panel, title_of
from .folded import tree_of
from .output import Bundle, Output
from .shell import Shell

if TYPE_CHECKING:
    from ..recorded import RecordedLab

VIEWS = ("tree", "timeline")
REDRAW_S = 10.0
MAX_OUTPUTS = 4


class Dashboard:
    """The dashboard. It is open from its construction until `close`, and follows the default lab."""

    def __init__(self, shell: Shell, lab: RecordedLab, on_stop: Callable[[], object]) -> None:
        self._shell, self._lab, self._on_stop = shell, lab, on_stop
        self._lock = threading.Lock()
        self._outputs: deque[Output] = deque(maxlen=MAX_OUTPUTS)
        self._drawn_at, self._drawn_s = 0, 0.0
        self._panel = live_panel(title_of(lab), VIEWS, self._on_message, dashboard=True)
        self._bind(lab)
        self._stop_listening = LABS.listen(self.follow)

    def show(self) -> None:
        """Show it in the running cell. It can be in several outputs."""
        output = Output(self._shell)
        self._outputs.append(output)
        output.show(self._bundle(), panel=self._panel)

    def close(self) -> None:
        """Close the live view; the current pictures remain."""
        self._stop_listening()
        self._panel.end()
        self._redraw(is_open=False)
        self._panel.close()

    def follow(self, lab: RecordedLab) -> None:
        """Cells run on this lab from now on. An error in the picture must not fail the caller."""
        with self._lock, suppress(SglError):
            if lab is not self._lab:
                self._bind(lab)

    def _bind(self, lab: RecordedLab) -> None:
        self._panel.bind(lab.ring, dashboard_views(lab.spell, lab.stats), lab.snapshot, since=0, title=title_of(lab))
        self._lab = lab

    def _on_message(self, message: Mapping[str, object]) -> None:
        if message.get("kind") == "stop":
            self._panel.stopping()
            threading.Thread(target=self._on_stop, name="sgl-stop", daemon=True).start()

    def after_cell(self) -> None:
        """Update the pictures, so that a notebook saved now is up to date."""
        if self._lab.ring.cursor != self._drawn_at and time.monotonic() > self._drawn_s + REDRAW_S:
            self._redraw(is_open=True)

    def _redraw(self, is_open: bool) -> None:
        with suppress(SglError):  # the engine is gone: the last pictures remain
            bundle = self._bundle()
            for output in self._outputs:
                output.show(bundle, panel=self._panel if is_open else None)

    def _bundle(self) -> Bundle:
        """The picture shown without a live view: in a saved notebook, or when the kernel is gone."""
        lab = self._lab
        self._drawn_at, self._drawn_s = lab.ring.cursor, time.monotonic()
        return picture(lab, f" · as it was at {time.strftime('%H:%M:%S')} (%sgl dashboard for a live one)")


def picture(lab: RecordedLab, when: str = "") -> Bundle:
    """The current content of a dashboard as a picture."""
    recent = RecentView()
    for entry in lab.events():
        recent.fold(entry)
    return freeze(
        tree=tree_of(lab.snapshot(), lab.spell) if lab.has_tree else None,
        lanes=recent,
        metrics=CountsView(lab.stats, recent),
        title=f"Dashboard · {title_of(lab)}{when}",
        is_engine=True,
    )
