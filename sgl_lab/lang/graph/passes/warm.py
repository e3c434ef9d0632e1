"""A beginning that several calls have in common is computed once, before they start together.

Without it, calls that the executor starts together would each compute it: requests that are admitted
in one step share only what is computed already.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from ....contracts.prefixes import n_common
from ...expressions import Argument, Gen, RoleBegin, RoleEnd, Select, Text, Warm
from ..dataflow import Graph
from ..edit import Placed, placed, rebuilt
from ..values import Call, Node, Value
from .reading import beginning, n_tokens, steps_of
from .report import Context, Report, nothing

LEAST = 32
"""tokens: a shorter beginning is not worth a request"""
BEGINS = (Text, Argument, RoleBegin, RoleEnd)
"""what can be computed before the program runs"""


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    groups: defaultdict[tuple[Value, int], list[tuple[int, tuple[Value, ...]]]] = defaultdict(list)
    steps = steps_of(graph)
    for nodes in graph.strands.values():
        head = graph.nodes[nodes[0]]
        if isinstance(head.value, Call) and not head.region and (start := beginning(graph, nodes, BEGINS)):
            first = next((number for number in nodes if isinstance(graph.nodes[number].value, Gen | Select)), nodes[-1])
            groups[start[0], steps[first]].append((nodes[0], start))
    shared: dict[tuple[Value, ...], list[int]] = {}
    for members in groups.values():
        start = members[0][1]
        for _, other in members:
            start = start[: n_common(start, other)]
        if len(members) > 1 and n_tokens(start, context) >= LEAST:
            shared[start] = [call for call, _ in members]
    if not shared:
        return nothing(graph, "warm", "no calls begin with the same long text")
    order, labels, saved = placed(graph), list(graph.labels), 0
    for start, calls in shared.items():
        where = next(place for place, (old, _) in enumerate(order) if old == calls[0])
        strand, location = len(labels), graph.nodes[calls[0]].location
        labels.append("warm")
        values: list[Value] = [Call("warm"), *start, Warm()]
        added = [Node(strand, value, location, (strand,) if isinstance(value, Call) else ()) for value in values]
        order = _shifted(order, where, len(added))
        order[where:where] = [(None, node) for node in added]
        last = ~(where + len(added) - 1)
        order = [(old, replace(node, after=(*node.after, last)) if old in calls else node) for old, node in order]
        saved += (len(calls) - 1) * n_tokens(start, context)
    numbers = {"beginnings": len(shared), "tokens not computed again": saved}
    words = "beginnings that calls have in common are computed once, before the calls start together"
    return rebuilt(graph, order, labels=tuple(labels)), Report("warm", words, numbers)


def _shifted(order: list[Placed], where: int, by: int) -> list[Placed]:
    """The nodes, with places of earlier insertions as they are after another one."""

    def moved(node: Node) -> Node:
        return replace(node, after=tuple(each - by if each < 0 and ~each >= where else each for each in node.after))

    return [(old, moved(node)) for old, node in order]
