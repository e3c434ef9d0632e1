"""Code movement: statements of constant text before those with arguments, so that all runs begin alike.

It changes the order of what the model reads, so it is suggested, with the tokens that each further
run would find cached, and applied on request only.
"""

from __future__ import annotations

from itertools import groupby

from ...expressions import Argument, Text
from ..dataflow import Graph
from ..edit import rebuilt
from .report import Context, Report, nothing


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    order, saved, moved = list(range(len(graph.nodes))), 0, 0
    for numbers in graph.strands.values():
        for run in _runs(graph, numbers):
            statements = [list(group) for _, group in groupby(run, key=lambda number: graph.nodes[number].location)]
            constant = [group for group in statements if all(isinstance(graph.nodes[n].value, Text) for n in group)]
            varying = [group for group in statements if group not in constant]
            first = statements.index(varying[0]) if varying else len(statements)
            late = [group for group in statements[first:] if group in constant]
            if late:
                moved += len(late)
                saved += sum(context.count("".join(getattr(graph.nodes[n].value, "text", "") for n in group)) for group in late)
                for place, number in zip(run, [n for group in (*constant, *varying) for n in group], strict=True):
                    order[place] = number
    if not moved:
        return nothing(graph, "move", "constant text stands before all arguments")
    words = "constant text after an argument would be shared by all runs if it came first; the model would read another order"
    return rebuilt(graph, [(number, graph.nodes[number]) for number in order]), Report(
        "move", words, {"statements": moved, "tokens shared by each further run": saved}
    )


def _runs(graph: Graph, numbers: tuple[int, ...]) -> list[list[int]]:
    """Neighbours on a strand that are text or arguments, of one region: what can change places."""
    runs: list[list[int]] = [[]]
    for number in numbers:
        node = graph.nodes[number]
        if isinstance(node.value, Text | Argument) and (not runs[-1] or graph.nodes[runs[-1][-1]].region == node.region):
            runs[-1].append(number)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
