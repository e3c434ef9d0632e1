"""The order of lines: nodes of a tree or lanes of a timeline, each below its parent. Nodes that do
not fit are counted at their parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..views.lanes import LaneRow
from ..views.tree import NodeRow, TailRow, TreePicture


@dataclass(frozen=True, slots=True)
class Line:
    """One line: exactly one of a node, the private tokens of a running request, or a count of
    omitted nodes.
    """

    depth: int
    rails: tuple[bool, ...]
    """for each column to the left: whether the line of an ancestor passes through it"""
    is_branch: bool
    """whether it branches off its parent, because the parent has several children"""
    is_last: bool
    node: NodeRow | None = None
    tail: TailRow | None = None
    n_nodes: int = 0
    n_tokens: int = 0


def outline(picture: TreePicture, max_nodes: int, *, straight_chains: bool) -> list[Line]:
    """Lines in leaf order. With `straight_chains` an only child is below its parent, not to its
    right.

    If there are more than `max_nodes`, nodes in use are kept first, then new ones, then those used
    last and hit most.
    """
    nodes = {row["id"]: row for row in picture["nodes"]}
    below: dict[int | None, list[NodeRow]] = {}
    for row in sorted(nodes.values(), key=lambda row: row["id"]):
        below.setdefault(row["parent"] if row["parent"] in nodes else None, []).append(row)
    tails: dict[int, list[TailRow]] = {}
    for tail in picture["tails"]:
        tails.setdefault(tail["node"], []).append(tail)
    shown_nodes = kept(nodes, max_nodes)
    size: dict[int, tuple[int, int]] = {}
    for row in _leaves_first(below):
        n_nodes, n_tokens = 1, row["n"]
        for child in below.get(row["id"], []):
            n_nodes, n_tokens = n_nodes + size[child["id"]][0], n_tokens + size[child["id"]][1]
        size[row["id"]] = n_nodes, n_tokens

    lines: list[Line] = []
    stack = [Line(0, (), False, True, row) for row in reversed(below.get(None, [])) if row["id"] in shown_nodes]
    while stack:
        line = stack.pop()
        lines.append(line)
        if line.node is None:
            continue
        children = below.get(line.node["id"], [])
        hidden = [size[child["id"]] for child in children if child["id"] not in shown_nodes]
        shown: list[tuple[NodeRow | None, TailRow | None, int, int]] = [(row, None, 0, 0) for row in children if row["id"] in shown_nodes]
        shown += [(None, tail, 0, 0) for tail in tails.get(line.node["id"], [])]
        if hidden:
            shown.append((None, None, sum(n_nodes for n_nodes, _ in hidden), sum(n_tokens for _, n_tokens in hidden)))
        is_branch = len(shown) > 1 or not straight_chains
        rails = (*line.rails, not line.is_last) if line.is_branch else line.rails
        for n, content in reversed(list(enumerate(shown))):
            stack.append(Line(line.depth + is_branch, rails, is_branch, n == len(shown) - 1, *content))
    return lines


def kept(nodes: Mapping[int, NodeRow], max_nodes: int) -> set[int]:
    """Ids of at most `max_nodes` nodes, each with all its ancestors: those in use, then new ones,
    then those used last and hit most.
    """
    order = {"root": 0, "running": 1, "locked": 2}
    by_worth = sorted(nodes.values(), key=lambda row: (order.get(row["state"], 3), not row["fresh"], -row["used"], -row["hits"], row["id"]))
    found: set[int] = set()
    for row in by_worth:
        path = []
        at: int | None = row["id"]
        while at is not None and at in nodes and at not in found:
            path.append(at)
            at = nodes[at]["parent"]
        if len(found) + len(path) <= max_nodes:
            found.update(path)
    return found


def _leaves_first(below: dict[int | None, list[NodeRow]]) -> list[NodeRow]:
    order: list[NodeRow] = list(below.get(None, []))
    for row in order:
        order += below.get(row["id"], [])
    return order[::-1]


def lane_order(lanes: list[LaneRow]) -> list[tuple[LaneRow, int]]:
    """Every lane with its depth. Children follow their parent in the order in which they were
    opened.
    """
    known = {lane["lane"] for lane in lanes}
    below: dict[str | None, list[LaneRow]] = {}
    for lane in lanes:
        below.setdefault(lane["parent"] if lane["parent"] in known else None, []).append(lane)
    ordered: list[tuple[LaneRow, int]] = []
    stack = [(lane, 0) for lane in reversed(below.get(None, []))]
    while stack:
        lane, depth = stack.pop()
        ordered.append((lane, depth))
        stack += [(child, depth + 1) for child in reversed(below.get(lane["lane"], []))]
    return ordered
