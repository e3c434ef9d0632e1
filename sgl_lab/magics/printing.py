"""Our own printing, and the routing of what background cells print: to their job, never into a cell
that happens to run.

Output of a thread reaches the page under a later cell. While there are jobs, `sys.stdout` and
`sys.stderr` therefore look up the context of the writer: output of a job goes to the job, all other
output to its usual destination. A job is a context, so threads and tasks that the language starts
for it belong to it. While another cell's `%%capture` is active, it captures functions outside the
body that print.
"""

from __future__ import annotations

import contextvars
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..contracts.legible import legible


def say(words: str) -> None:
    """Print a message of ours. Names and texts in it are made legible, so that they cannot control
    the terminal.
    """
    print(legible(words))


MAX_CHARS = 16_384
"""characters kept of what a job prints: the last ones"""


_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")


class Printed:
    """Everything that one job has printed and displayed, as text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = ""
        self._n_cut = 0

    def flush(self) -> None:
        """Does nothing; there is no buffer."""

    def write(self, text: str) -> int:
        with self._lock:
            whole = self._text + text
            self._text = whole[-MAX_CHARS:]
            self._n_cut += len(whole) - len(self._text)
        return len(text)

    @property
    def text(self) -> str:
        """The text as a terminal would show it: text after a carriage return overwrites its line."""
        text = _OVERWRITTEN.sub("", self._text)
        return f"… {self._n_cut:,} earlier characters …\n{text}" if self._n_cut else text


_speaking: contextvars.ContextVar[Printed | None] = contextvars.ContextVar("sgl_printed", default=None)


class _Routed:
    """A stream that redirects a job's output to the job. Otherwise it behaves like the stream that
    it replaces.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return (_speaking.get() or self._stream).write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def route() -> None:
    """Replace both standard streams. Call it again after every cell, because `%%capture` and
    similar tools replace them for a while.
    """
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), _Routed):
            setattr(sys, name, _Routed(stream))


def unroute() -> None:
    for name in ("stdout", "stderr"):
        if isinstance(stream := getattr(sys, name), _Routed):
            setattr(sys, name, stream._stream)


@contextmanager
def captured(printed: Printed, publisher: Any) -> Iterator[None]:
    """In this context, on this thread, send printed text and the text of displayed objects to
    `printed`.
    """

    def keep(message: dict[str, Any]) -> dict[str, Any] | None:
        if message["msg_type"] != "display_data":
            return message
        printed.write(message["content"]["data"].get("text/plain", "") + "\n")
        return None

    token = _speaking.set(printed)
    has_hooks = hasattr(publisher, "register_hook")  # a terminal has none: it displays by printing
    if has_hooks:
        publisher.register_hook(keep)
    try:
        yield
    finally:
        if has_hooks:
            publisher.unregister_hook(keep)
        _speaking.reset(token)
