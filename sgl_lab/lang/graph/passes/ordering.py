"""The order of an unordered set's items for each row of a batch, and not for the batch as a whole.

Greedy group recursion (GGR, arXiv:2403.05821): the text that saves most if all rows that have it
begin with it comes first in these rows; then the same among them, and among the others. Constants
come first in any case, and text of the model last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from ....contracts.prefixes import n_common
from ...expressions import Argument, Gen, Reference, RoleBegin, RoleEnd, Select, Text
from ..dataflow import Graph

Order = tuple[int, ...]
"""places of a row's texts"""
MOST_CELLS = 200_000
"""texts of a table beyond which one order serves all rows"""


def greedy(table: Sequence[Sequence[str]], count: Callable[[str], int] = len) -> list[Order]:
    """The order of the texts in each row. `count`: what a text saves when it is shared."""
    sizes: dict[str, int] = {}
    found: list[list[int]] = [[] for _ in table]
    open_groups = [(tuple(range(len(table))), tuple(range(len(table[0]) if table else 0)))]
    while open_groups:
        rows, places = open_groups.pop()
        best = _best(table, rows, places, sizes, count) if len(places) > 1 and len(rows) > 1 else None
        if best is None:
            for row in rows:
                found[row] += places
            continue
        place, text = best
        having = tuple(row for row in rows if table[row][place] == text)
        for row in having:
            found[row].append(place)
        open_groups.append((having, tuple(each for each in places if each != place)))
        if others := tuple(row for row in rows if table[row][place] != text):
            open_groups.append((others, places))
    return [tuple(each) for each in found]


def _best(
    table: Sequence[Sequence[str]], rows: Sequence[int], places: Sequence[int], sizes: dict[str, int], count: Callable[[str], int]
) -> tuple[int, str] | None:
    """The place and the text that save most; None if no text is there twice."""
    n_rows: defaultdict[tuple[int, str], int] = defaultdict(int)
    for row in rows:
        texts = table[row]
        for place in places:
            n_rows[place, texts[place]] += 1
    best, most = None, 0
    for (place, text), n in n_rows.items():
        if n > 1:
            size = sizes[text] if text in sizes else sizes.setdefault(text, count(text))
            if (n - 1) * size > most:
                best, most = (place, text), (n - 1) * size
    return best


def orders(graph: Graph, rows: Sequence[Mapping[str, str]], count: Callable[[str], int]) -> list[Mapping[int, Order]]:
    """For each row the items of each set in their order; empty where one order serves all rows."""
    sets: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, node in enumerate(graph.nodes):
        if node.field is not None:
            sets[node.field.set][node.field.item].append(number)
    found: list[dict[int, Order]] = [{} for _ in rows]
    for which, members in sets.items():
        values = {item: [graph.nodes[number].value for number in numbers] for item, numbers in members.items()}
        if any(isinstance(value, Gen | Select) for each in values.values() for value in each):
            continue
        last = [item for item, each in values.items() if any(isinstance(value, Reference) for value in each)]
        varying = [item for item, each in values.items() if item not in last and any(isinstance(value, Argument) for value in each)]
        first = [item for item in values if item not in last and item not in varying]
        if len(varying) < 2 or len(rows) * len(varying) > MOST_CELLS:
            continue
        table = [["".join(_text_of(value, row) for value in values[item]) for item in varying] for row in rows]
        for row, order in zip(found, greedy(table, count), strict=True):
            row[which] = (*first, *(varying[place] for place in order), *last)
    return list(found)


def beginning(graph: Graph, row: Mapping[str, str]) -> str:
    """The text of a run on the program's own strand before the model says anything."""
    parts = []
    for node in graph.nodes:
        if node.strand == 0:
            if not isinstance(node.value, Text | Argument | RoleBegin | RoleEnd):
                break
            parts.append(_text_of(node.value, row))
    return "".join(parts)


def shared(beginnings: Sequence[str], count: Callable[[str], int]) -> int:
    """Tokens that rows in the order of their beginnings have in common with the row before."""
    ordered = sorted(beginnings)
    return sum(count(other[: n_common(one, other)]) for one, other in pairwise(ordered))


def _text_of(value: object, row: Mapping[str, str]) -> str:
    match value:
        case Text(text):
            return text
        case Argument(name):
            return row.get(name, "")
        case RoleBegin(role) | RoleEnd(role):
            return f"<{type(value).__name__} {role}>"
    return ""
