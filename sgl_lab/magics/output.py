"""One output of a cell: what it shows, whether it can be replaced, and the bar while a model loads.

A front end gets HTML beside the text; a terminal gets the text.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ..contracts.legible import legible
from ..viz.draw import html
from ..viz.draw.escape import Markup, joined, tag
from .shell import Shell

if TYPE_CHECKING:
    from ..recorded import RecordedLab
    from ..trace import Record
    from ..viz.panel import Panel

Bundle = dict[str, str]

MOUNT_ATTRIBUTE = "data-sgl-place"
"""attribute of the element that a panel's view replaces"""


def in_kernel(shell: Shell) -> bool:
    """Whether there is a front end that shows more than text."""
    return getattr(shell, "kernel", None) is not None


def is_captured(shell: Shell) -> bool:
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


class Showing(Protocol):
    """An output, or a part of one."""

    def show(self, data: Mapping[str, object], metadata: Mapping[str, object] | None = None, panel: Panel | None = None) -> None: ...


class Pictures(Protocol):
    """What shows the pictures of runs that have ended."""

    def show(self, output: Output, data: Bundle, metadata: Mapping[str, object], lab: RecordedLab, record: Record) -> None: ...


class Output:
    """One output of the running cell. Its content can be replaced later and from other threads."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._id = secrets.token_hex(16)
        self._publisher: Any = None
        """the publisher that showed it first: another cell's `%%capture` does not receive later
        content
        """

    def show(
        self,
        data: Mapping[str, object],
        metadata: Mapping[str, object] | None = None,
        panel: Panel | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Show or replace the content. If `panel` is live, its view replaces the HTML, whose outer
        element has these attributes.
        """
        if not in_kernel(self._shell):
            return
        shown = {**data, "text/plain": legible(str(data["text/plain"]))}
        if "text/html" in data:
            mount = {} if panel is None else {MOUNT_ATTRIBUTE: panel.mount}
            shown["text/html"] = html.output(Markup(str(data["text/html"])), {**mount, **(attributes or {})}).source
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


def stacked(parts: Sequence[tuple[Mapping[str, str], Bundle]]) -> Bundle:
    """One picture of these, one below the other, each in an element of its own with attributes."""
    page = joined([tag("div", attributes, Markup(data["text/html"])) for attributes, data in parts])
    return {"text/html": page.source, "text/plain": "\n\n".join(data["text/plain"] for _, data in parts)}


def html_line(words: str) -> Bundle:
    """One short line of ours, for cases without a picture."""
    return {"text/html": html.note(words).source, "text/plain": words}
