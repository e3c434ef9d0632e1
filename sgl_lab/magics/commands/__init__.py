"""The `%sgl` commands, a file a question, and the table of them all."""

from __future__ import annotations

from . import background, cache, config, explain, keep, models, now, past, snippets, whatif
from .command import Command

COMMANDS: dict[str, Command] = {
    name: command
    for question in (models, now, past, explain, whatif, keep, background, cache, snippets, config)
    for name, command in question.COMMANDS.items()
}
