"""What the items of a batch that are still to come read of the prompts of an earlier one.

Each item has the same requests. So as soon as a batch begins, it is known which item reads a common
beginning next, and which is the last. The engine learns both with each request, in the places of
the batch's timeline: items that run at once have the same places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple, Protocol, TypeVar

from ...contracts.errors import SglError
from ...contracts.events import Again, InBatch
from ...contracts.ids import ForkId
from ...contracts.port import Backend, Message
from ...contracts.prefixes import n_common
from ..expressions import Argument, Fork, RoleBegin, RoleEnd, Text
from ..ids import execution_ids
from .dataflow import Graph
from .passes.foresight import LEAST, uses_of
from .passes.report import Context
from .values import Call, Use

R = TypeVar("R")

BEGIN, CONTENT, END = "\x0e", "\x0f", "\x10"
"""around a message in the text of a beginning"""
MOST = 20_000
"""beginnings that are compared; the items of a longer batch are not looked ahead of"""


class Engine(Backend, Protocol):
    def ended(self, forks: tuple[ForkId, ...], *, is_all: bool, batch: int = 0) -> None: ...


class Read(NamedTuple):
    """The beginning of one strand in one item."""

    text: str
    item: int
    strand: int
    place: int


class Coming:
    """`items`: the graph and the arguments of each, in the order in which they run; at most `width`
    at once.
    """

    def __init__(self, backend: Engine, items: Sequence[tuple[Graph, Mapping[str, str]]], width: int) -> None:
        self.number = execution_ids.next()
        self._backend = backend
        self._shapes = {id(graph): _Shape(graph) for graph, _ in items}
        self._items = [self._shapes[id(graph)] for graph, _ in items]
        n_steps = 1 + max(use.step for shape in self._shapes.values() for use in shape.uses.values()) if self._has_uses() else 1
        self._first = [at // width * n_steps for at in range(len(items))]
        """the place of each item's step 0"""
        self._count = cache(self._n_tokens)
        self._again: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
        """texts that later items read of the beginning of a strand of an item, with the next and the
        last of their places
        """
        if sum(len(shape.begins) for shape in self._items) <= MOST:
            self._look_ahead([row for _, row in items])

    def _has_uses(self) -> bool:
        return any(shape.uses for shape in self._shapes.values())

    def item(self, at: int) -> Item:
        return Item(self, at)

    def at(self, item: int, number: int) -> tuple[Use | None, InBatch | None]:
        """What is known of node `number` of an item."""
        shape = self._items[item]
        if (use := shape.uses.get(number)) is None:
            return None, None
        known = self._again.get((item, shape.roots[shape.graph.nodes[number].strand]), ())
        found: dict[int, Again] = {}
        for text, following, last in known:
            n_tokens = self._count(text)
            other = found.get(n_tokens, Again(n_tokens, following, last))
            found[n_tokens] = Again(n_tokens, min(following, other.next), max(last, other.last))
        again = tuple(each for each in found.values() if each.n_tokens >= LEAST)
        return use, InBatch(self.number, self._first[item] + use.step, again)

    def until(self, results: Iterator[R]) -> Iterator[R]:
        """The results; after the last of them, or where they are abandoned, no item will come."""
        try:
            yield from results
        finally:
            self._backend.ended((), is_all=True, batch=self.number)

    # ------------------------------------------------------------ looking ahead

    def _look_ahead(self, rows: Sequence[Mapping[str, str]]) -> None:
        reads: list[Read] = []
        for item, (shape, row) in enumerate(zip(self._items, rows, strict=True)):
            for strand, begin in shape.begins.items():
                text = "".join(row[part.name] if isinstance(part, Argument) else part for part in begin)
                reads.append(Read(text, item, strand, self._first[item] + shape.firsts[strand]))
        of_strand: dict[int, list[Read]] = {}
        for read in reads:
            of_strand.setdefault(read.strand, []).append(read)
        for members in of_strand.values():
            common = list(accumulate((each.text for each in reversed(members)), lambda one, other: one[: n_common(one, other)]))[::-1]
            for at, read in enumerate(members[:-1]):
                self._add(read, common[at], members[at + 1], members[-1])
        ordered = sorted(reads)
        for direction in (ordered, ordered[::-1]):
            for read, later in _next_items(direction):
                self._add(read, read.text[: n_common(read.text, later.text)], later, later)

    def _add(self, read: Read, text: str, following: Read, last: Read) -> None:
        if text:
            self._again.setdefault((read.item, read.strand), []).append((text, following.place, last.place))

    def _n_tokens(self, text: str) -> int:
        """Tokens of the beginning of a prompt."""
        backend = self._backend
        try:
            if BEGIN not in text:
                return len(backend.encode_all(backend.render_text(text)))
            turns = [turn.partition(CONTENT) for turn in text.split(BEGIN)]
            messages = [Message(role, content.partition(END)[0]) for role, found, content in turns if found]
            return len(backend.encode_all(backend.render_chat(messages, add_generation_prompt=False))) if messages else 0
        except SglError:
            return 0


class Item(NamedTuple):
    """One item of a batch."""

    coming: Coming
    number: int

    def at(self, node: int) -> tuple[Use | None, InBatch | None]:
        return self.coming.at(self.number, node)


class _Shape:
    """What all items with one graph have in common."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.uses = uses_of(graph, Context())
        self.begins: dict[int, list[Argument | str]] = {}
        """the literal beginning of each strand that is no child of a fork"""
        self.firsts: dict[int, int] = {}
        """the step that reads it first"""
        self.roots: dict[int, int] = {}
        """the strand whose beginning is that of each strand"""
        for strand in sorted(graph.strands):
            numbers = graph.strands[strand]
            opener = graph.parents.get(strand)
            if opener is not None and isinstance(graph.nodes[opener].value, Fork):
                self.roots[strand] = self.roots[graph.nodes[opener].strand]
                continue
            self.roots[strand] = strand
            steps = [self.uses[number].step for number in numbers if number in self.uses]
            if steps:
                self.begins[strand], self.firsts[strand] = _begin(graph, numbers), steps[0]


def _begin(graph: Graph, numbers: Sequence[int]) -> list[Argument | str]:
    found: list[Argument | str] = []
    for number in numbers:
        match graph.nodes[number].value:
            case Call():
                pass
            case Text(text):
                found.append(text)
            case Argument() as argument:
                found.append(argument)
            case RoleBegin(role):
                found.append(f"{BEGIN}{role}{CONTENT}")
            case RoleEnd():
                found.append(END)
            case _:
                break
    return found


def _next_items(reads: Sequence[Read]) -> Iterator[tuple[Read, Read]]:
    """For each the nearest one after it that a later item reads."""
    open_reads: list[Read] = []
    for read in reads:
        while open_reads and open_reads[-1].item < read.item:
            yield open_reads.pop(), read
        open_reads.append(read)
