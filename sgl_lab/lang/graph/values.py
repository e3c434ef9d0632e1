"""The nodes of a traced program, in its order, across all strands.

A node's number is its index. It reads only nodes before it, so the order is topological. A node
belongs to a strand, and to a region: region 0 always runs, each other one is a case of a `Cond`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..expressions import Argument, Primitive, Reference
from ..location import SourceLocation
from .symbols import Part

# ---------------------------------------------------------------- what only a traced program contains


@dataclass(frozen=True)
class Joined:
    """A text composed of parts."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Items:
    """A list, a tuple, or a dict with `keys`."""

    kind: Literal["list", "tuple", "dict"]
    items: tuple[Data, ...]
    keys: tuple[str | int, ...] = ()


@dataclass(frozen=True)
class Meaning:
    """The value, such as a number, that the text of a gen means."""

    of: Reference


@dataclass(frozen=True)
class State:
    """A state of the program: its strand."""

    strand: int


@dataclass(frozen=True)
class Constant:
    """A Python value that was there while the program was traced."""

    value: object


Data = Joined | Items | Meaning | State | Constant
"""What a program returns or keeps under a name."""


@dataclass(frozen=True)
class Assign:
    """`s[name] = value`."""

    name: str | int
    value: Data


@dataclass(frozen=True)
class TextSoFar:
    """`s.text()`: all text up to here."""


@dataclass(frozen=True)
class Call:
    """A program begins inside this one, with a strand and sampling arguments of its own."""

    program: str
    given: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Cond:
    """The region of the case that equals the text runs; without one, `otherwise`."""

    on: tuple[Part, ...]
    cases: tuple[str, ...]
    regions: tuple[int, ...]
    otherwise: int | None = None


Value = Primitive | Assign | TextSoFar | Call | Cond


@dataclass(frozen=True)
class Field:
    """The place of a node in an `unordered` set: the set's number, and the item's."""

    set: int
    item: int


class Use(NamedTuple):
    """When what a request leaves in the cache is read, in steps of the program: a step is a gen or
    select after all that it waits for.
    """

    step: int
    """of the request"""
    next: int
    """the step that reads it again; 0: none does"""
    n_after: int
    """steps that wait for it, one after the other"""


@dataclass(frozen=True)
class Node:
    strand: int
    value: Value
    location: SourceLocation
    opened: tuple[int, ...] = ()
    """the strands that begin with it"""
    region: int = 0
    field: Field | None = None
    after: tuple[int, ...] = ()
    """nodes that have to be done first, although it reads nothing of them"""
    together: int | None = None
    """the group of gens and selects that start together"""
    use: Use | None = None
    """of a request, if the engine is to know it"""


@dataclass(frozen=True)
class End:
    """Where a partial trace ends, and why."""

    location: SourceLocation
    why: str


def regions_of(cond: Cond) -> tuple[int, ...]:
    return cond.regions if cond.otherwise is None else (*cond.regions, cond.otherwise)


def parts_of(value: Value) -> Iterator[Part]:
    """The parts of texts that a node reads."""
    match value:
        case Argument() | Reference():
            yield value
        case Assign(_, data):
            yield from parts_in(data)
        case Cond(on):
            yield from on


def parts_in(data: Data) -> Iterator[Part]:
    match data:
        case Joined(parts):
            yield from parts
        case Items(_, items):
            for item in items:
                yield from parts_in(item)
        case Meaning(of):
            yield of
        case State() | Constant():
            pass
        case _:
            raise TypeError(f"{data!r:.40} is no data of a program")


def states_in(data: Data) -> Iterator[int]:
    match data:
        case State(strand):
            yield strand
        case Items(_, items):
            for item in items:
                yield from states_in(item)


def arguments_in_order(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The arguments, in the order in which the nodes read them."""
    return tuple(dict.fromkeys(part.name for node in nodes for part in parts_of(node.value) if isinstance(part, Argument)))
