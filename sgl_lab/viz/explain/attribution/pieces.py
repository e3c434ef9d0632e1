"""Cuts a prompt into the pieces that an ablation leaves out: lines, sentences, messages or words.

A piece is a run of whole tokens of one origin. Markup of a chat template and special tokens are in
no piece. An embedded block, such as an image, is a piece of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ....contracts.spans import is_inside
from ...views.asked import Cell

KINDS = ("sentence", "line", "message", "word")
"""the first is the default"""

_LINE = re.compile(r"\n\s*")
_SENTENCE = re.compile(r"""[.!?…]+["'”’»)\]]*\s+(?![\sa-z])|[。！？]+["”’»）」』]*\s*|\n\s*""")
_WORD = re.compile(r"\s+")
_ABBREVIATED = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|No|vs|etc|e\.g|i\.e|cf|Fig)|(?<![^\W_])[A-Z])\.\s+\Z")
"""a full stop that ends no sentence"""
_ENDS = {"line": _LINE, "sentence": _SENTENCE, "word": _WORD}


@dataclass(frozen=True, slots=True)
class Piece:
    start: int
    """position of its first token in the prompt"""
    end: int
    text: str
    role: str
    kind: str
    """text, block, generated or choice"""


def pieces(cells: Sequence[Cell], by: str, spell: Callable[[int], str]) -> tuple[Piece, ...]:
    """The pieces in order. `by` is one of `KINDS`."""
    found: list[Piece] = []
    at = 0
    for (is_fixed, kind, role), group in groupby(cells, key=lambda cell: (cell.is_fixed, cell.kind, cell.role)):
        run = [cell.token for cell in group]
        start, at = at, at + len(run)
        if is_fixed:
            continue
        for first, end in _blocks(run) if kind == "block" else _parts([spell(token) for token in run], by):
            text = "".join(map(spell, run[first:end]))
            found.append(Piece(start + first, start + end, text, role, kind))
    return tuple(found)


def _blocks(run: Sequence[int]) -> Iterator[tuple[int, int]]:
    starts = [at for at, token in enumerate(run) if not at or not is_inside(token)]
    yield from zip(starts, (*starts[1:], len(run)), strict=True)


def _parts(texts: Sequence[str], by: str) -> Iterator[tuple[int, int]]:
    """Beginning and end of each part of a run of tokens. A token belongs to the part in which its
    first visible character is; white space belongs to the part before it.
    """
    whole = "".join(texts)
    if not whole.strip():
        return
    ends = [] if by == "message" else [match.end() for match in _ENDS[by].finditer(whole) if by != "sentence" or _ends(whole, match)]
    n_at, starts, end = 0, [0], iter([*ends, len(whole)])
    border = next(end)
    seen = False
    for index, text in enumerate(texts):
        visible = n_at + len(text) - len(text.lstrip()) if text.strip() else -1
        if seen and visible >= border:
            starts.append(index)
            while visible >= border:
                border = next(end)
        elif visible >= 0:
            seen = True
            while visible >= border:
                border = next(end)
        n_at += len(text)
    yield from zip(starts, (*starts[1:], len(texts)), strict=True)


def _ends(whole: str, match: re.Match[str]) -> bool:
    return not _ABBREVIATED.search(whole[max(0, match.start() - 8) : match.end()])
