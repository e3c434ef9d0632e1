"""The layout of the radix tree: the same positions and words as on the live page
(`static/tree.js`).

Rows are in leaf order, and a parent is in the middle of its children. Nodes that do not belong to
the run are one row at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ...contracts.legible import legible
from ..views.tree import NodeRow, TreePicture
from .numbers import counted
from .outline import kept

HEIGHT, PITCH, GAP, PAD = 24, 29, 24, 8
LETTER, SMALL, MARK, SPACE, PICTURE = 6.65, 5.7, 14, 10, 22
LETTERS = 24
"""characters of a label"""


@dataclass(slots=True)
class Node:
    label: str
    meta: str
    """tokens, how often the run reused it, whether it is in use"""
    tone: str
    """name of an ink; for a node without one: root, tail or others"""
    state: str
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0
    title: str = ""
    picture: str = ""

    @property
    def width(self) -> int:
        cells = sum(1.8 if ord(letter) > 0x1100 and letter not in "…↵⇥●○▸◆■▣" else 1 for letter in self.label)
        mark = 0 if self.tone in ("root", "others") else MARK
        mark += PICTURE if self.picture else 0
        return int(cells * LETTER + 2 * PAD + mark + (SPACE + SMALL * len(self.meta) if self.meta else 0) + 1)


class Plan(NamedTuple):
    nodes: list[Node]
    width: float
    height: float
    n_shown: int
    n_others: int


def plan(picture: TreePicture, max_nodes: int) -> Plan:
    """The layout. Of more than `max_nodes` nodes, those in use are kept first, then new ones, then
    those used last.
    """
    rows = {row["id"]: row for row in picture["nodes"]}
    mine = {number: row for number, row in rows.items() if row["mine"]}
    shown = kept(mine, max_nodes)
    others = [row for number, row in rows.items() if number not in shown and row["parent"] is not None]
    pictures = {row["id"]: row.get("picture", "") for row in picture["texts"]}
    nodes = {number: _node(mine[number], pictures.get(number, "")) for number in sorted(shown)}
    roots: list[Node] = []
    for number, node in nodes.items():
        above = mine[number]["parent"]
        _hang(node, None if above is None else nodes.get(above), roots)
    for tail in picture["tails"]:
        if home := nodes.get(tail["node"]):
            _hang(Node(_short(tail["label"] or "…"), f"{tail['n']:,}", "generated", "tail"), home, roots)
    oldest = _ages(roots, {id(node): number for number, node in nodes.items()})
    ordered: list[Node] = []
    row_number = 0
    stack = sorted(roots, key=lambda node: oldest[id(node)], reverse=True)
    while stack:
        node = stack.pop()
        ordered.append(node)
        node.x = node.parent.x + node.parent.width + GAP if node.parent else 0
        if node.children:
            stack += sorted(node.children, key=lambda child: oldest[id(child)], reverse=True)
        else:
            node.y, row_number = PITCH * row_number, row_number + 1
    for node in reversed(ordered):
        if node.children:
            ys = [child.y for child in node.children]
            node.y = (min(ys) + max(ys)) / 2
    if others:
        words = f"+ {counted(len(others), 'other node')}"
        ordered.append(Node(words, f"{sum(row['n'] for row in others):,}", "others", "others", y=PITCH * row_number))
        row_number += 1
    width = max((node.x + node.width for node in ordered), default=0.0)
    return Plan(ordered, width, max(0, PITCH * row_number - (PITCH - HEIGHT)), len(nodes), len(others))


def tone(row: NodeRow) -> str:
    if row["state"] in ("root", "running"):
        return "root" if row["state"] == "root" else "generated"
    return "computed" if row["fresh"] else "cached"


def _node(row: NodeRow, picture: str) -> Node:
    more = [f"↻{row['reused']:,}" if row["reused"] else "", "■" if row["state"] == "locked" else ""]
    meta = "" if row["state"] == "root" else " ".join(part for part in (f"{row['n']:,}", *more) if part)
    return Node(_short(row["label"] or "root"), meta, tone(row), row["state"], title=row["title"], picture=picture)


def _hang(node: Node, parent: Node | None, roots: list[Node]) -> None:
    node.parent = parent
    (parent.children if parent else roots).append(node)


def _ages(roots: list[Node], numbers: Mapping[int, int]) -> dict[int, float]:
    """The sort key of each node: the oldest node below it. Tails come last.

    A split puts a younger node above an older one, so a node's own id would change the order of
    siblings.
    """
    order = list(roots)
    for node in order:
        order += node.children
    found: dict[int, float] = {}
    for node in reversed(order):
        found[id(node)] = min([numbers.get(id(node), float("inf")), *(found[id(child)] for child in node.children)])
    return found


def _short(label: str) -> str:
    text = legible(label).replace("\n", "↵").replace("\t", "⇥")
    if len(text) <= LETTERS:
        return text
    if text.endswith("…"):
        return text[: LETTERS - 1] + "…"
    return f"{text[:14]}…{text[15 - LETTERS :]}"
