"""Shows the settings and the source of each."""

from __future__ import annotations

from typing import Any

from ...viz.draw import html
from ..printing import say
from ..session import Session
from .command import Command, Words, aligned, show


def _config(shell: Any, session: Session, words: Words) -> None:
    settings = session.settings.all()
    rows = [("setting", "value", "from"), *((setting.name, setting.text, setting.origin) for setting in settings)]
    counts = {"settings": len(settings), "set": sum(setting.value is not None for setting in settings)}
    show(shell, words, html.grid(rows), aligned(rows), counts)
    for error in session.settings.ignored:
        say(f"ignored: {error}")


COMMANDS = {
    "config": Command(_config, "the settings and the source of each: %config SGL.*, SGL_LAB_*, [tool.sgl_lab]", 0, {"--text": ""})
}
