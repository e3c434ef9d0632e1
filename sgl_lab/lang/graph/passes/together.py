"""Gens and selects of different forks and calls that wait for the same start together.

They reach the engine as one message, so its next step has all of them. One by one, the first would
run a step alone, and what the others find cached would depend on timing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from ...expressions import Gen, Select
from ..dataflow import Graph
from .reading import sources
from .report import Context, Report, nothing

Waits = tuple[int, frozenset[int]]
"""a region, and the gens and selects whose end starts a node"""


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    waits: list[frozenset[int]] = []
    groups: defaultdict[Waits, list[int]] = defaultdict(list)
    for number, node in enumerate(graph.nodes):
        waits.append(_waits(graph, number, waits))
        if isinstance(node.value, Gen | Select):
            groups[node.region, waits[number]].append(number)
            waits[number] = frozenset({number})
    found = [members for members in groups.values() if len(members) > 1]
    if not found:
        return nothing(graph, "together", "no two forks or calls ask at the same time")
    group_of = {number: group for group, members in enumerate(found) for number in members}
    nodes = tuple(replace(node, together=group_of.get(number)) for number, node in enumerate(graph.nodes))
    numbers = {"groups": len(found), "gens and selects": len(group_of)}
    words = "gens and selects of forks and calls that wait for the same start in one step"
    return replace(graph, nodes=nodes), Report("together", words, numbers)


def _waits(graph: Graph, number: int, waits: list[frozenset[int]]) -> frozenset[int]:
    """The gens and selects whose end lets a node start."""
    return frozenset().union(*(waits[each] for each in sources(graph, number)))
