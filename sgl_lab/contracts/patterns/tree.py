"""The tree of a pattern: character sets, sequences, alternatives, repeats. Its meaning is a set of
complete texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""code points as (first, last) of each run, in order, without surrogates"""

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)


@dataclass(frozen=True, eq=False)
class Chars:
    """One of these characters."""

    ranges: Ranges


@dataclass(frozen=True, eq=False)
class Text:
    """Exactly these characters."""

    text: str


@dataclass(frozen=True, eq=False)
class Chain:
    """All parts, one after the other."""

    of: tuple[Node, ...] = ()


@dataclass(frozen=True, eq=False)
class Choice:
    """One of the options. Without options it matches no text."""

    of: tuple[Node, ...] = ()


@dataclass(frozen=True, eq=False)
class Many:
    what: Node
    fewest: int = 0
    most: int | None = None


@dataclass(frozen=True, eq=False)
class Such:
    """Texts that match all of `all_of` and none of `none_of`."""

    all_of: tuple[Node, ...]
    none_of: tuple[Node, ...] = ()


@dataclass(frozen=True, eq=False)
class Like:
    """The texts of `what`; `example` is the one to write if any will do."""

    what: Node
    example: str


@dataclass(frozen=True, eq=False)
class Named:
    """The texts of a rule, which may be recursive."""

    rule: str


Node: TypeAlias = Chars | Text | Chain | Choice | Many | Such | Like | Named

EMPTY = Chain()
NOTHING = Choice()


def ranges(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """The union of these runs: in order, joined, without surrogates."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if found and low <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], high)
        else:
            found.append((low, high))
    return without(tuple(found), (SURROGATES,))


def without(one: Ranges, two: Ranges) -> Ranges:
    """The characters of the first set that are not in the second."""
    found = []
    others = iter((*two, (LAST + 1, LAST + 1)))
    out = next(others)
    for low, high in one:
        while low <= high:
            while out[1] < low:
                out = next(others)
            if out[0] > high:
                found.append((low, high))
                break
            if out[0] > low:
                found.append((low, out[0] - 1))
            low = out[1] + 1
    return tuple(found)


def but(one: Ranges) -> Ranges:
    """All other characters."""
    return without(ALL, one)


def common(one: Ranges, two: Ranges) -> Ranges:
    return without(one, but(two))


ALL: Ranges = ((0, SURROGATES[0] - 1), (SURROGATES[1] + 1, LAST))
ANY = Many(Chars(ALL))
"""any text"""


def has(found: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in found) if len(found) < 8 else _has(found, code)


def _has(found: Ranges, code: int) -> bool:
    low, high = 0, len(found)
    while low < high:
        middle = (low + high) // 2
        if found[middle][1] < code:
            low = middle + 1
        else:
            high = middle
    return low < len(found) and found[low][0] <= code


def chain(parts: Iterable[Node]) -> Node:
    flat: list[Node] = []
    for part in parts:
        for piece in part.of if isinstance(part, Chain) else (part,):
            if piece is NOTHING or (isinstance(piece, Choice) and not piece.of):
                return NOTHING
            if isinstance(piece, Text) and flat and isinstance(flat[-1], Text):
                flat[-1] = Text(flat[-1].text + piece.text)
            else:
                flat.append(piece)
    return flat[0] if len(flat) == 1 else Chain(tuple(flat)) if flat else EMPTY


def choice(parts: Iterable[Node]) -> Node:
    flat: list[Node] = []
    for part in parts:
        flat += part.of if isinstance(part, Choice) else (part,)
    return flat[0] if len(flat) == 1 else Choice(tuple(flat)) if flat else NOTHING


def has_limits(node: Node) -> bool:
    """Whether the tree is not a regular expression, because several trees limit a text somewhere in
    it.
    """
    match node:
        case Such():
            return True
        case Chain(of) | Choice(of):
            return any(map(has_limits, of))
        case Many(what, _, _) | Like(what, _):
            return has_limits(what)
    return False


def is_nothing(node: Node) -> bool:
    return isinstance(node, Choice) and not node.of


def can_be_empty(node: Node) -> bool:
    match node:
        case Chain(of):
            return all(map(can_be_empty, of))
        case Choice(of):
            return any(map(can_be_empty, of))
        case Many(what, fewest, _):
            return fewest == 0 or can_be_empty(what)
        case Such(all_of, none_of):
            return all(map(can_be_empty, all_of)) and not any(map(can_be_empty, none_of))
        case Text(text):
            return not text
        case Like(what, _):
            return can_be_empty(what)
    return False


# ---------------------------------------------------------------- written as a pattern


def written(node: Node, character: Callable[[int], str]) -> str:
    """A regular expression with `[...]`, `(?:...)`, `|` and `{m,n}` only. TypeError if the tree is
    not a regular expression.
    """
    match node:
        case Chars(found):
            return _class(found, character)
        case Text(text):
            return "".join(character(ord(each)) for each in text)
        case Chain(of):
            return "".join(f"(?:{written(part, character)})" if isinstance(part, Choice) else written(part, character) for part in of)
        case Choice(of):
            return "|".join(written(part, character) for part in of) if of else "[^" + character(0) + "-" + character(LAST) + "]"
        case Many(what, fewest, most):
            inner = written(what, character)
            inner = inner if isinstance(what, Chars) or (isinstance(what, Text) and len(what.text) == 1) else f"(?:{inner})"
            if most is None and fewest in (0, 1):
                return inner + "*+"[fewest]
            if (fewest, most) == (0, 1):
                return inner + "?"
            return f"{inner}{{{fewest}}}" if fewest == most else f"{inner}{{{fewest},{'' if most is None else most}}}"
        case Like(what, _):
            return written(what, character)
    raise TypeError(f"{type(node).__name__} is not a regular expression")


def _class(found: Ranges, character: Callable[[int], str]) -> str:
    rest = without(((0, LAST),), found)
    rest = tuple(pair for pair in rest if pair != SURROGATES)
    if len(found) > 1 and len(rest) < len(found) - 1:
        return f"[^{''.join(_pair(pair, character) for pair in rest)}]" if rest else f"[{character(0)}-{character(LAST)}]"
    if len(found) == 1 and found[0][0] == found[0][1]:
        return character(found[0][0])
    return f"[{''.join(_pair(pair, character) for pair in found)}]"


def _pair(pair: tuple[int, int], character: Callable[[int], str]) -> str:
    low, high = map(character, pair)
    return low if low == high else f"{low}-{high}"


def for_python(node: Node) -> str:
    """A pattern for Python's `re`."""
    return written(node, lambda code: chr(code) if chr(code).isalnum() and code < 128 else f"\\U{code:08x}")


def for_library(node: Node) -> str:
    """A pattern for the grammar library, whose syntax is that of Rust's `regex`."""
    return written(node, lambda code: chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:x}}}")


