"""Finds faults of a program in its recorded run.

A rule is a pure function of a `Case`: the run as folded by `seen`, its cell's source, earlier runs,
and costs that an engine measures if there is one. Kindred rules share a file. A rule reports what is
certain and nothing else. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...trace import Record
from .budget import cut, equal_samples, unfit
from .changing import address, changing_text, example_order, near_prefix
from .finding import Case, Finding, Measures, Rule
from .markers import double_bos, typed_marker
from .names import unused_variable
from .seams import white_space
from .seen import MAX_ENTRIES, Seen, Spell, seen
from .source import Source
from .stops import stops

RULES: tuple[Rule, ...] = (
    white_space,
    typed_marker,
    double_bos,
    stops,
    cut,
    unfit,
    equal_samples,
    changing_text,
    address,
    example_order,
    near_prefix,
    unused_variable,
)
MAX_EARLIER = 8
"""earlier runs that a run is compared with: the latest ones, together at most MAX_ENTRIES events"""


def lint(
    record: Record, earlier: Sequence[Record] = (), *, spell: Spell | None = None, measures: Measures | None = None
) -> tuple[Finding, ...]:
    """The findings of a run, in the order of its lines.

    earlier   runs of the same engine that began before, oldest first
    spell     text of a token; None: of the record, once it has ended
    measures  None: no cost is measured, and nothing is asked of an engine
    """
    before: list[Seen] = []
    n_read = 0
    for one in reversed(earlier[-MAX_EARLIER:]):
        n_read += len(one.entries)
        if n_read > MAX_ENTRIES:
            break
        before.append(seen(one, spell))
    case = Case(seen(record, spell), Source(record.source), tuple(before), measures)
    found = [finding for rule in RULES for finding in rule(case)]
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: finding.line))
