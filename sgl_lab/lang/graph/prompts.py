"""The prompts of one run, nearly, without running it: to compare orders of a batch.

Every literal text is encoded by itself, so a seam may have a token more or less than in a run. That
is a hundred times as fast as a run on a stand-in. `plan` is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..expressions import Argument, Fork, Gen, Join, Reference, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, Select, Text, Warm
from ..sampling import GenDefaults
from .dataflow import Graph
from .values import Assign, Call

Tokens = tuple[int, ...]

MARKS = (-1, -2)
"""what most templates have beside the role: two tokens before a message, and two after it"""

_PLAIN = (Text, Argument, Reference, RoleBegin, RoleEnd, Gen, Select, Fork, Join, Call, Warm, Assign, ScopeBegin, ScopeEnd)


def is_plain(graph: Graph) -> bool:
    """Whether its prompts consist of literal texts, arguments and answers."""
    answers = {number for number, node in enumerate(graph.nodes) if isinstance(node.value, Gen | Select)}
    for node in graph.nodes:
        match node.value:
            case Reference(step):
                if step not in answers:
                    return False
            case Join(mode):
                if mode != "gather_variable":
                    return False
            case value if not isinstance(value, _PLAIN):
                return False
    return True


class Prompts:
    """Of a graph that `is_plain`. `encode`: the tokens of a text. `steps`: the turn of each gen and
    select.
    """

    def __init__(self, graph: Graph, encode: Callable[[str], Tokens], steps: Mapping[int, int], defaults: GenDefaults) -> None:
        self._graph, self._encode, self._steps, self._defaults = graph, encode, steps, defaults
        self._n_steps = 1 + max(steps.values(), default=-1)
        self._unique = min(MARKS)

    def of(self, row: Mapping[str, str]) -> list[list[Tokens]]:
        """The prompts of a run with these arguments, by their turn. Each answer has tokens of its own."""
        graph, encode = self._graph, self._encode
        found: list[list[Tokens]] = [[] for _ in range(self._n_steps)]
        text: dict[int, list[int]] = {0: []}
        answers: dict[int, Tokens] = {}
        for number, node in enumerate(graph.nodes):
            here = text.setdefault(node.strand, [])
            match node.value:
                case Text(words):
                    here += encode(words)
                case Argument(name):
                    here += encode(row[name])
                case Reference(step):
                    here += answers[step]
                case RoleBegin(role):
                    here += (*encode(role), *MARKS)
                case RoleEnd():
                    here += MARKS
                case Gen() as gen:
                    found[self._steps[number]].append(tuple(here))
                    answers[number] = self._answer(gen)
                    here += answers[number]
                case Select(choices=choices):
                    found[self._steps[number]].append(tuple(here))
                    answers[number] = encode(choices[0])
                    here += answers[number]
                case Fork():
                    text |= {child: list(here) for child in node.opened if child != node.strand}
        return found

    def _answer(self, gen: Gen) -> Tokens:
        most = dict(gen.given).get("max_tokens", self._defaults.max_tokens)
        self._unique -= (n := most if isinstance(most, int) else 16)
        return tuple(range(self._unique, self._unique + n))