# ---------------------------------------------------------------- anchors


class Unsupported(ValueError):
    """A well-formed pattern that cannot be followed; the message names the part."""


@dataclass(frozen=True)
class Anchored:
    """The meaning of a pattern with anchors: by whether the text must begin with it and whether it
    must end with it.

    `bare` lists the ways to match nothing: (must be at the start, must be at the end).
    """

    parts: tuple[tuple[bool, bool, Node], ...] = ()
    bare: frozenset[tuple[bool, bool]] = frozenset()


Pattern: TypeAlias = Node | Anchored
START, END = Anchored(bare=frozenset({(True, False)})), Anchored(bare=frozenset({(False, True)}))


def _anchored(one: Pattern) -> Anchored:
    if isinstance(one, Anchored):
        return one
    return Anchored(((False, False, one),), frozenset({(False, False)}) if can_be_empty(one) else frozenset())


def in_turn(every: Iterable[Pattern]) -> Pattern:
    """The patterns one after the other."""
    found: Anchored | None = None
    waiting: list[Node] = []
    for one in every:
        if not isinstance(one, Anchored):
            waiting.append(one)
            continue
        before = chain(waiting)
        waiting = []
        found = _after(_after(found or _anchored(EMPTY), _anchored(before)), one)
    last = chain(waiting)
    return _after(found, _anchored(last)) if found else last


def _after(one: Anchored, two: Anchored) -> Anchored:
    parts: list[tuple[bool, bool, Node]] = []
    for start, end, node in one.parts:
        parts += [(start, last, chain((node, other))) for first, last, other in two.parts if not end and not first]
        parts += [(start, end or last, node) for first, last in two.bare if not first and (end or last)]
    for start, end in one.bare:
        parts += [(start or first, last, other) for first, last, other in two.parts if not end and (start or first)]
    bare = {(start or first, end or last) for start, end in one.bare for first, last in two.bare}
    return Anchored(_merged(parts), frozenset(bare))


def one_of(every: Iterable[Pattern]) -> Pattern:
    options = list(every)
    if not any(isinstance(one, Anchored) for one in options):
        return choice(one for one in options if not isinstance(one, Anchored))
    found = [*map(_anchored, options)]
    return Anchored(_merged([part for one in found for part in one.parts]), frozenset().union(*(one.bare for one in found)))


def _merged(parts: list[tuple[bool, bool, Node]]) -> tuple[tuple[bool, bool, Node], ...]:
    found: dict[tuple[bool, bool], list[Node]] = {}
    for start, end, node in parts:
        if not is_nothing(node):
            found.setdefault((start, end), []).append(node)
    return tuple((start, end, choice(nodes)) for (start, end), nodes in found.items())


def repeated(one: Pattern, fewest: int, most: int | None) -> Pattern:
    if (fewest, most) == (1, 1):
        return one
    if not isinstance(one, Anchored):
        if most == 0 or (fewest == 0 and is_nothing(one)):
            return EMPTY
        return one if is_nothing(one) else Many(one, fewest, most)
    if (fewest, most) == (0, 1):
        return one_of((EMPTY, one))
    raise Unsupported("an anchor inside of a repeat")


def whole(one: Pattern) -> Node:
    """The texts that it matches completely."""
    if not isinstance(one, Anchored):
        return one
    found = [node for _, _, node in one.parts]
    return choice(found + ([EMPTY] if one.bare and not any(map(can_be_empty, found)) else []))


def somewhere(one: Pattern) -> Node:
    """The texts that contain a match."""
    if not isinstance(one, Anchored):
        return NOTHING if is_nothing(one) else ANY if can_be_empty(one) else chain((ANY, one, ANY))
    if any(not (start and end) for start, end in one.bare):
        return ANY
    found = [chain((*([] if start else [ANY]), node, *([] if end else [ANY]))) for start, end, node in one.parts]
    return choice(found + ([EMPTY] if one.bare else []))


def one_character(found: Ranges) -> Node:
    return Chars(found) if found else NOTHING
