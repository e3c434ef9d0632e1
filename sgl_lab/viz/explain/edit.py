"""Which line of a cell a changed text comes from: the lines that were edited first, then the one that the text stands in."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

MIN_MATCH = 3
"""characters that a line and the text must have in common, in one run"""
MAX_LINES = 600
MAX_LINE = 4_000
"""characters"""


@dataclass(frozen=True, slots=True)
class Edit:
    """A line of the cell; `old` is how it read before, None where it was not edited: then a value in it changed."""

    line: int
    new: str
    old: str | None = None


def find_edit(old_source: str | None, new_source: str, before: str, old: str, new: str, after: str) -> Edit | None:
    """The line that brought `new` where `old` stood between `before` and `after`; None if no line looks like it."""
    now = _lines(new_source)
    was = _lines(old_source) if old_source is not None else now
    here = before[-40:] + new[:80] + after[:40]
    there = before[-40:] + old[:80] + after[:40]
    edits = []
    for name, i, i_end, j, j_end in SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        for n in range(max(i_end - i, j_end - j) if name != "equal" else 0):
            line = now[j + n] if j + n < j_end else ""
            line_before = was[i + n] if i + n < i_end else ""
            score = _match(line, here) * bool(line) + _match(line_before, there) * bool(line_before)
            number = j + n + 1 if j + n < j_end else j_end + 1
            edits.append((score, -number, Edit(number, line, line_before)))
    if edits and (best := max(edits, key=lambda edit: edit[:2]))[0] >= MIN_MATCH:
        return best[2]
    stands_in = [(_match(line, before[-40:]) + _match(line, after[:40]), -n, Edit(n, line)) for n, line in enumerate(now, 1)]
    found = max(stands_in, key=lambda edit: edit[:2])
    return found[2] if found[0] >= MIN_MATCH else None


def _lines(source: str) -> list[str]:
    return [line[:MAX_LINE] for line in source.split("\n")[:MAX_LINES]]


def _match(line: str, text: str) -> int:
    """Length of the longest run of characters that both have."""
    return SequenceMatcher(None, line, text, autojunk=False).find_longest_match().size if line and text else 0
