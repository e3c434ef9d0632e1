"""What we print ourselves, and where the words of background cells go: to the job that prints them, never into a cell that happens to run.

What a thread prints reaches the page under some later cell. So, while there are jobs, `sys.stdout` and `sys.stderr` ask the
context who is speaking: a job hears its own, everybody else's goes where it went before. A job is a context, so the threads
and tasks that the language starts for it are heard too. While another cell's `%%capture` lasts, functions outside the body that
print are captured there.
"""

from __future__ import annotations

import contextvars
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..contracts.legible import legible


def say(words: str) -> None:
    """Print words of ours. Names and texts in them are shown, and never spoken to a terminal."""
    print(legible(words))


MAX_CHARS = 16_384
"""of what a job prints: the end is kept"""


_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")


class Printed:
    """What one job has printed and displayed, as text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = ""
        self._n_cut = 0

    def flush(self) -> None:
        """There is nothing to wait for."""

    def write(self, text: str) -> int:
        with self._lock:
            whole = self._text + text
            self._text = whole[-MAX_CHARS:]
            self._n_cut += len(whole) - len(self._text)
        return len(text)

    @property
    def text(self) -> str:
        """As a terminal would show it: what returns to the start of a line writes over it."""
        text = _OVERWRITTEN.sub("", self._text)
        return f"… {self._n_cut:,} characters before this …\n{text}" if self._n_cut else text


_speaking: contextvars.ContextVar[Printed | None] = contextvars.ContextVar("sgl_printed", default=None)


class _Routed:
    """A stream that takes to the job what a job writes. In all else it is the stream it stands for."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> Any:
        return (_speaking.get() or self._stream).write(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def route() -> None:
    """Stand in for both streams. `%%capture` and the like put others in their place for a while: call it again after every cell."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), _Routed):
            setattr(sys, name, _Routed(stream))


def unroute() -> None:
    for name in ("stdout", "stderr"):
        if isinstance(stream := getattr(sys, name), _Routed):
            setattr(sys, name, stream._stream)


@contextmanager
def captured(printed: Printed, publisher: Any) -> Iterator[None]:
    """In this context, on this thread, what is printed goes to `printed`, and so does the text of what is displayed."""

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
