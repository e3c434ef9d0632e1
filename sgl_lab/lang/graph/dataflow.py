"""A traced program as a value."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

from ..expressions import Gen, Join, Reference, Select
from ..keywords import suggests
from . import printing, saved
from .values import Assign, Cond, Data, End, Node, parts_in, parts_of, regions_of, states_in


@dataclass(frozen=True)
class Graph:
    name: str
    arguments: tuple[str, ...]
    """the program's arguments whose text is given when the graph runs"""
    known: tuple[tuple[str, str], ...]
    """the other arguments, with the repr of the value that the graph was traced with"""
    nodes: tuple[Node, ...]
    labels: tuple[str, ...]
    """of the strands"""
    returned: Data
    end: End | None = None
    """None if the whole program was traced"""

    def __str__(self) -> str:
        return printing.listing(self)

    def __repr__(self) -> str:
        n_requests = sum(isinstance(node.value, Gen | Select) for node in self.nodes)
        partial = f", ends at {self.end.location}" if self.end else ""
        return f"<graph of {self.name}({', '.join(self.arguments)}): {len(self.nodes)} nodes, {n_requests} gens and selects{partial}>"

    # ------------------------------------------------------------ structure

    @cached_property
    def before(self) -> tuple[int | None, ...]:
        """The node before each on its strand; for a strand's first, the one that opens it; for a
        region's first, its `Cond`.
        """
        last: dict[tuple[int, int], int] = {}
        found: list[int | None] = []
        opener: dict[int, int] = {}
        for number, node in enumerate(self.nodes):
            here = (node.strand, node.region)
            if here in last:
                found.append(last[here])
            elif node.region in self.owners and self.nodes[self.owners[node.region]].strand == node.strand:
                found.append(self.owners[node.region])
            else:
                found.append(opener.get(node.strand))
            last[here] = number
            opener |= dict.fromkeys(node.opened, number)
        return tuple(found)

    @cached_property
    def owners(self) -> Mapping[int, int]:
        """The `Cond` of each region."""
        conds = [(number, node.value) for number, node in enumerate(self.nodes) if isinstance(node.value, Cond)]
        return {region: number for number, cond in conds for region in regions_of(cond)}

    @cached_property
    def reads(self) -> tuple[tuple[int, ...], ...]:
        """The nodes whose results each node reads, beside the one before it."""
        ends: dict[int, int] = {}
        found = []
        for number, node in enumerate(self.nodes):
            read = [part.step for part in parts_of(node.value) if isinstance(part, Reference)]
            if isinstance(node.value, Join):
                read += [ends[strand] for strand in map(int, node.value.forks) if strand in ends]
            found.append(tuple(dict.fromkeys(read)))
            ends[node.strand] = number
        return tuple(found)

    @cached_property
    def returned_reads(self) -> frozenset[int]:
        """The nodes whose results the program returns."""
        return frozenset(part.step for part in parts_in(self.returned) if isinstance(part, Reference))

    @cached_property
    def returned_states(self) -> frozenset[int]:
        """The strands whose states the program returns or keeps."""
        data = [self.returned, *(node.value.value for node in self.nodes if isinstance(node.value, Assign))]
        return frozenset(strand for each in data for strand in states_in(each))

    @cached_property
    def strands(self) -> Mapping[int, tuple[int, ...]]:
        """The nodes of each strand, in order."""
        nodes: defaultdict[int, list[int]] = defaultdict(list)
        for number, node in enumerate(self.nodes):
            nodes[node.strand].append(number)
        return {strand: tuple(numbers) for strand, numbers in nodes.items()}

    @cached_property
    def regions(self) -> Mapping[int, Mapping[int, tuple[int, ...]]]:
        """The nodes of each region, by strand."""
        nodes: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, node in enumerate(self.nodes):
            nodes[node.region][node.strand].append(number)
        return {region: {strand: tuple(numbers) for strand, numbers in strands.items()} for region, strands in nodes.items()}

    @cached_property
    def parents(self) -> Mapping[int, int]:
        """The node that opens each strand; the root has none."""
        return {strand: number for number, node in enumerate(self.nodes) for strand in node.opened}

    # ------------------------------------------------------------ as text, as JSON

    def dot(self) -> str:
        """The graph for graphviz."""
        return printing.dot(self)

    @cached_property
    def shown(self) -> printing.Shown:
        """The nodes as the live view shows them."""
        return printing.shown(self)

    def rows(self) -> list[printing.Row]:
        """The nodes as rows of a drawing."""
        return printing.rows(self)

    def to_json(self) -> str:
        """ProgramError if a node has Python objects that JSON cannot name."""
        return json.dumps(saved.written(self), ensure_ascii=False)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the graph to a file that `sgl.load_graph` reads, also without the program."""
        text = self.to_json()
        Path(path).write_text(text + "\n", encoding="utf-8")

    # ------------------------------------------------------------ under the original's names

    @property
    def last_node(self) -> GraphNode:
        """The last node of the program's own strand."""
        return GraphNode(self, self.strands[0][-1])

    @property
    def variables(self) -> dict[str | int, GraphNode]:
        """The last node of the program's own strand that fills each name."""
        named = [(getattr(self.nodes[number].value, "name", None), number) for number in self.strands.get(0, ())]
        return {name: GraphNode(self, number) for name, number in named if name is not None}

    @property
    def child_states(self) -> list[int]:
        """The strands that begin inside the program."""
        return sorted(self.parents)

    @property
    def ret_value(self) -> Data:
        """What the program returns."""
        return self.returned

    def flatten_nodes(self) -> list[GraphNode]:
        """The nodes under the original's names, in the program's order."""
        return [GraphNode(self, number) for number in range(len(self.nodes))]


@dataclass(frozen=True)
class GraphNode:
    """One node of a graph, under the original's names."""

    graph: Graph
    node_id: int

    @property
    def value(self) -> object:
        return self.graph.nodes[self.node_id].value

    @property
    def pid(self) -> int:
        """Its strand."""
        return self.graph.nodes[self.node_id].strand

    @property
    def prev_node(self) -> GraphNode | None:
        before = self.graph.before[self.node_id]
        return None if before is None else GraphNode(self.graph, before)

    def __repr__(self) -> str:
        return printing.line(self.graph, self.node_id)

    def print_graph_dfs(self) -> str:
        """A line for each node that this one needs, those first, and then its own."""
        return "".join(f"{printing.line(self.graph, number)}\n" for number in _needed(self.graph, self.node_id))


def _needed(graph: Graph, last: int) -> Iterator[int]:
    seen, path = set[int](), [last]
    while path:
        number = path[-1]
        before = graph.before[number]
        needs = [each for each in (before, *graph.reads[number]) if each is not None and each not in seen]
        if needs:
            path.append(needs[0])
            continue
        path.pop()
        if number not in seen:
            seen.add(number)
            yield number


@suggests
def load_graph(path: str | PathLike[str]) -> Graph:
    """The graph in a file that `Graph.save` wrote. BadArgument, in one line with the place, for
    another version or a damaged file.
    """
    return graph_of(saved.document(path))


def graph_of(document: object) -> Graph:
    return Graph(*saved.read(document))
