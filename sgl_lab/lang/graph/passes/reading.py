"""What passes read of a graph: what a node waits for, the step in which it is ready, and the text
with which a call begins.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...expressions import Fork, Gen, Select, Text
from ..dataflow import Graph
from ..values import Value
from .report import Context


def sources(graph: Graph, number: int) -> list[int]:
    """The nodes that have to be done before a node. A call starts by itself."""
    node, before = graph.nodes[number], graph.before[number]
    found = [*graph.reads[number], *node.after]
    is_first_of_call = before is not None and before == graph.parents.get(node.strand) and not isinstance(graph.nodes[before].value, Fork)
    return found if before is None or is_first_of_call else [*found, before]


def steps_of(graph: Graph) -> list[int]:
    """The step at which each node is ready; of a gen or select, its own."""
    steps: list[int] = []
    for number, node in enumerate(graph.nodes):
        ready = max((steps[each] for each in sources(graph, number)), default=0)
        steps.append(ready + isinstance(node.value, Gen | Select))
    return steps


def beginning(graph: Graph, numbers: Sequence[int], kinds: tuple[type[Value], ...]) -> tuple[Value, ...]:
    """The values of these `kinds` that follow the first node of a call."""
    start: list[Value] = []
    for number in numbers[1:]:
        value = graph.nodes[number].value
        if not isinstance(value, kinds):
            break
        start.append(value)
    return tuple(start)


def n_tokens(values: Sequence[Value], context: Context) -> int:
    """Tokens of the literal text in these values."""
    return context.count("".join(value.text for value in values if isinstance(value, Text)))
