"""What a cell shows: the progress of loading, the live view while it runs, and the frozen view
afterwards.

In a kernel, self-contained HTML and text replace the live widget at the end of the cell, so a saved
notebook is readable without a kernel. A terminal gets text. The frozen view is folded from the
run's record, which is complete, not from the events that the live view received.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..contracts.errors import Stopped
from ..contracts.events import RequestQueued
from ..contracts.ids import RunId
from ..contracts.legible import clipped, legible
from ..contracts.tree import TreeSnapshot
from ..viz.draw import html
from ..viz.draw.escape import Markup
from ..viz.freeze import drawn, freeze
from ..viz.replay import Replay
from ..viz.views import TreeView, views_of
from ..viz.views.tree import TreePicture
from .options import VIEWS
from .printing import say

if TYPE_CHECKING:
    from ..session import Lab
    from ..trace import Record
    from ..viz.panel import Panel
    from ..viz.sender import Views

Bundle = dict[str, str]

MOUNT_ATTRIBUTE = "data-sgl-place"
"""attribute of the element that a panel's view replaces"""

_log = logging.getLogger(__name__)


def in_kernel(shell: Any) -> bool:
    """Whether there is a front end that shows more than text."""
    return getattr(shell, "kernel", None) is not None


def is_captured(shell: Any) -> bool:
    """Whether `%%capture` is active.

    Its publisher then replaces the one whose `set_parent` ipykernel 7 calls for every message,
    including messages of a page during the cell. It has no such method, so one is added.
    """
    from IPython.core.displaypub import CapturingDisplayPublisher

    publisher = shell.display_pub
    if not isinstance(publisher, CapturingDisplayPublisher):
        return False
    if not hasattr(publisher, "set_parent"):
        publisher.set_parent = lambda parent: None  # type: ignore[attr-defined, unused-ignore]
    return True


