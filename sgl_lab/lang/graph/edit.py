"""Edits of a graph: its nodes in a new order, with what they read renumbered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..expressions import Reference
from .dataflow import Graph
from .symbols import Part
from .values import Assign, Cond, Data, Items, Joined, Meaning, Node, Value

Placed = tuple[int | None, Node]
"""a node with its number in the old graph; None for a new one"""


def placed(graph: Graph) -> list[Placed]:
    return list(enumerate(graph.nodes))


def rebuilt(
    graph: Graph, order: Sequence[Placed], instead: Mapping[int, int] | None = None, labels: tuple[str, ...] | None = None
) -> Graph:
    """The graph of these nodes. `instead` maps dropped nodes to those whose results replace theirs.
    New nodes' `after` are places in `order`, as negative numbers `~place`.
    """
    new = {old: number for number, (old, _) in enumerate(order) if old is not None}
    for old, other in (instead or {}).items():
        new[old] = new[other]
    nodes = tuple(
        replace(node, value=_renumbered(node.value, new), after=tuple(~each if each < 0 else new[each] for each in node.after))
        for _, node in order
    )
    return replace(graph, nodes=nodes, returned=_data(graph.returned, new), labels=graph.labels if labels is None else labels)


def _renumbered(value: Value, new: Mapping[int, int]) -> Value:
    match value:
        case Reference():
            return _part(value, new)
        case Assign(name, data):
            return Assign(name, _data(data, new))
        case Cond(on):
            return replace(value, on=tuple(_part(part, new) for part in on))
    return value


def _part(part: Part, new: Mapping[int, int]) -> Part:
    return replace(part, step=new[part.step]) if isinstance(part, Reference) else part


def _data(data: Data, new: Mapping[int, int]) -> Data:
    match data:
        case Joined(parts):
            return Joined(tuple(_part(part, new) for part in parts))
        case Items(_, items):
            return replace(data, items=tuple(_data(item, new) for item in items))
        case Meaning(of):
            return Meaning(replace(of, step=new[of.step]))
    return data
