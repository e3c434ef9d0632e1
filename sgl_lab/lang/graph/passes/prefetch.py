"""The literal beginning of a strand is computed while it waits for the text of another strand."""

from __future__ import annotations

from ...expressions import Reference, RoleBegin, RoleEnd, Text, Warm
from ..dataflow import Graph
from ..edit import Placed, rebuilt
from ..values import Call, Node
from .report import Context, Report, nothing

LEAST = 32
"""tokens: less is computed with the rest"""


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    before = {at: n_tokens for strand in graph.strands if (found := _waits_at(graph, strand, context)) for at, n_tokens in (found,)}
    if not before:
        return nothing(graph, "prefetch", "no strand waits after a long literal text")
    order: list[Placed] = []
    for number, node in enumerate(graph.nodes):
        if number in before:
            order.append((None, Node(node.strand, Warm(), node.location, region=node.region)))
        order.append((number, node))
    numbers = {"places": len(before), "tokens computed while others decode": sum(before.values())}
    return rebuilt(graph, order), Report("prefetch", "literal text is computed while its strand waits for another's", numbers)


def _waits_at(graph: Graph, strand: int, context: Context) -> tuple[int, int] | None:
    """Where the strand first waits for another one, and the tokens of its own before that."""
    numbers = graph.strands[strand]
    if not isinstance(graph.nodes[numbers[0]].value, Call) or graph.nodes[numbers[0]].after:
        return None
    text = ""
    for number in numbers[1:]:
        match graph.nodes[number].value:
            case Text(literal):
                text += literal
            case RoleBegin() | RoleEnd():
                pass
            case Reference(step) if graph.nodes[step].strand != strand and (n_tokens := context.count(text)) >= LEAST:
                return number, n_tokens
            case _:
                return None
    return None
