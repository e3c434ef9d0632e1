"""Finds the line of a cell that a changed text comes from: first among the edited lines, then among
the lines that contain the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

_MARKUP = re.compile(r"<\|[^|<>\s]{1,40}\|>(?:(?:user|assistant|system|tool)\b)?")
MIN_MATCH = 3
"""characters that a line and a text must share in one run"""
MAX_LINES = 600
MAX_LINE = 4_000
"""characters of context"""


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    """1-based; the line of `%%sgl` is the first"""
    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A line now and before. One side is None if the line was inserted or removed.

    If both sides are equal, the line was not edited: a value in it changed.
    """

    new: Line | None
    old: Line | None

    @property
    def is_value(self) -> bool:
        return self.new is not None and self.old is not None and self.new.text == self.old.text


def find_edit(old_source: str | None, new_source: str, before: str, old: str, new: str, after: str) -> Edit | None:
    """The line that put `new` where `old` was, between `before` and `after`. None if no line looks
    like it.
    """
    now = _lines(new_source)
    was = _lines(old_source) if old_source is not None else now
    here = before[-40:] + new[:80] + after[:40]
    there = before[-40:] + old[:80] + after[:40]
    edits = []
    for name, i, i_end, j, j_end in SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        for n in range(max(i_end - i, j_end - j) if name != "equal" else 0):
            line = Line(j + n + 1, now[j + n]) if j + n < j_end else None
            line_before = Line(i + n + 1, was[i + n]) if i + n < i_end else None
            pairs = [(line, new, here), (line_before, old, there)]
            if line_before is not None and not _brought(line_before, old, line):
                line_before = None
            if (score := sum(_match(one.text, text, around) for one, text, around in pairs if one is not None)) >= MIN_MATCH:
                edits.append((score, -n - j, Edit(line, line_before)))
    if edits:
        return max(edits, key=lambda edit: edit[:2])[2]
    stands_in = [(_common(text, before[-40:]) + _common(text, after[:40]), -n, Line(n, text)) for n, text in enumerate(now, 1)]
    score, _, found = max(stands_in, key=lambda row: row[:2])
    same = next((Line(n, text) for n, text in enumerate(was, 1) if text == found.text), None)
    return Edit(found, same) if score >= MIN_MATCH else None


def line_with(source: str, text: str) -> Line | None:
    """The line of `source` that contains most of the beginning of `text`; None if none contains any
    of it.
    """
    wanted = _MARKUP.sub("", text)[:80].strip()
    scored = [(_common(line, wanted), -n, Line(n, line)) for n, line in enumerate(_lines(source), 1)]
    best = max(scored, key=lambda row: row[:2])
    return best[2] if best[0] >= MIN_MATCH else None


def options_edit(old_source: str, new_source: str) -> Edit | None:
    """The first lines of both sources, if they differ."""
    (was, *_), (now, *_) = old_source.split("\n"), new_source.split("\n")
    return Edit(Line(1, now[:MAX_LINE]), Line(1, was[:MAX_LINE])) if was != now else None


def _brought(line: Line, text: str, other: Line | None) -> bool:
    """Whether `text` can come from `line`: the line contains a good part of its beginning, or is an
    edited version of `other`.
    """
    wanted = text[:80].strip()
    if not wanted or _common(line.text, wanted) >= min(len(wanted), 8):
        return True
    return other is not None and SequenceMatcher(None, line.text, other.text, autojunk=False).ratio() > 0.6


def _lines(source: str) -> list[str]:
    return [line[:MAX_LINE] for line in source.split("\n")[:MAX_LINES]]


def _match(line: str, text: str, around: str) -> int:
    """A score for how well a line fits a text and its surroundings: the length of their longest
    common run, where the text itself counts double.
    """
    return _common(line, around) + 2 * _common(line, text[:80].strip()) * bool(text.strip())


def _common(line: str, text: str) -> int:
    """Length of the longest run of characters that both have."""
    return SequenceMatcher(None, line, text, autojunk=False).find_longest_match().size if line and text else 0
