"""The definition of a `%sgl` command, the parsing of its words, and helpers that several commands
share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...contracts.legible import clipped
from ...viz.draw.escape import Markup
from ..options import OptionError, nearest
from ..output import Output, in_kernel, loading
from ..printing import say
from ..session import Session
from ..shell import Shell

if TYPE_CHECKING:
    from ...recorded import RecordedLab
    from ...session import Lab

_RELATIVE = re.compile(r"-\d+")
"""`-1` is a run, not an option"""


@dataclass(frozen=True, slots=True)
class Words:
    """The words after a command: its names, and its options with their values (empty for flags)."""

    names: tuple[str, ...]
    options: Mapping[str, str]

    def name(self, n: int = 0) -> str | None:
        return self.names[n] if len(self.names) > n else None


@dataclass(frozen=True, slots=True)
class Command:
    """One `%sgl` command.

    names    the number of names that may follow
    options  what the value of each option is; empty for a flag
    """

    action: Callable[[Shell, Session, Words], object]
    """its result becomes the cell's `Out`"""
    help: str
    names: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    values: tuple[str, ...] = ()
    """words for completion"""
    takes_runs: bool = False
    """whether names of runs are among them"""
    names_in: Callable[[Session, Sequence[str]], tuple[str, ...]] = lambda session, before: ()
    """further ones, given the words so far"""
    after: Callable[[Session], Mapping[str, Sequence[str]]] = lambda session: {}
    """a word of the command -> the words that may follow it"""

    def read(self, name: str, words: Iterable[str]) -> Words:
        """Parse the words. OptionError with the nearest valid word."""
        names: list[str] = []
        options: dict[str, str] = {}
        rest = iter(words)
        for word in rest:
            if not is_option(word):
                names.append(word)
                continue
            flag, equals, value = word.partition("=")
            if flag not in self.options:
                raise nearest(flag, self.options, "option") if self.options else OptionError(f"%sgl {name} takes no options: {word!r}")
            wanted = self.options[flag]
            if not wanted and equals:
                raise OptionError(f"{flag} takes no value, not {value!r}", hint=f"write {flag} alone")
            options[flag] = value if equals or not wanted else next(rest, "")
            if wanted and not options[flag]:
                raise OptionError(f"{flag} needs a value: {wanted}")
        if len(names) > self.names:
            if self.names == 0:
                raise OptionError(f"%sgl {name} takes no further word: {names[0]!r}")
            most = "one name" if self.names == 1 else f"{self.names} names"
            raise OptionError(f"%sgl {name} takes {most}", hint="quote a path that contains spaces")
        return Words(tuple(names), options)


def is_option(word: str) -> bool:
    return word.startswith("-") and not _RELATIVE.fullmatch(word)


def ready_lab(shell: Shell, session: Session, model: str | None = None, device: str | None = None) -> Lab:
    with loading(Output(shell)) as report:
        return session.ready_lab(report, model, device)


def current_lab(shell: Shell, session: Session) -> RecordedLab:
    """The lab of cells without options, loaded if necessary."""
    with loading(Output(shell)) as report:
        return session.current_lab(report)


def engine_of(lab: RecordedLab, what: str) -> Lab:
    """The lab, if its engine is in this kernel. OptionError if it is elsewhere."""
    from ...session import Lab

    if not isinstance(lab, Lab):
        raise OptionError(f"{what} needs the engine in this kernel, and this is {lab.title}", hint="%sgl backend local")
    return lab


def memory_text(lab: Lab) -> str:
    """A lab's share of its device's memory, and the remaining free memory."""
    device, free, total = lab.memory()
    text = f"{lab.n_bytes / 2**20:,.0f} MiB of weights and cache"
    return text if free is None else f"{text}, {free / 2**30:,.1f} of {total / 2**30:,.1f} GiB free on {device or 'this machine'}"


def show(shell: Shell, words: Words, page: Markup, plain: str, counts: Mapping[str, int]) -> None:
    """Show a page with its plain-text version; with --text only the text."""
    if "--text" in words.options or not in_kernel(shell):
        say(plain)
    else:
        Output(shell).show({"text/html": page.source, "text/plain": plain}, {"sgl_lab": {"counts": dict(counts)}})


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(f"{clipped(cell, 60):<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
