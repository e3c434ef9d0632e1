"""The lint of a run: for `%sgl lint` with measured costs, and for the quiet line under a cell.

The quiet line asks nothing of an engine: it reads at most `MAX_EVENTS` recorded events, of the run and
of earlier ones, and a run with more gets none.
"""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Callable
from typing import TYPE_CHECKING

from .output import Output, in_kernel
from .printing import say
from .session import Session
from .shell import Shell

if TYPE_CHECKING:
    from ..recorded import RecordedLab
    from ..trace import Record
    from ..viz.lint.finding import Finding, Measures

_log = logging.getLogger(__name__)
MAX_EVENTS = 20_000


def findings_of(session: Session, record: Record, *, is_measured: bool) -> tuple[Finding, ...]:
    """The findings of a run, against earlier runs of its engine."""
    from ..viz.lint import lint

    lab = session.lab_of(record)
    earlier = [kept for kept in lab.records if kept.snapshot.seq < record.snapshot.seq] if lab is not None else []
    measures = _measures(lab) if is_measured else None
    return lint(record, earlier, spell=speller(lab, record, earlier), measures=measures)


def _measures(lab: RecordedLab | None) -> Measures | None:
    """What can be measured: only the engine in this process says it."""
    from ..session import Lab

    return lab.measures() if isinstance(lab, Lab) and lab.is_open else None


def speller(lab: RecordedLab | None, record: Record, earlier: list[Record]) -> Callable[[int], str]:
    vocab = ChainMap(record.vocab, *(kept.vocab for kept in reversed(earlier)))
    spell = lab.spell if lab is not None else record.spell
    return lambda token: vocab.get(token) or spell(token)


def certain_findings(session: Session, record: Record) -> tuple[Finding, ...]:
    """The findings of the quiet line. It never raises."""
    if len(record.entries) > MAX_EVENTS:
        return ()
    try:
        return findings_of(session, record, is_measured=False)
    except Exception as error:  # a rule that fails must not fail the cell
        _log.warning("the lint of this cell stopped (%s: %s)", type(error).__name__, error)
        return ()


def quiet_line(session: Session, record: Record) -> str:
    """The line as text; empty if nothing was found."""
    from ..viz.draw import lint as draw

    found = certain_findings(session, record)
    return draw.quiet(found) if found else ""


def show_quiet_line(shell: Shell, session: Session, record: Record) -> None:
    """Show one line under the cell if its run has findings."""
    from ..viz.draw import lint as draw

    if not (found := certain_findings(session, record)):
        return
    if in_kernel(shell):
        data = {"text/html": draw.line(found).source, "text/plain": draw.quiet(found)}
        Output(shell).show(data, {"sgl_lab": {"counts": {"findings": len(found)}}})
    else:
        say(draw.quiet(found))
