"""Reads Python's `re` into a tree.

Python's own parser reads the pattern, so errors and their positions are Python's. A class contains
the characters for which `re` itself finds a match.
"""

from __future__ import annotations

import _sre  # type: ignore[import-not-found]  # the part of re that is written in C
import re
import re._constants as sre
import re._parser as parser
import sys
from array import array
from collections.abc import Iterable
from functools import lru_cache
from re._casefix import _EXTRA_CASES

from ..errors import BackendUnsupported, BadArgument
from .programs import Parsed, Part
from .tree import (
    ALL,
    END,
    START,
    Node,
    Pattern,
    Ranges,
    Text,
    Unsupported,
    but,
    in_turn,
    is_nothing,
    one_character,
    one_of,
    ranges,
    repeated,
    whole,
)

MAX_PARTS = 20_000
_KINDS = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
}
_ANCHORS = {sre.AT_BEGINNING: START, sre.AT_BEGINNING_STRING: START, sre.AT_END: END, sre.AT_END_STRING: END}


def read(pattern: str) -> Node:
    """The texts that `re.fullmatch` accepts. BadArgument with the position of an error;
    BackendUnsupported for syntax that generation cannot follow.
    """
    short = repr(pattern if len(pattern) <= 60 else pattern[:59] + "…")
    n_parts = sum(map(pattern.count, "([{*+?"))
    if n_parts > MAX_PARTS:
        raise BadArgument(f"regex {short} is too large: it has {n_parts} groups, classes and repeats", hint=f"at most {MAX_PARTS}")
    for match in _PARTS.finditer(pattern):
        if match.lastgroup:
            part = f"{match.lastgroup.replace('_', ' ')} at position {match.start()}"
            raise BackendUnsupported(f"regex {short} has {_REFUSED[match.lastgroup][0]}: the {part} is not supported", hint=_HINT)
    try:
        found = parser.parse(pattern)
    except re.error as error:
        raise BadArgument(f"regex {short} is not a regular expression: {error}") from None
    except (OverflowError, RecursionError) as error:
        raise BadArgument(f"regex {short} is too large: {error}") from None
    try:
        tree = whole(_sequence(found, found.state.flags))
    except Unsupported as error:
        raise BackendUnsupported(f"regex {short} has {error}, which is not supported", hint=_HINT) from None
    except RecursionError:
        raise BadArgument(f"regex {short} is nested too deeply, or too large") from None
    if is_nothing(tree):
        raise BadArgument(f"no text can satisfy the regex {short}")
    return tree


_HINT = "write the alternatives out"
_REFUSED = {
    "lookaround": ("a lookahead or lookbehind", r"\(\?<?[=!]"),
    "conditional": ("a conditional group", r"\(\?\("),
    "atomic_group": ("an atomic group", r"\(\?>"),
    "backreference": ("a backreference", r"\\(?![0-7]{3})[1-9]|\(\?P="),
    "word_boundary": ("an anchor inside the text", r"\\[bB]"),
    "possessive_quantifier": ("a possessive repeat", r"(?:[*+?]|\{(?:[0-9]+(?:,[0-9]*)?|,[0-9]*)\})\+"),
}
_PARTS = re.compile(
    r"[^\\(\[*+?{]+|\[\^?\]?(?:\\.|[^\]\\])*\]|" + "|".join(f"(?P<{name}>{part})" for name, (_, part) in _REFUSED.items()) + r"|\\.|.",
    re.DOTALL,
)
"""the parts of a pattern: plain characters, a class, one of the above, an escape, anything else.
The parser does not report their positions
"""


def _sequence(items: Iterable[Part], flags: int) -> Pattern:
    return in_turn(_pieces(items, flags))


def _pieces(items: Iterable[Part], flags: int) -> Iterable[Pattern]:
    is_exact = not flags & re.IGNORECASE
    letters: list[str] = []
    for op, value in items:
        if op is sre.LITERAL and is_exact and not 0xD800 <= value < 0xE000:
            letters.append(chr(value))
            continue
        if letters:
            yield Text("".join(letters))
            letters.clear()
        yield _piece(op, value, flags)
    if letters:
        yield Text("".join(letters))


def _piece(op: object, value: Parsed, flags: int) -> Pattern:
    match op:
        case sre.LITERAL if 0xD800 <= value < 0xE000:
            raise Unsupported("half a surrogate pair")
        case sre.LITERAL:
            return _class([(op, value)], flags)
        case sre.NOT_LITERAL:
            return _class([(sre.NEGATE, None), (sre.LITERAL, value)], flags)
        case sre.ANY:
            return one_character(ALL if flags & re.DOTALL else but(((10, 10),)))
        case sre.IN:
            return _class(value, flags)
        case sre.BRANCH:
            return one_of(_sequence(branch, flags) for branch in value[1])
        case sre.SUBPATTERN:
            _, added, removed, inner = value
            return _sequence(inner, (flags | added) & ~removed)
        case sre.MAX_REPEAT | sre.MIN_REPEAT:  # equal texts, whichever is tried first
            least, most, inner = value
            return repeated(_sequence(inner, flags), least, None if most is sre.MAXREPEAT else most)
        case sre.AT if value in _ANCHORS:
            if flags & re.MULTILINE and value in (sre.AT_BEGINNING, sre.AT_END):
                raise Unsupported("an anchor under (?m)")
            return _ANCHORS[value]
        case sre.AT:
            raise Unsupported("a word boundary")
    raise Unsupported(f"{op}")


def _class(items: list[Part], flags: int) -> Node:
    is_negated = items[0][0] is sre.NEGATE
    pairs, kinds = [], []
    for op, value in items[is_negated:]:
        if op is sre.CATEGORY:
            kinds.append(_KINDS[value])
        else:
            pairs.append(value if op is sre.RANGE else (value, value))
    n_characters = sum(high - low + 1 for low, high in pairs)
    if not kinds and flags & re.IGNORECASE and not flags & re.ASCII and n_characters < 2_000:
        found = ranges((code, code) for low, high in pairs for each in range(low, high + 1) for code in _cases(each))
    elif kinds or flags & re.IGNORECASE:
        spelled = "".join(sorted(kinds)) + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in sorted(pairs))
        found = _found_in(f"[{spelled}]", flags & (re.IGNORECASE | re.ASCII))
    else:
        found = ranges(pairs)
    return one_character(but(found) if is_negated else found)


@lru_cache(256)
def _found_in(of_class: str, flags: int) -> Ranges:
    """Every character that Python finds in it."""
    runs = re.finditer(f"{of_class}+", _every_character(), flags)
    return ranges((ord(run[0][0]), ord(run[0][-1])) for run in runs)


def _cases(code: int) -> Iterable[int]:
    """The characters that are equal to this one when case is ignored."""
    lower = _sre.unicode_tolower(code)
    return (each for one in (lower, *_EXTRA_CASES.get(lower, ())) for each in (one, *_with_lower().get(one, ())))


@lru_cache(1)
def _with_lower() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for code in range(0x20000):  # no letter beyond has a case
        if (lower := _sre.unicode_tolower(code)) != code:
            found.setdefault(lower, []).append(code)
    return found


@lru_cache(1)
def _every_character() -> str:
    return "".join(array("I", range(low, high + 1)).tobytes().decode(f"utf-32-{sys.byteorder[0]}e") for low, high in ALL)
