"""`%sgl COMMAND`: finds the command, parses its words, and runs it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..contracts.legible import clipped
from . import commands
from .commands.command import Command, Words, is_option
from .options import HELP_FLAGS, OptionError, cell_help, nearest, wrapped
from .printing import say
from .session import Session
from .shell import Shell


def run_line(shell: Shell, session: Session, line: str) -> object:
    """Run one line command. Its result becomes the cell's `Out`, unless the line ends in `;`.
    OptionError with the nearest valid word.
    """
    bare = line.rstrip().removesuffix(";")
    try:
        words = shlex.split(bare)
    except ValueError as error:
        raise OptionError(f"cannot read the command: {error}") from None
    name, rest = (words[0], words[1:]) if words else ("help", [])
    command = COMMANDS.get(name)
    if command is None and not name[:1].isalpha():
        hint = f"a program and its options are a cell that begins with %%sgl, such as %%sgl {clipped(bare.strip(), 60)}"
        raise OptionError(f"%sgl takes a command, and {name!r} is none", hint=hint)
    if command is None:
        raise nearest(name, COMMANDS, "command")
    if not set(HELP_FLAGS).isdisjoint(rest):
        name, rest, command = "help", [name], COMMANDS["help"]
    read = command.read(name, rest)
    with session.interrupts.watched(whatever_handler=True):
        result = command.action(shell, session, read)
    return result if bare == line.rstrip() else None


def words(session: Session, before: Sequence[str]) -> tuple[str, ...]:
    """The words that may follow these words of a `%sgl` line, for completion."""
    if not before:
        return tuple(COMMANDS)
    if before[0] == "model":
        return _models()
    command = COMMANDS.get(before[0])
    if command is None:
        return ()
    then = command.after(session).get(before[-1])
    if then is not None and len(before) > 1:
        return tuple(then)
    runs = session.run_names() if command.takes_runs else ()
    names = command.names_in(session, [word for word in before[1:] if not is_option(word)])
    return tuple(dict.fromkeys((*command.values, *runs, *names, *command.options)))


def _models() -> tuple[str, ...]:
    from ..labs import LABS
    from ..session import BUILT_IN

    return tuple(dict.fromkeys((BUILT_IN, *(lab.model for lab in LABS.parked))))


def line_help() -> str:
    return "\n".join(["%sgl COMMAND", "", *map(_command_help, COMMANDS)])


def _command_help(name: str) -> str:
    """The usage of a command and its description, on one line if it fits."""
    usage, _, text = COMMANDS[name].help.rpartition("   ")
    if not usage or len(usage) + len(text) < _IN_ONE_LINE:
        return wrapped(f"  {name:<12}", COMMANDS[name].help)
    return "\n".join([wrapped(f"  {name:<12}", usage), wrapped(" " * 14, text)])


def _help(shell: Shell, session: Session, words: Words) -> None:
    """`help` and `help COMMAND`."""
    name = words.name()
    if name is not None and name not in COMMANDS:
        raise nearest(name, COMMANDS, "command")
    say(_command_help(name).lstrip() if name else cell_help() + "\n\n" + line_help())


_IN_ONE_LINE = 80
COMMANDS: dict[str, Command] = {**commands.COMMANDS}
COMMANDS["help"] = Command(_help, "[COMMAND]   this, or what COMMAND does", 1, values=tuple(COMMANDS))
