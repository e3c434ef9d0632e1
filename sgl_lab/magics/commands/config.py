"""Settings, and where each comes from."""

from __future__ import annotations

from typing import Any

from ...viz.draw import html
from ..desk import Desk
from ..printing import say
from .command import Command, Words, aligned, show


def _config(shell: Any, desk: Desk, words: Words) -> None:
    settings = desk.settings.all()
    rows = [("setting", "value", "from"), *((setting.name, setting.text, setting.origin) for setting in settings)]
    counts = {"settings": len(settings), "set": sum(setting.value is not None for setting in settings)}
    show(shell, words, html.grid(rows), aligned(rows), counts)
    for error in desk.settings.ignored:
        say(f"ignored: {error}")


COMMANDS = {
    "config": Command(_config, "the settings and where each comes from: %config SGL.*, SGL_LAB_*, [tool.sgl_lab]", 0, {"--text": ""})
}
