"""The `%sgl` commands, a file a question, and the table of them all."""

from __future__ import annotations

from . import models, now, past
from .command import Command

COMMANDS: dict[str, Command] = {**models.COMMANDS, **now.COMMANDS, **past.COMMANDS}
