"""JSON strings as trees: the texts of a tree, spelled as `json.dumps(text, ensure_ascii=False)`
does, with one spelling per character.
"""

from __future__ import annotations

import json
from functools import lru_cache

from ..contracts.patterns.tree import (
    ALL,
    Chain,
    Chars,
    Choice,
    Like,
    Many,
    Named,
    Node,
    Such,
    Text,
    chain,
    choice,
    common,
    ranges,
    without,
)

_SPECIAL = ranges([(0, 31), (34, 34), (92, 92)])
_SHORT = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\"}
_LONG = [code for code in range(32) if code not in _SHORT]
_LOW = chain([Text("0"), Chars(ranges([(48, 55), (98, 98), (101, 102)]))])
_HIGH = chain([Text("1"), Chars(ranges([(48, 57), (97, 102)]))])
_ALL_LONG = chain([Text("\\u00"), choice([_LOW, _HIGH])])


@lru_cache(1_024)
def quoted(node: Node) -> Node:
    """Without the quotes around it."""
    match node:
        case Chars(found):
            return _characters(found)
        case Text(text):
            return Text(json.dumps(text, ensure_ascii=False)[1:-1])
        case Chain(of):
            return chain(map(quoted, of))
        case Choice(of):
            return choice(map(quoted, of))
        case Many(what, fewest, most):
            return Many(quoted(what), fewest, most)
        case Such(all_of, none_of):
            return Such(tuple(map(quoted, all_of)), tuple(map(quoted, none_of)))
        case Like(what, example):
            return Like(quoted(what), json.dumps(example, ensure_ascii=False)[1:-1])
        case Named():
            return node


def _characters(found: tuple[tuple[int, int], ...]) -> Node:
    special = common(found, _SPECIAL)
    if not special:
        return Chars(found)
    codes = [code for low, high in special for code in range(low, high + 1)]
    parts: list[Node] = [Chars(rest)] if (rest := without(found, _SPECIAL)) else []
    if short := [ord(_SHORT[code]) for code in codes if code in _SHORT]:
        parts.append(chain([Text("\\"), Chars(ranges((code, code) for code in short))]))
    long = [code for code in codes if code not in _SHORT]
    parts += [_ALL_LONG] if long == _LONG else [Text(f"\\u{code:04x}") for code in long]
    return choice(parts)


CHARACTER = quoted(Chars(ALL))
QUOTE = Text('"')


def string(shortest: int = 0, longest: int | None = None) -> Node:
    """Every string of so many characters."""
    return chain([QUOTE, Many(CHARACTER, shortest, longest), QUOTE])
