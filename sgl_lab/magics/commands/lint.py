"""Finds faults of a program in its run."""

from __future__ import annotations

from ...viz.draw import lint as draw
from ..linting import findings_of
from ..session import Session
from ..shell import Shell
from .command import Command, Words, show


def _lint(shell: Shell, session: Session, words: Words) -> None:
    """`lint` and `lint RUN`: the findings of a run with their lines, costs and mends."""
    record = session.run(words.name())
    session.interrupts.check()
    found = findings_of(session, record, is_measured=True)
    lines = record.source.split("\n")
    counts = {"findings": len(found), "tokens": sum(finding.n_tokens for finding in found)}
    show(shell, words, draw.html(record.title, found, lines), draw.text(record.title, found, lines), counts)


COMMANDS = {
    "lint": Command(
        _lint,
        "[RUN] [--text]   faults of a program that its run shows: the line, what each costs, and the mend",
        1,
        {"--text": ""},
        takes_runs=True,
    ),
}
