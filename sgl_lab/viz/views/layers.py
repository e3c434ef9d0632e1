"""The layout of a dataflow graph: a column a step of the longest way to it, a row a strand.

Strands that do not overlap share a row. Time and memory are linear in nodes and edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...contracts.events import GraphNode

HEIGHT, PITCH, GAP, PAD, MARK = 24, 32, 22, 8, 14
"""of a box, from one row to the next, between columns, inside a box, for its mark"""
HEAD = 22
"""for the name of a graph"""
LETTER = 6.65
LETTERS = 22
"""characters of a label"""
COUNT = 34
"""for the number of executions"""


class Layout(NamedTuple):
    boxes: list[tuple[int, int, int]]
    """left, top and width of each node"""
    width: int
    height: int


def layout(nodes: Sequence[GraphNode]) -> Layout:
    """Every node comes after those that it reads."""
    depth: list[int] = []
    ends: dict[int, int] = {}
    begins: dict[int, int] = {}
    for node in nodes:
        depth.append(max((depth[before] + 1 for before in (*node.after, *node.reads)), default=0))
        begins.setdefault(node.strand, depth[-1])
        ends[node.strand] = max(ends.get(node.strand, 0), depth[-1])
    rows: dict[int, int] = {}
    free_from: list[int] = []
    """the first column in which each row is free"""
    for strand, begin in sorted(begins.items(), key=lambda each: each[1]):
        row = next((number for number, free in enumerate(free_from) if free <= begin), len(free_from))
        if row == len(free_from):
            free_from.append(0)
        free_from[row] = ends[strand] + 1
        rows[strand] = row
    widths = [0] * (max(depth, default=-1) + 1)
    boxes = [_width(node) for node in nodes]
    for column, width in zip(depth, boxes, strict=True):
        widths[column] = max(widths[column], width)
    left = [0]
    for width in widths:
        left.append(left[-1] + width + GAP)
    placed = [(left[column], PITCH * rows[node.strand], width) for node, column, width in zip(nodes, depth, boxes, strict=True)]
    return Layout(placed, max(0, left[-1] - GAP), PITCH * len(free_from))


def _width(node: GraphNode) -> int:
    cells = sum(1.8 if ord(letter) > 0x1100 and letter not in "…↵" else 1 for letter in node.label[:LETTERS])
    return int(cells * LETTER + 2 * PAD + MARK + 1)
