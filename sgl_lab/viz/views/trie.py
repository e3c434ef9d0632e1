"""Several continuations of one text as a trie: equal beginnings are merged, and each node has the
probability of its text after that beginning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict


class Cell(NamedTuple):
    """One token of a line."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class TrieRow(TypedDict):
    """Tokens that all lines of a node have in common, in the order of the picture: a node comes
    before its children, and the likeliest child first."""

    depth: int
    toks: list[str]
    ids: list[int]
    at: int
    """position in the answer of the first of them"""
    p: float | None
    """probability of these tokens after those before; None if it is not known"""
    reach: float | None
    """probability of the text since the root up to the first of these tokens"""
    mass: float | None
    """that of all of them"""
    n: int
    """lines that go through it"""
    line: int
    """the first of them"""
    is_leaf: bool


class TriePicture(TypedDict):
    at: int
    """tokens of the answer before the root"""
    line: int
    """a line that goes through the root"""
    n: int
    """lines"""
    first: float | None
    """probability that the next token is one of those in the trie"""
    whole: float | None
    """probability that the text goes on as one of the whole lines does"""
    rows: list[TrieRow]


@dataclass(slots=True)
class _Node:
    token: int
    logprob: float | None = None
    lines: list[int] = field(default_factory=list)
    children: dict[int, _Node] = field(default_factory=dict)
    n_ended: int = 0


def trie(lines: Mapping[int, Sequence[Cell]], at: int, spell: Callable[[int], str]) -> TriePicture:
    """The trie of these lines, by number, all of which have the same first `at` tokens."""
    root = _Node(0, 0.0)
    for number, cells in lines.items():
        node = root
        node.lines.append(number)
        for cell in cells[at:]:
            child = node.children.setdefault(cell.token, _Node(cell.token))
            child.logprob = cell.logprob if child.logprob is None else child.logprob
            child.lines.append(number)
            node = child
        node.n_ended += 1
    rows: list[TrieRow] = []
    leaves = list[float | None]()

    def add(node: _Node, depth: int, position: int, before: float | None) -> None:
        run = [node]
        while len(run[-1].children) == 1 and not run[-1].n_ended:
            run += run[-1].children.values()
        own = _total([each.logprob for each in run])
        mass = _total([before, own])
        last = run[-1]
        rows.append(
            {
                "depth": depth,
                "toks": [spell(each.token) for each in run],
                "ids": [each.token for each in run],
                "at": position,
                "p": _p(own),
                "reach": _p(_total([before, node.logprob])),
                "mass": _p(mass),
                "n": len(node.lines),
                "line": node.lines[0],
                "is_leaf": not last.children,
            }
        )
        if not last.children:
            leaves.append(mass)
        for child in _ordered(last):
            add(child, depth + 1, position + len(run), mass)

    for child in _ordered(root):
        add(child, 0, at, 0.0)
    return {
        "at": at,
        "line": min(lines, default=0),
        "n": len(lines),
        "first": _sum([child.logprob for child in root.children.values()]),
        "whole": _sum(leaves),
        "rows": rows,
    }


def _ordered(node: _Node) -> list[_Node]:
    return sorted(node.children.values(), key=lambda child: (child.logprob is None, -(child.logprob or 0.0), child.token))


def _total(logprobs: Sequence[float | None]) -> float | None:
    known = [one for one in logprobs if one is not None]
    return sum(known) if len(known) == len(logprobs) else None


def _p(logprob: float | None) -> float | None:
    return None if logprob is None else math.exp(min(logprob, 0.0))


def _sum(logprobs: Sequence[float | None]) -> float | None:
    """The sum of the probabilities; None if one is not known or there is none."""
    known = [math.exp(min(one, 0.0)) for one in logprobs if one is not None]
    return min(1.0, sum(known)) if known and len(known) == len(logprobs) else None
