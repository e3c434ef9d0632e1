"""A regular expression of Python's `re` in the dialect of the grammar library, so that what is generated is what `re.fullmatch` takes.

Python's own parser reads it, so errors and their positions are Python's. Positive classes (`\\d`, `\\w`, `\\s`) are cut
down to ASCII, as with `re.ASCII`: the two sides disagree about rare characters beyond.
"""

from __future__ import annotations

import re
import re._constants as sre
import re._parser as parser
from collections.abc import Iterable
from typing import Any

from ...contracts.errors import BackendUnsupported, BadArgument

_NARROW = {sre.CATEGORY_DIGIT: "0-9", sre.CATEGORY_WORD: "0-9A-Za-z_", sre.CATEGORY_SPACE: r"\t-\r\x20"}
"""What belongs to a class under either reading, and below what does under one of them."""
_WIDE = {sre.CATEGORY_DIGIT: r"\p{Nd}", sre.CATEGORY_WORD: r"\w\p{N}", sre.CATEGORY_SPACE: r"\s\x1c-\x1f\x85"}
_NEGATED = {
    sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT,
    sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
    sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
}
_NAMES = {
    sre.ASSERT: "a lookahead or lookbehind",
    sre.ASSERT_NOT: "a negative lookahead or lookbehind",
    sre.GROUPREF: "a backreference",
    sre.GROUPREF_EXISTS: "a conditional group",
    sre.ATOMIC_GROUP: "an atomic group",
    sre.POSSESSIVE_REPEAT: "a possessive repeat",
    sre.AT: "an anchor that is not at the end",
}


def lowered(pattern: str) -> str:
    """The same language in the library's dialect. BadArgument with the position, BackendUnsupported with what is not known there."""
    try:
        tree = parser.parse(pattern)
    except re.error as error:
        raise BadArgument(f"regex {_short(pattern)} is not a regular expression: {error}") from None
    except OverflowError as error:
        raise BadArgument(f"regex {_short(pattern)} is too large: {error}") from None
    items = list(tree)
    while items and items[0] in _STARTS:
        del items[0]
    while items and items[-1] in _ENDS:
        del items[-1]
    try:
        return _sequence(items, tree.state.flags)
    except KeyError as error:
        what = _NAMES.get(error.args[0], f"{error.args[0]}")
        raise BackendUnsupported(f"regex {_short(pattern)} has {what}, which cannot be obeyed", hint="write it without") from None


_STARTS = ((sre.AT, sre.AT_BEGINNING), (sre.AT, sre.AT_BEGINNING_STRING))
_ENDS = ((sre.AT, sre.AT_END), (sre.AT, sre.AT_END_STRING))


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 60 else pattern[:59] + "…")


def _sequence(items: Iterable[tuple[Any, Any]], flags: int) -> str:
    return "".join(_piece(op, value, flags) for op, value in items)


def _piece(op: Any, value: Any, flags: int) -> str:
    match op:
        case sre.LITERAL:
            return _cased(_character(value), flags)
        case sre.NOT_LITERAL:
            return _cased(f"[^{_character(value)}]", flags)
        case sre.ANY:
            return r"(?s:.)" if flags & re.DOTALL else r"[^\n]"
        case sre.IN:
            return _cased(_class(value), flags)
        case sre.BRANCH:
            return f"(?:{'|'.join(_sequence(branch, flags) for branch in value[1])})"
        case sre.SUBPATTERN:
            _, added, removed, inner = value
            return f"(?:{_sequence(inner, (flags | added) & ~removed)})"
        case sre.MAX_REPEAT | sre.MIN_REPEAT:  # the same texts, whichever is tried first
            least, most, inner = value
            bound = "" if most is sre.MAXREPEAT else most
            return f"(?:{_sequence(inner, flags)}){{{least},{bound}}}"
    raise KeyError(op)


def _class(items: list[tuple[Any, Any]]) -> str:
    is_negated = items[0][0] is sre.NEGATE
    parts = []
    for op, value in items[is_negated:]:
        if op is sre.LITERAL:
            parts.append(_character(value))
        elif op is sre.RANGE:
            parts.append(f"{_character(value[0])}-{_character(value[1])}")
        elif value in _NEGATED:
            parts.append(f"[^{(_NARROW if is_negated else _WIDE)[_NEGATED[value]]}]")
        else:
            parts.append((_WIDE if is_negated else _NARROW)[value])
    return f"[{'^' if is_negated else ''}{''.join(parts)}]"


def _character(code: int) -> str:
    if 0xD800 <= code < 0xE000:
        raise KeyError("half a surrogate pair")
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:x}}}"


def _cased(piece: str, flags: int) -> str:
    return f"(?i:{piece})" if flags & re.IGNORECASE else piece
