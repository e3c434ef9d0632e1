"""The `%sgl` commands, grouped by topic, and the table of all of them."""

from __future__ import annotations

from . import (
    attribute,
    backends,
    background,
    bench,
    cache,
    config,
    explain,
    explore,
    graphs,
    grid,
    history,
    keep,
    lint,
    models,
    now,
    plans,
    serve,
    snippets,
    tune,
    whatif,
)
from .command import Command

_TOPICS = (
    models,
    backends,
    now,
    history,
    explain,
    attribute,
    explore,
    lint,
    whatif,
    graphs,
    grid,
    plans,
    tune,
    keep,
    bench,
    background,
    cache,
    serve,
    snippets,
    config,
)

COMMANDS: dict[str, Command] = {name: command for question in _TOPICS for name, command in question.COMMANDS.items()}
