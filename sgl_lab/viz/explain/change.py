"""A change of a text: where it begins and ends, and what kind of change it looks like."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .edit import Edit
from .history import Origin, Tokens, grams

RESYNC = 3
"""number of equal tokens that ends a change"""
MAX_STRETCH = 48
"""tokens of a change that are shown"""


@dataclass(frozen=True, slots=True)
class Change:
    """The first tokens that differ, up to where both texts are equal again."""

    at: int
    """position of the first differing token"""
    before: Tokens
    new_token: int
    old_token: int
    """the first differing tokens; `new` or `old` is empty after a pure deletion or insertion"""
    old: Tokens
    new: Tokens
    after: Tokens
    """tokens after the change in both texts; empty if they never become equal again"""
    what: str
    """the kind of change: time, number, case, space, inserted, removed, text; same text (in other
    tokens), markup, template; model (it generated a different text), answer (literal text replaces
    a generated one), choice
    """
    edit: Edit | None = None


def stretch(new: Tokens, old: Tokens) -> tuple[int, int]:
    """How many tokens differ on either side until the texts are equal again; all of them if they
    never are.
    """
    where: dict[Tokens, int] = {}
    for position, gram in enumerate(grams(old[: 8 * MAX_STRETCH], RESYNC)):
        where.setdefault(gram, position)
    meeting = [(position, where[gram]) for position, gram in enumerate(grams(new[: 8 * MAX_STRETCH], RESYNC)) if gram in where]
    return min(meeting, key=sum, default=(len(new), len(old)))


_TIME = re.compile(r"\d{1,2}:\d{2}|\d{4}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\b(19|20)\d{2}\b|\d{9,}")
_NUMBER = re.compile(r"\d|\b[0-9a-f]{6,}\b")
_MARKUP = re.compile(r"<\|[^|<>\s]{1,40}\|>")


def kind_of(origin: Origin, was: Origin, before: str, old: str, new: str, after: str) -> str:
    """The kind of change that this looks like; see `Change.what`."""
    if origin.kind == "choice" or (was.kind == "choice" and origin.kind != "text"):
        return "choice"
    if origin.kind == "generated":
        return "model"
    if old == new or (min(len(old), len(new)) > 0 and (old.startswith(new) or new.startswith(old)) and not after and was.kind == "text"):
        return "same text"
    if was.kind == "generated":
        return "answer"
    if _MARKUP.match(new + after) or _MARKUP.match(old) or before.endswith("<|im_start|>"):
        return "markup"
    word_before, word_after = re.split(r"\s", before)[-1], re.split(r"\s", after)[0]
    words = [f"{word_before}{text}{word_after}" for text in (old, new)]
    if all(map(_TIME.search, words)):
        return "time"
    if all(map(_NUMBER.search, (old, new))):
        return "number"
    if old.casefold() == new.casefold():
        return "case"
    if "".join(old.split()) == "".join(new.split()):
        return "space"
    if not old or (len(new) > len(old) and new.endswith(old) and old.strip()):
        return "inserted"
    if not new or (len(old) > len(new) and old.endswith(new) and new.strip()):
        return "removed"
    return "text"
