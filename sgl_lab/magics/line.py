"""`%sgl COMMAND`: finds the command, reads its words, runs it."""

from __future__ import annotations

import shlex
from typing import Any

from . import commands
from .commands.command import Command, Words
from .desk import Desk
from .options import OptionError, cell_help, nearest


def run_line(shell: Any, desk: Desk, line: str) -> Any:
    """Run one line command; what it returns becomes the cell's `Out`. OptionError with the nearest right word."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise OptionError(f"cannot read the command: {error}") from None
    name, rest = (words[0], words[1:]) if words else ("help", [])
    command = COMMANDS.get(name)
    if command is None:
        raise nearest(name, COMMANDS, "command")
    read = command.read(name, rest)
    with desk.interrupts.watched(""):
        return command.action(shell, desk, read)


def words(desk: Desk) -> dict[str, tuple[str, ...]]:
    """Each command and what may follow it, for completion."""
    from ..labs import LABS
    from ..session import BUILT_IN

    models = dict.fromkeys((BUILT_IN, *(lab.model for lab in LABS.parked)))
    runs = desk.run_names()
    found = {name: (*command.values, *(runs if command.takes_runs else ()), *command.options) for name, command in COMMANDS.items()}
    return found | {"model": tuple(models)}


def line_help() -> str:
    return "\n".join(["%sgl COMMAND", "", *(f"  {name:<12}{command.help}" for name, command in COMMANDS.items())])


def _help(shell: Any, desk: Desk, words: Words) -> None:
    print(cell_help() + "\n\n" + line_help())


COMMANDS: dict[str, Command] = {**commands.COMMANDS, "help": Command(_help, "this")}
