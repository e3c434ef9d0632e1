"""Reads patterns of JSON schemas into a tree: ECMA-262 with the `u` flag, as the standard requires,
matched anywhere in a text.

`\\d` and `\\w` are ASCII, `.` excludes line ends, and `\\p{Lu}` is a general category of Unicode as
this Python knows it. Syntax that ECMA-262 does not have (`\\z`, `[[:alpha:]]`, `(?P<name>`) is
refused. So is syntax that generation cannot follow: lookaround and back references.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from .machine import Machine
from .tree import (
    ALL,
    END,
    START,
    Chars,
    Choice,
    Node,
    Pattern,
    Ranges,
    Text,
    Unsupported,
    but,
    common,
    for_python,
    in_turn,
    one_character,
    one_of,
    ranges,
    repeated,
    somewhere,
    written,
)

MAX_REPEAT = 1_000
MAX_DEPTH = 100
MAX_STATES = 10_000
DIGITS: Ranges = ((48, 57),)
WORD: Ranges = ranges([(48, 57), (65, 90), (95, 95), (97, 122)])
SPACE: Ranges = ranges((ord(character), ord(character)) for character in "\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff")
SPACE = ranges([*SPACE, (0x2000, 0x200A)])
LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))
_OTHER_DIALECTS: dict[str, tuple[Ranges, Ranges]] = {
    "d": (((128, 0x10FFFF),), ()),
    "w": (((128, 0x10FFFF),), ()),
    "s": (((0x1C, 0x1F), (0x85, 0x85)), ((0xFEFF, 0xFEFF),)),
}
"""syntax that other dialects allow in a class, and that is refused here"""
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_SYNTAX = "^$\\.*+?()[]{}|/"


class Wrong(ValueError):
    """The pattern is not valid ECMA-262; the message says why and where."""


@lru_cache(256)
def read(pattern: str) -> Node:
    """The texts that contain a match. Raises Wrong or Unsupported, both ValueErrors, with the part
    that cannot be followed.
    """
    return somewhere(_Reader(pattern).read())


@lru_cache(256)
def in_python(pattern: str) -> str:
    """An equivalent pattern for `re.search`."""
    return rf"\A(?:{for_python(read(pattern))})\Z"


@lru_cache(64)
def _machine(pattern: str) -> Machine:
    return Machine(read(pattern), {}, lambda text: [*range(len(text), -1, -1)], MAX_STATES)


def matches(pattern: str, text: str) -> bool:
    """Whether the text contains a match, in time proportional to the text."""
    machine = _machine(pattern)
    place = machine.start
    for character in text:
        place = machine.step(place, character)
        if not place:
            return False
    return machine.may_end(place)


@lru_cache(256)
def in_every_dialect(pattern: str) -> str:
    """An equivalent pattern for every dialect. Classes that other dialects extend to Unicode are
    written out.
    """
    return rf"^(?:{written(somewhere(_Reader(pattern, narrow=True).read()), _escaped)})$"


def _escaped(code: int) -> str:
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\u{code:04x}" if code < 0x10000 else chr(code)


class _Reader:
    def __init__(self, pattern: str, *, narrow: bool = False) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0
        self._narrow = narrow
        self._inverse = False
        """whether the reader is inside `[^...]`, where classes are widened so that the complement
        is narrow
        """

    def read(self) -> Pattern:
        found = self._choice()
        if self._at < len(self._pattern):
            raise Wrong(self._at_position("unmatched )"))
        return found

    def _at_position(self, what: str, at: int | None = None) -> str:
        return f"{what} at position {self._at if at is None else at} of {self._pattern!r:.80}"

    def _wrong(self, what: str, at: int | None = None) -> Wrong:
        return Wrong(self._at_position(what, at))

    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _takes(self, text: str) -> bool:
        if self._pattern.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _matched(self, pattern: str) -> re.Match[str] | None:
        found = re.compile(pattern).match(self._pattern, self._at)
        if found:
            self._at = found.end()
        return found

    def _choice(self) -> Pattern:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unsupported(f"groups nested deeper than {MAX_DEPTH}")
        found = [self._chain()]
        while self._takes("|"):
            found.append(self._chain())
        self._depth -= 1
        return one_of(found) if len(found) > 1 else found[0]

    def _chain(self) -> Pattern:
        found: list[Pattern] = []
        while self._next() not in ("", "|", ")"):
            found.append(self._term())
        return in_turn(found)

    def _term(self) -> Pattern:
        if self._takes("^"):
            return START
        if self._takes("$"):
            return END
        found = self._atom()
        at = self._at
        if self._takes("*"):
            fewest, most = 0, None
        elif self._takes("+"):
            fewest, most = 1, None
        elif self._takes("?"):
            fewest, most = 0, 1
        elif bounds := self._matched(r"\{([0-9]+)(,([0-9]*))?\}"):
            fewest = int(bounds[1])
            most = fewest if bounds[2] is None else int(bounds[3]) if bounds[3] else None
            if most is not None and most < fewest:
                raise self._wrong("a repeat whose bounds are crossed", at)
            if max(fewest, most or 0) > MAX_REPEAT:
                raise Unsupported(f"more than {MAX_REPEAT} repeats at position {at}")
        else:
            return found
        self._takes("?")
        return repeated(found, fewest, most)

    def _atom(self) -> Pattern:
        at, character = self._at, self._next()
        if self._takes("("):
            return self._group(at)
        if character == "[":
            return one_character(self._class())
        if self._takes("."):
            return Chars(but(LINE_ENDS))
        if character == "\\":
            return self._escape()
        if character in "*+?":
            raise self._wrong(f"nothing to repeat before {character}")
        if character in "{}]":
            raise self._wrong(f"{character} has to be escaped")
        self._at += 1
        return _character(ord(character))

    def _group(self, at: int) -> Pattern:
        if self._takes("?"):
            if self._matched(r"<?[=!]"):
                raise Unsupported(self._at_position("look-around", at))
            if not self._matched(r":|<[A-Za-z_$][\w$]*>"):
                hint = "; ECMA-262 writes (?<name>...)" if self._next() == "P" else ""
                raise self._wrong(f"(?{self._pattern[self._at : self._at + 2]}... is not known to ECMA-262{hint}", at)
        found = self._choice()
        if not self._takes(")"):
            raise self._wrong("missing ) for the (", at)
        return found

    def _escape(self) -> Node:
        at = self._at
        if (found := self._kind()) is not None:
            return one_character(found)
        following = self._pattern[at + 1 : at + 2]
        if following in ("b", "B"):
            raise Unsupported(self._at_position("a word boundary", at))
        if following == "k" or following in tuple("123456789"):
            raise Unsupported(self._at_position("a back reference", at))
        return _character(self._code())

    def _kind(self) -> Ranges | None:
        at = self._at
        if found := self._matched(r"\\[dDwWsS]"):
            return self._shorthand(found[0][1])
        if found := self._matched(r"\\([pP])\{([^}]*)\}"):
            of = _property(found[2])
            if of is None:
                known = "only general categories as \\p{Lu}, \\p{Any} and \\p{ASCII} are known"
                raise Unsupported(f"\\p{{{found[2]}}} at position {at}: {known}")
            return of if found[1] == "p" else but(of)
        return None

    def _shorthand(self, letter: str) -> Ranges:
        found = {"d": DIGITS, "w": WORD, "s": SPACE}[letter.lower()]
        if self._narrow:
            is_wide = letter.islower() == self._inverse
            wide, narrow = _OTHER_DIALECTS[letter.lower()]
            found = ranges([*found, *wide]) if is_wide else common(found, but(narrow))
        return found if letter.islower() else but(found)

    def _code(self) -> int:
        """The code point of an escaped character."""
        at = self._at
        if found := self._matched(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"):
            return 0x10000 + ((int(found[1], 16) - 0xD800) << 10) + int(found[2], 16) - 0xDC00
        if found := self._matched(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\u\{([0-9a-fA-F]+)\}"):
            code = int(found[1] or found[2] or found[3], 16)
            if code > 0x10FFFF:
                raise self._wrong("a code point beyond Unicode", at)
            return code
        if found := self._matched(r"\\c([A-Za-z])"):
            return ord(found[1]) % 32
        if self._matched(r"\\0(?![0-9])"):
            return 0
        following = self._pattern[at + 1 : at + 2]
        if following in _CONTROLS and following:
            self._at += 2
            return _CONTROLS[following]
        if following and (following in _SYNTAX or (following.isascii() and not following.isalnum())):
            self._at += 2
            return ord(following)
        hint = {"z": "; it ends a text with $", "Z": "; it ends a text with $", "A": "; it begins a text with ^"}.get(following, "")
        raise self._wrong(f"\\{following} is not known to ECMA-262{hint}", at)

    def _class(self) -> Ranges:
        start = self._at
        self._at += 1
        is_negated = self._inverse = self._takes("^")
        found: list[tuple[int, int]] = []
        while not self._takes("]"):
            if not self._next():
                raise self._wrong("missing ] for the [", start)
            if self._pattern.startswith("[:", self._at):
                raise self._wrong("[:...:] is not known to ECMA-262")
            at = self._at
            low = self._member()
            if not (self._next() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", "")):
                found += low
                continue
            self._at += 1
            high = self._member()
            if any(len(each) != 1 or each[0][0] != each[0][1] for each in (low, high)) or low[0][0] > high[0][0]:
                raise self._wrong("a range that is none", at)
            found.append((low[0][0], high[0][0]))
        self._inverse = False
        return but(ranges(found)) if is_negated else ranges(found)

    def _member(self) -> Ranges:
        if self._next() == "\\":
            if (found := self._kind()) is not None:
                return found
            if self._takes(r"\b"):
                return ((8, 8),)
            code = self._code()
        else:
            code = ord(self._next())
            self._at += 1
        return ((code, code),)


def _character(code: int) -> Node:
    return Choice() if 0xD800 <= code < 0xE000 else Text(chr(code))


_LONG = {
    "Letter": "L", "Cased_Letter": "LC", "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll", "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm", "Other_Letter": "Lo", "Mark": "M", "Nonspacing_Mark": "Mn", "Spacing_Mark": "Mc",
    "Enclosing_Mark": "Me", "Number": "N", "Decimal_Number": "Nd", "Letter_Number": "Nl", "Other_Number": "No",
    "Punctuation": "P", "punct": "P", "digit": "Nd", "Connector_Punctuation": "Pc", "Dash_Punctuation": "Pd",
    "Open_Punctuation": "Ps", "Close_Punctuation": "Pe", "Initial_Punctuation": "Pi", "Final_Punctuation": "Pf",
    "Other_Punctuation": "Po", "Symbol": "S", "Math_Symbol": "Sm", "Currency_Symbol": "Sc", "Modifier_Symbol": "Sk",
    "Other_Symbol": "So", "Separator": "Z", "Space_Separator": "Zs", "Line_Separator": "Zl", "Paragraph_Separator": "Zp",
    "Control": "Cc", "Format": "Cf", "Private_Use": "Co", "Unassigned": "Cn", "Other": "C",
}  # fmt: skip
_SHORT = frozenset(_LONG.values())


def _property(name: str) -> Ranges | None:
    value = re.sub(r"^(General_Category|gc)=", "", name)
    if value == name and name in ("Any", "ASCII"):
        return ALL if name == "Any" else ((0, 127),)
    short = value if value in _SHORT else _LONG.get(value)
    if short is None:
        return None
    return _of_category(short)


@lru_cache(64)
def _of_category(short: str) -> Ranges:
    """`L` is all categories that begin with it; `LC` is the letters with case."""
    wanted: Callable[[str], bool] = (lambda one: one in ("Lu", "Ll", "Lt")) if short == "LC" else lambda one: one.startswith(short)
    return ranges(pair for one, pairs in _categories().items() if wanted(one) for pair in pairs)


@lru_cache(1)
def _categories() -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    before, start = "", 0
    for code in range(0x110000):
        if (category := unicodedata.category(chr(code))) != before:
            if before:
                found.setdefault(before, []).append((start, code - 1))
            before, start = category, code
    found.setdefault(before, []).append((start, 0x10FFFF))
    return found
