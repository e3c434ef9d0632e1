"""The items of an `unordered` set are put in the order in which prompts begin alike for longest.

Constant items come first, then those of arguments, then text of the model. Of arguments those come
first whose texts repeat most in the rows of the batch, weighed by their length, as GGR orders the
fields of a table (arXiv:2403.05821). A batch may decide the order row by row (`ordering`). The
program declared that their order is free.
"""

from __future__ import annotations

from collections import defaultdict

from ...expressions import Argument, Gen, Reference, Select, Text
from ..dataflow import Graph
from ..edit import rebuilt
from ..values import Node
from .report import Context, Report, nothing


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    items: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, node in enumerate(graph.nodes):
        if node.field is not None:
            items[node.field.set][node.field.item].append(number)
    order, moved, saved = list(range(len(graph.nodes))), 0, 0
    for which, members in items.items():
        numbers = sorted(number for group in members.values() for number in group)
        if any(isinstance(graph.nodes[number].value, Gen | Select) for number in numbers):
            continue  # what the model says first, later items read
        decided = context.orders.get(which)
        ranked = decided or sorted(members, key=lambda item: (_rank([graph.nodes[n] for n in members[item]], context), item))
        if list(ranked) != sorted(members):
            moved += 1
            saved += _saved(graph, [members[item] for item in sorted(members)], [members[item] for item in ranked], context)
            for place, number in zip(numbers, [number for item in ranked for number in members[item]], strict=True):
                order[place] = number
    if not moved:
        return nothing(graph, "fields", "no unordered set gains by another order")
    words = "items of unordered sets are reordered, so that prompts begin alike for longer"
    return rebuilt(graph, [(number, graph.nodes[number]) for number in order]), Report(
        "fields", words, {"sets": moved, "tokens shared by the next run": saved}
    )


def _rank(nodes: list[Node], context: Context) -> tuple[int, float, int]:
    """0 for constants, 2 for text of the model. 1 for arguments: with the share of their tokens that
    no earlier row has, and then the longest first.
    """
    if any(isinstance(node.value, Reference) for node in nodes):
        return 2, 0.0, 0
    names = [node.value.name for node in nodes if isinstance(node.value, Argument)]
    if not names:
        return 0, 0.0, 0
    texts = ["".join(row.get(name, "") for name in names) for row in context.rows]
    n_tokens = sum(map(context.count, texts))
    return 1, sum(map(context.count, set(texts))) / max(1, n_tokens), -n_tokens


def _saved(graph: Graph, before: list[list[int]], after: list[list[int]], context: Context) -> int:
    return _constant(graph, after, context) - _constant(graph, before, context)


def _constant(graph: Graph, groups: list[list[int]], context: Context) -> int:
    """Tokens before the first text that differs from run to run."""
    text = ""
    for group in groups:
        for number in group:
            value = graph.nodes[number].value
            if isinstance(value, Argument | Reference):
                return context.count(text)
            text += value.text if isinstance(value, Text) else ""
    return context.count(text)