class Output:
    """One output of the running cell. Its content can be replaced later and from other threads."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._id = secrets.token_hex(16)
        self._publisher: Any = None
        """the publisher that showed it first: another cell's `%%capture` does not receive later
        content
        """

    def show(self, data: dict[str, Any], metadata: dict[str, Any] | None = None, panel: Panel | None = None) -> None:
        """Show or replace the content. If `panel` is live, its view replaces the HTML."""
        if not in_kernel(self._shell):
            return
        shown = data | {"text/plain": legible(data["text/plain"])}
        if "text/html" in data:
            shown["text/html"] = html.output(Markup(data["text/html"]), {} if panel is None else {MOUNT_ATTRIBUTE: panel.mount}).source
        is_new = self._publisher is None
        if is_new:
            self._publisher = self._shell.display_pub
        self._publisher.publish(shown, metadata or {}, transient={"display_id": self._id}, update=not is_new)

    def clear(self) -> None:
        """Remove everything that the cell has shown so far."""
        from IPython.display import clear_output

        if self._publisher is not None:
            clear_output()  # type: ignore[no-untyped-call]
            self._publisher = None


@contextmanager
def loading(output: Output) -> Iterator[Callable[[str, float | None], None]]:
    """Show the progress of loading, and its duration at the end. Shows nothing if nothing is
    loaded.
    """
    began = time.monotonic()
    shown: list[tuple[str, float | None]] = []

    def report(text: str, share: float | None) -> None:
        now = (text, None if share is None else round(share, 2))
        if shown[-1:] != [now]:
            shown[:] = [now]
            output.show({"text/html": html.progress(text, share).source, "text/plain": text + (f" {share:.0%}" if share else "")})

    try:
        yield report
    except BaseException:
        output.clear()
        raise
    if shown:
        done = f"model loaded in {time.monotonic() - began:.1f} s"
        output.show({"text/html": html.progress(done, 1.0).source, "text/plain": done})


class Folded:
    """The four views of one run, folded from its record. `about` is data on the lab for the player."""

    def __init__(self, record: Record, spell: Callable[[int], str] | None = None, about: Mapping[str, Any] | None = None) -> None:
        say = spell or record.spell
        self._record, self._say, self._about = record, say, about or {}
        self.tokens, self.tree, self.lanes, self.metrics = views_of(record.scope, say)
        self.tree.load(record.snapshot)
        self.metrics.load(record.snapshot)
        for entry in record.entries:
            for view in (self.tokens, self.tree, self.lanes, self.metrics):
                view.fold(entry)

    @classmethod
    def of(cls, lab: Lab, record: Record) -> Folded:
        return cls(record, lab.spell, _about(lab))

    def bundle(
        self, views: Sequence[str], title: str, status: str = "ok", message: str = "", notes: Sequence[tuple[str, str]] = ()
    ) -> Bundle:
        return freeze(
            tokens=self.tokens if "tokens" in views else None,
            tree=self.tree if "tree" in views else None,
            lanes=self.lanes,
            has_lanes="timeline" in views,
            metrics=self.metrics,
            replay=self._replay(title, views, status, message),
            title=title,
            status=status,
            message=message,
            ms=self._ms,
            notes=notes,
        )

    def page(self, title: str, status: str, message: str) -> Markup:
        """All views without a size limit, and the recording for a page with players."""
        replay = self._replay(title, VIEWS, status, message)
        return drawn(self.tokens, self.tree, self.lanes, self.metrics, title, status, message, self._ms, replay)

    @property
    def has_run(self) -> bool:
        """Whether the engine received a request."""
        return any(isinstance(entry.event, RequestQueued) for entry in self._record.entries)

    @property
    def _ms(self) -> float:
        return self.lanes.full()["now"]

    def _replay(self, title: str, views: Sequence[str], status: str, message: str) -> Replay:
        ended = {"phase": "done" if status == "ok" else status, "message": clipped(message, 4_000)}
        return Replay(self._record, self._say, {"title": clipped(title, 120), "views": list(views), **ended, **self._about})

    def counts(self) -> dict[str, int]:
        """The counts, for programs that read the notebook."""
        strip = self.metrics.full()
        return {
            "cached": strip["cached"],
            "found": strip["found"],
            "reused": strip["reused"],
            "computed": strip["computed"],
            "generated": strip["generated"],
            "evicted": strip["evicted"],
            "forks": strip["forks"],
        } | tree_counts(self.tree.full())


def tree_counts(picture: TreePicture) -> dict[str, int]:
    return {"nodes": len(picture["nodes"]), "tree_tokens": sum(row["n"] for row in picture["nodes"])}


def tree_of(snapshot: TreeSnapshot, spell: Callable[[int], str]) -> TreeView:
    view = TreeView(spell)
    view.load(snapshot)
    return view


class CellView:
    """The view of one run: live within the block, frozen after it. Without any views it shows
    nothing.
    """

    def __init__(self, shell: Any, output: Output, lab: Lab, record: Record, views: Sequence[str], on_stop: Callable[[], None]) -> None:
        self._shell, self._output, self._lab, self._record, self._views, self._on_stop = shell, output, lab, record, views, on_stop
        self._live: Any = None

    def __enter__(self) -> CellView:
        if self._views and in_kernel(self._shell) and not is_captured(self._shell):
            self._live = self._open(self._record.run)
            self._output.show(_mimebundle(self._live.widget))
        return self

    def _open(self, run: RunId) -> Any:
        from ..viz.live import open_live

        options = {"views": list(self._views), "title": title_of(self._lab), "kernel_id": _kernel_id(), **_about(self._lab)}
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
        if in_kernel(self._shell):
            self._output.show(bundle, {"sgl_lab": {"counts": folded.counts(), "status": status}})
        else:
            say(bundle["text/plain"])


def title_of(lab: Lab) -> str:
    return f"{lab.model} · {lab.card.device} · {lab.card.dtype}"


def run_views(lab: Lab, run: RunId) -> Views:
    """The folds of a live view of one run."""
    from ..viz.sender import Views

    return Views(*views_of(run, lab.spell))


def html_line(words: str) -> Bundle:
    """One short line of ours, for cases without a picture."""
    return {"text/html": html.note(words).source, "text/plain": words}


def live_panel(title: str, views: Sequence[str], on_message: Callable[[Mapping[str, Any]], None], **options: object) -> Panel:
    """A live view that outlasts its cell."""
    from ..viz.panel import Panel

    return Panel({"title": title, "views": list(views), **options}, on_message)


def _about(lab: Lab) -> dict[str, Any]:
    return {"vocab": lab.card.vocab, "evict": lab.evict}


def _mimebundle(widget: Any) -> dict[str, Any]:
    """The widget's bundle. Its text is what a notebook contains that was saved during the run."""
    data = widget._repr_mimebundle_()
    return {**(data[0] if isinstance(data, tuple) else data), "text/plain": "This cell was still running when the notebook was saved."}


def _kernel_id() -> str:
    """The id under which the server knows this kernel; it is part of the connection file's name."""
    from ipykernel.connect import get_connection_file

    found = re.search(r"kernel-(.+)\.json$", get_connection_file())
    return found.group(1) if found else ""
