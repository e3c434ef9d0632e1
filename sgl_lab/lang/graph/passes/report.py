"""What a pass is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..dataflow import Graph


@dataclass(frozen=True)
class Context:
    """`greedy`: the run's temperature is 0. `rows`: arguments that the graph is to run with, if they
    are known. `count`: tokens of a text. `orders`: the items of unordered sets in their order, where
    it was decided for a row.
    """

    greedy: bool = False
    rows: Sequence[Mapping[str, str]] = ()
    count: Callable[[str], int] = field(default=lambda text: -(-len(text) // 4))
    orders: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """`numbers` is empty if the pass found nothing."""

    name: str
    words: str
    numbers: Mapping[str, int] = field(default_factory=dict)
    state: str = ""
    """applied, suggested, or nothing to do"""

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {number:,}" for name, number in self.numbers.items())
        return f"{self.name:<10} {self.state:<13} {self.words}{f' ({numbers})' if numbers else ''}"


@dataclass(frozen=True)
class Pass:
    apply: Callable[[Graph, Context], tuple[Graph, Report]]
    is_safe: bool


def nothing(graph: Graph, name: str, words: str) -> tuple[Graph, Report]:
    return graph, Report(name, words)
