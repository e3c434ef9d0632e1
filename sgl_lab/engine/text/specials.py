"""Special tokens in a rendered chat, and the text between them.

A tokenizer splits a text at its special tokens and encodes each stretch in between as a whole. Here
only the template's markup can spell a special token. Markup and content without a special token in
between are one stretch.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...contracts.port import Segment
from ...contracts.prefixes import n_common


@dataclass(frozen=True, slots=True)
class Prefix:
    """The rule by which a tokenizer puts a space before a text."""

    every: bool
    """after each special token too, not only at the very start"""
    doubled: bool
    """also if the text begins with a space"""

    def before(self, text: str) -> str:
        return " " + text if text and (self.doubled or not text.startswith((" ", "▁"))) else text


class Special(NamedTuple):
    """A special token. It may absorb the white space on one side, which then belongs to no token."""

    id: int
    takes_left: bool = False
    takes_right: bool = False


class Run(NamedTuple):
    """A special token, or a stretch of text."""

    text: str
    id: int | None


class Specials:
    def __init__(self, specials: Mapping[str, Special]) -> None:
        self._specials = {text: special for text, special in specials.items() if text}
        longest_first = sorted(self._specials, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def named(self, text: str) -> Special:
        return self._specials[text]

    def runs(self, segments: Iterable[Segment]) -> Iterator[Run]:
        """A stretch that is encoded by itself."""
        stretch = ""
        for text, markup in joined(segments):
            at = 0
            for found in self.pattern.finditer(text) if markup else ():
                if stretch := stretch + text[at : found.start()]:
                    yield Run(stretch, None)
                yield Run(found[0], self._specials[found[0]].id)
                stretch, at = "", found.end()
            stretch += text[at:]
        if stretch:
            yield Run(stretch, None)

    def settled(self, segments: Sequence[Segment], prefix: Prefix | None, earlier: Settled | None = None) -> Settled:
        """The segments as the tokenizer takes them: without the space that special tokens swallow,
        and with the space that it puts before a stretch, so that they say what their tokens say.
        What `earlier` has in common with them is not read again.
        """
        reader = _Reader(self, prefix, segments, earlier)
        reader.read()
        return reader.settled()


class _Mark(NamedTuple):
    """Where one may go on reading: after a content."""

    n_given: int
    n_apart: int
    n_joined: int
    is_due: bool
    """a space is put before a stretch that comes next"""
    takes: bool
    """white space that comes next is swallowed"""


class Settled(NamedTuple):
    given: Sequence[Segment]
    segments: tuple[Segment, ...]
    apart: list[Segment]
    """the same with each special token by itself"""
    marks: list[_Mark]


class _Reader:
    def __init__(self, specials: Specials, prefix: Prefix | None, given: Sequence[Segment], earlier: Settled | None) -> None:
        self._specials = specials
        self._prefix = prefix
        self._given = given
        n_same = n_common(earlier.given, given) if earlier else 0
        self._marks = earlier.marks[: bisect_right(earlier.marks, n_same, key=lambda mark: mark.n_given)] if earlier else []
        self._n_known = len(self._marks)
        self._known = earlier.segments if earlier else ()
        self._start = self._marks[-1] if self._marks else _Mark(0, 0, 0, prefix is not None, False)
        self._apart = earlier.apart[: self._start.n_apart] if earlier else []
        self._is_due, self._takes = self._start.is_due, self._start.takes

    def read(self) -> None:
        markup, first = "", self._start.n_given
        for n_given, segment in enumerate(self._given[first:], first + 1):
            if segment.markup:
                markup += segment.text
                continue
            self._take(markup, True)
            markup = ""
            self._take(segment.text, False)
            if self._apart and not self._apart[-1].markup:
                self._marks.append(_Mark(n_given, len(self._apart), 0, self._is_due, self._takes))
        self._take(markup, True)

    def _take(self, text: str, markup: bool) -> None:
        at, prefix, pattern = 0, self._prefix, self._specials.pattern
        matches = pattern.finditer(text) if markup else ()
        for end, found in [*((match.start(), match) for match in matches), (len(text), None)]:
            stretch = text[at:end].lstrip() if self._takes else text[at:end]
            if stretch:
                if prefix is not None and self._is_due and prefix.before(stretch) != stretch:
                    self._apart.append(Segment(" ", True))
                self._apart.append(Segment(stretch, markup))
                self._is_due = self._takes = False
            if found is None:
                break
            special = self._specials.named(found[0])
            if special.takes_left:
                self._strip_end()
            self._apart.append(Segment(found[0], True))
            self._is_due, self._takes, at = prefix is not None and prefix.every, special.takes_right, found.end()

    def _strip_end(self) -> None:
        """Remove white space from the end, back to the last special token."""
        apart, pattern = self._apart, self._specials.pattern
        while apart and not (apart[-1].markup and pattern.fullmatch(apart[-1].text)):
            text, markup = apart[-1]
            stripped = text.rstrip()
            if stripped == text:
                break
            apart.pop()
            while self._marks and self._marks[-1].n_apart > len(apart):
                self._marks.pop()
                self._n_known = min(self._n_known, len(self._marks))
            if stripped:
                apart.append(Segment(stripped, markup))
                break

    def settled(self) -> Settled:
        marks = self._marks[: self._n_known]
        whole = list(self._known[: marks[-1].n_joined]) if marks else []
        n_done = marks[-1].n_apart if marks else 0
        for mark in self._marks[self._n_known :]:
            whole += joined(self._apart[n_done : mark.n_apart])
            n_done = mark.n_apart
            marks.append(mark._replace(n_joined=len(whole)))
        whole += joined(self._apart[n_done:])
        return Settled(self._given, tuple(whole), self._apart, marks)


def joined(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Neighbouring markup as one segment: a special token is found wherever it was cut."""
    markup = ""
    for segment in segments:
        if segment.markup:
            markup += segment.text
            continue
        if markup:
            yield Segment(markup, True)
            markup = ""
        if segment.text:
            yield segment
    if markup:
        yield Segment(markup, True)
