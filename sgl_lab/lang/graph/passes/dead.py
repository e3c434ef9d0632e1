"""Calls that nothing reads are dropped, on request: their text is in no other text."""

from __future__ import annotations

from ...expressions import Gen, Select
from ..dataflow import Graph
from ..edit import placed, rebuilt
from ..values import Call
from .report import Context, Report, nothing


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    dropped: set[int] = set()
    while found := _dead(graph, dropped):
        dropped |= found
    if not dropped:
        return nothing(graph, "dead", "every call is read")
    numbers = {"nodes": len(dropped), "gens and selects": sum(isinstance(graph.nodes[each].value, Gen | Select) for each in dropped)}
    order = [(number, node) for number, node in placed(graph) if number not in dropped]
    return rebuilt(graph, order), Report("dead", "calls that nothing reads can be dropped", numbers)


def _dead(graph: Graph, dropped: set[int]) -> set[int]:
    """The nodes of a call that none of those left reads, and that opens nothing."""
    for strand, numbers in graph.strands.items():
        own = set(numbers)
        if not isinstance(graph.nodes[numbers[0]].value, Call) or own <= dropped or strand in graph.returned_states:
            continue
        readers = {number for number, reads in enumerate(graph.reads) if own & {*reads, *graph.nodes[number].after}}
        opens = any(graph.nodes[number].opened for number in numbers[1:])
        executes = any(isinstance(value := graph.nodes[number].value, Gen) and value.execute for number in numbers)
        if readers <= own | dropped and not own & graph.returned_reads and not opens and not executes:
            return own
    return set()
