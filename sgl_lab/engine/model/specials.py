"""Special tokens in a rendered chat, and what stands between them.

A tokenizer cuts a text at its special tokens and encodes what is between them, each stretch as a whole. Here only
the template's markup can spell a special token; markup and content that no special token parts are one stretch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...contracts.port import Segment


@dataclass(frozen=True, slots=True)
class Prefix:
    """The rule by which a tokenizer puts a space before a text."""

    every: bool
    """after each special token too, not only at the very start"""
    doubled: bool
    """also where the text begins with a space"""

    def before(self, text: str) -> str:
        return " " + text if text and (self.doubled or not text.startswith((" ", "▁"))) else text


class Special(NamedTuple):
    """A special token. It may take the white space on a side of it, which is then in no token."""

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

    def runs(self, segments: Iterable[Segment]) -> Iterator[Run]:
        """What is encoded by itself."""
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

    def settled(self, segments: Sequence[Segment], prefix: Prefix | None) -> tuple[Segment, ...]:
        """The segments as the tokenizer takes them: without the space that special tokens swallow, and with the space that it puts
        before a stretch, so that they say what their tokens say."""
        result: list[Segment] = []
        is_due, takes = prefix is not None, False
        for text, markup in joined(segments):
            at = 0
            matches = self.pattern.finditer(text) if markup else ()
            for end, found in [*((match.start(), match) for match in matches), (len(text), None)]:
                stretch = text[at:end].lstrip() if takes else text[at:end]
                if stretch:
                    if prefix is not None and is_due and prefix.before(stretch) != stretch:
                        result.append(Segment(" ", True))
                    result.append(Segment(stretch, markup))
                    is_due = takes = False
                if found is None:
                    break
                special = self._specials[found[0]]
                if special.takes_left:
                    _strip_end(result, self.pattern)
                result.append(Segment(found[0], True))
                is_due, takes, at = prefix is not None and prefix.every, special.takes_right, found.end()
        return tuple(joined(result))


def _strip_end(segments: list[Segment], special: re.Pattern[str]) -> None:
    """Take white space away from the end, as far as the last special token."""
    while segments and not (segments[-1].markup and special.fullmatch(segments[-1].text)):
        text, markup = segments.pop()
        if stripped := text.rstrip():
            segments.append(Segment(stripped, markup))
            return


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
