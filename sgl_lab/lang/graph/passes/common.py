"""Programs that are called twice with the same text run once.

Safe where all gens of the call are greedy: then both would generate the same. A call that calls a
tool, or whose state is returned, stays.
"""

from __future__ import annotations

from ....contracts.params import SamplingParams
from ...expressions import Gen, Reference, Select
from ...sampling import given
from ..dataflow import Graph
from ..edit import placed, rebuilt
from ..values import Call, Node, Value
from .report import Context, Report, nothing

_GREEDY = 1e-5


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    first: dict[object, int] = {}
    instead: dict[int, int] = {}
    kept = graph.returned_states
    for strand, numbers in graph.strands.items():
        head = graph.nodes[numbers[0]]
        if not isinstance(head.value, Call) or strand in kept or not _is_repeatable(graph, numbers, head.value, context):
            continue
        key = _key(graph, numbers, instead)
        if key in first:
            instead |= dict(zip(numbers, graph.strands[first[key]], strict=True))
        else:
            first[key] = strand
    if not instead:
        return nothing(graph, "common", "no program is called twice with the same text")
    order = [(number, node) for number, node in placed(graph) if number not in instead]
    gens = sum(isinstance(graph.nodes[number].value, Gen | Select) for number in instead)
    calls = sum(isinstance(graph.nodes[number].value, Call) for number in instead)
    found = {"calls": calls, "gens and selects": gens}
    return rebuilt(graph, order, instead), Report("common", "calls with the same text run once", found)


def _is_repeatable(graph: Graph, numbers: tuple[int, ...], call: Call, context: Context) -> bool:
    """Whether it runs always, opens nothing, and generates the same each time."""
    defaults = SamplingParams(temperature=0.0 if context.greedy else 1.0)
    for number in numbers:
        node = graph.nodes[number]
        if node.region or (node.opened and number != numbers[0]):
            return False
        if isinstance(node.value, Gen):
            params = SamplingParams(**{"temperature": defaults.temperature, **given(dict(call.given)), **dict(node.value.given)})
            if node.value.execute or params.temperature > _GREEDY:
                return False
    return True


def _key(graph: Graph, numbers: tuple[int, ...], instead: dict[int, int]) -> object:
    """Equal for strands that say the same, read the same, and read the same of themselves."""
    own = {number: place for place, number in enumerate(numbers)}

    def described(node: Node) -> tuple[object, ...]:
        value: Value = node.value
        if isinstance(value, Reference):
            source = instead.get(value.step, value.step)
            return ("own" if source in own else "other", own.get(source, source), value.name, value.sample)
        return (type(value).__name__, value)

    return tuple(described(graph.nodes[number]) for number in numbers)
