"""When a program reads again what a request leaves in the cache, in the program's own steps.

A step is a gen or select after all that it waits for. The engine gets these numbers with each
request, and evicts first what is read last or never; of requests that find as much in the cache it
takes first the one for which most steps wait. Where a case may run, its requests count as if they do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ....contracts.prefixes import n_common
from ...expressions import Argument, Fork, Gen, Reference, RoleBegin, RoleEnd, Select, Text, Warm
from ..dataflow import Graph
from ..values import Call, Use, Value
from .reading import beginning, n_tokens, sources, steps_of
from .report import Context, Report, nothing

LEAST = 32
"""tokens that two calls have in common at their beginnings, for the second to read what the first left"""

BEGINS = (Text, Argument, Reference, RoleBegin, RoleEnd)
"""what the beginning of a call consists of"""


def uses_of(graph: Graph, context: Context) -> dict[int, Use]:
    """Of each gen, select, fork and warming: its step, the step that reads again what it leaves, and
    the steps that wait for it.
    """
    steps, after = steps_of(graph), _after(graph)
    again = _next_uses(graph, steps, _alike(graph, context))
    uses: dict[int, Use] = {}
    for number, node in enumerate(graph.nodes):
        if isinstance(node.value, Gen | Select | Fork | Warm):
            later = min((step for step in again.get(number, ()) if step > steps[number]), default=0)
            uses[number] = Use(steps[number], later, after[number])
    return uses


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    uses = uses_of(graph, context)
    n_again = sum(use.next > 0 for use in uses.values())
    if not n_again:
        return nothing(graph, "foresight", "no text is read by two requests")
    nodes = tuple(replace(node, use=uses.get(number)) for number, node in enumerate(graph.nodes))
    farthest = max(use.next - use.step for use in uses.values())
    numbers = {"requests": len(uses), "read again": n_again, "steps until then at most": farthest}
    return replace(graph, nodes=nodes), Report("foresight", "the engine knows when what a request leaves is read again", numbers)


def _after(graph: Graph) -> list[int]:
    """How many steps wait for each node, one after the other."""
    after = [0] * len(graph.nodes)
    for number in range(len(graph.nodes) - 1, -1, -1):
        mine = after[number] + isinstance(graph.nodes[number].value, Gen | Select)
        for source in sources(graph, number):
            after[source] = max(after[source], mine)
    return after


def _next_uses(graph: Graph, steps: Sequence[int], alike: Mapping[int, Sequence[int]]) -> Mapping[int, list[int]]:
    """Steps of the requests that read what each request leaves: those that follow on its strand, the
    first in the forks that open there, and calls that begin alike.
    """
    firsts: dict[int, list[int]] = {}
    found: defaultdict[int, list[int]] = defaultdict(list)
    for strand in sorted(graph.strands, reverse=True):  # children before those that open them
        coming: list[int] = []
        for number in reversed(graph.strands[strand]):
            node = graph.nodes[number]
            children = [step for child in node.opened if child != strand for step in firsts.get(child, ())]
            found[number] += [*coming, *children]
            coming = [*coming, *children]
            if isinstance(node.value, Gen | Select):
                coming = [steps[number]]
        firsts[strand] = coming
    for strand, calls in alike.items():
        for number in graph.strands[strand]:
            found[number] += [step for call in calls for step in firsts.get(call, ())]
    return found


def _alike(graph: Graph, context: Context) -> Mapping[int, list[int]]:
    """For each call, the later ones that begin with the same long text."""
    calls = sorted((strand, numbers) for strand, numbers in graph.strands.items() if _is_call(graph, numbers))
    begun = [(strand, beginning(graph, numbers, BEGINS)) for strand, numbers in calls]
    groups: defaultdict[Value, list[tuple[int, tuple[Value, ...]]]] = defaultdict(list)
    for strand, start in begun:
        if start:
            groups[start[0]].append((strand, start))
    found: defaultdict[int, list[int]] = defaultdict(list)
    for members in groups.values():
        for at, (strand, start) in enumerate(members):
            for other, its in members[at + 1 :]:
                shared = start[: n_common(start, its)]
                if n_tokens(shared, context) >= LEAST:
                    found[strand].append(other)
    return found


def _is_call(graph: Graph, numbers: Sequence[int]) -> bool:
    return isinstance(graph.nodes[numbers[0]].value, Call)
