"""Compares runs: why a prefix missed, and where two runs differ."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...viz.draw import diff as draw_diff
from ...viz.draw import why as draw_why
from ...viz.explain.diff import diff
from ...viz.explain.why import Why, why
from ...viz.views.inspection import inspections
from ..options import OptionError
from ..session import Session
from ..shell import Shell
from .command import Command, Words, show

if TYPE_CHECKING:
    from ...trace import Record


def _why(shell: Shell, session: Session, words: Words) -> None:
    """`why`, `why B` and `why A B`: explain the last run, B, or B compared with A alone."""
    record = session.run(words.name(len(words.names) - 1) if words.names else None)
    against = session.run(words.name(0)) if len(words.names) == 2 else None
    found, spell = explained(session, record, against)
    if not found.n_requests and inspections(record.entries):
        raise OptionError(f"{record.title} ran on a backend without a prefix cache", hint="only a model in this kernel has one")
    if not found.n_requests:
        raise OptionError(f"{record.title} sent no request to the model", hint="`%sgl why RUN` explains another run")
    counts = {"prompt_tokens": found.n_prompt, "cached_tokens": found.n_cached, "lost_tokens": found.n_lost}
    show(shell, words, draw_why.html(found, spell), draw_why.text(found, spell), counts)


def explained(session: Session, record: Record, against: Record | None = None) -> tuple[Why, Callable[[int], str]]:
    """The explanation, and a function that spells every token in it."""
    lab = session.lab_of(record)
    others = lab.events() if lab is not None else ()
    earlier = [kept for kept in lab.records if kept.snapshot.seq < record.snapshot.seq] if lab is not None else []
    vocab = ChainMap(record.vocab, *([against.vocab] if against else []), *(kept.vocab for kept in reversed(earlier)))
    strangers = [(other.model, run) for run in session.runs() if (other := session.lab_of(run)) not in (lab, None) and run.run < record.run]
    spell = lab.spell if lab is not None else lambda token: f"<{token}>"
    found = why(record, earlier, against=against, others=others, strangers=strangers)
    return found, lambda token: vocab.get(token) or spell(token)


def _diff(shell: Shell, session: Session, words: Words) -> None:
    """`diff`, `diff A` and `diff A B`: compare the last two runs, A and the last one, or A and B."""
    names = words.names
    if not names and (n_runs := len(session.answered())) < 2:
        raise OptionError(f"%sgl diff compares two runs, but {'only one' if n_runs else 'none'} has run", hint="run a %%sgl cell first")
    a = session.run(names[0] if names else "-2")
    b = session.run(names[1] if len(names) == 2 else "-1")
    if a is b and len(names) < 2:
        raise OptionError(f"{a.title} is the last run itself", hint="name another run, or two: `%sgl diff A B`")
    found = diff(a, b)
    n_same = sum(pair.has_equal_prompts and pair.has_equal_answers for pair in found.pairs)
    counts = {"pairs": len(found.pairs), "same": n_same}
    show(shell, words, draw_diff.html(found, a.spell, b.spell), draw_diff.text(found, a.spell, b.spell), counts)


COMMANDS = {
    "why": Command(
        _why,
        "[A] [B] [--text]   why run B (the last) missed prefixes that earlier runs, or A alone, had computed",
        2,
        {"--text": ""},
        takes_runs=True,
    ),
    "diff": Command(
        _diff,
        "[A] [B] [--text]   compare the last two runs, A and the last, or A and B: prompts, answers token by token, counts",
        2,
        {"--text": ""},
        takes_runs=True,
    ),
}
