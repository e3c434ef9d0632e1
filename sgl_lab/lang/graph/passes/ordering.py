"""The order of an unordered set's items for each row of a batch, and not for the batch as a whole.

Greedy group recursion (GGR, arXiv:2403.05821): the text that saves most if all rows that have it
begin with it comes first in these rows; then the same among them, and among the others. A text is
the same in whatever place it stands, such as a passage that was found first here and third there.
Constants come first in any case, and text of the model last.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
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
    size = cache(count)
    found: list[list[int]] = [[] for _ in table]
    left = [list(range(len(texts))) for texts in table]
    open_groups = [list(range(len(table)))]
    while open_groups:
        for text, rows in _parts(table, open_groups.pop(), left, size):
            for row in rows:
                if text is None:
                    found[row] += left[row]
                else:
                    place = next(each for each in left[row] if table[row][each] == text)
                    left[row].remove(place)
                    found[row].append(place)
            if text is not None:
                open_groups.append(rows)
    return [tuple(each) for each in found]


def _parts(
    table: Sequence[Sequence[str]], rows: Sequence[int], left: Sequence[Sequence[int]], size: Callable[[str], int]
) -> Iterator[tuple[str | None, list[int]]]:
    """The rows that have the text that saves most, in whatever places, then likewise among the
    others; at the end those that have nothing in common.
    """
    having: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for row in rows:
        for place in left[row]:
            having[table[row][place]][row] = None
    ranked = [(-(len(members) - 1) * size(text), number, text) for number, (text, members) in enumerate(having.items())]
    heapq.heapify(ranked)
    others = dict.fromkeys(rows)
    while ranked and ranked[0][0] < 0:
        saves, number, text = heapq.heappop(ranked)
        members = having[text]
        if (now := -(len(members) - 1) * size(text)) != saves:  # rows have left since
            heapq.heappush(ranked, (now, number, text))
            continue
        chosen = list(members)
        for row in chosen:
            del others[row]
            for each in {table[row][place] for place in left[row]}:
                del having[each][row]
        yield text, chosen
    yield None, list(others)


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
