"""What each gen and select of a run was asked, token by token with its origin, and what it answered.

Reads a record after the run. The answer is what the program keeps: without what a stop cut off, and
from the first token on that healing drew again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from ...contracts.events import Entry, ExprStarted, ForkOpened, RequestQueued, StreamExtended
from ...contracts.ids import ExprId, ForkId, RequestId
from .inspection import Inspection, inspections


class Cell(NamedTuple):
    """One token of a stream."""

    token: int
    kind: str
    """text, block, generated or choice, as in StreamExtended"""
    role: str
    event: int
    """number of the event that put it there"""
    is_fixed: bool = False
    """whether it is markup of the chat template or a special token"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One gen or select that was answered."""

    shown: Inspection
    prompt: tuple[Cell, ...]
    answer: tuple[int, ...]
    forced: tuple[bool, ...]
    """of each token of the answer, whether a constraint left no other"""
    choices: tuple[tuple[int, ...], ...] = ()
    """of a select: the tokens of each choice after the prompt; empty if they were not recorded"""

    @property
    def title(self) -> str:
        return self.shown.title

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the prompt."""
        return tuple(cell.token for cell in self.prompt)


def asked(entries: Iterable[Entry], is_special: Callable[[int], bool]) -> tuple[Asked, ...]:
    """The answered gens and selects in the order of their requests. `is_special` is whether a token
    is one that text never contains.
    """
    entries = tuple(entries)
    streams: dict[ForkId, list[Cell]] = {}
    expressions: set[ExprId] = set()
    waiting: dict[ForkId, RequestQueued] = {}
    begun: dict[RequestId, list[Cell]] = {}
    answers: dict[RequestId, tuple[int, ...]] = {}
    choices: dict[RequestId, tuple[tuple[int, ...], ...]] = {}
    for number, entry in enumerate(entries):
        match entry.event:
            case ForkOpened(fork=fork, parent=parent):
                streams[fork] = list(streams.get(parent, ())) if parent is not None else []
            case ExprStarted(expr=expr):
                expressions.add(expr)
            case RequestQueued(fork=fork, expr=expr) as queued if fork in streams and expr in expressions:
                if fork not in waiting or waiting[fork].expr != expr:
                    waiting[fork] = queued
            case StreamExtended(fork=fork, start=start, kind=kind, role=role) as event if fork in streams:
                stream = streams[fork]
                request = waiting[fork].request if fork in waiting else None
                if kind not in ("generated", "choice", "trim"):
                    waiting.pop(fork, None)
                elif request is not None and request not in begun:
                    queued = waiting[fork]
                    first = start if not queued.choices or queued.reusable is None else min(start, queued.reusable + 1)
                    begun[request], choices[request] = stream[:first], queued.choices
                stream[start:] = [Cell(token, kind, role, number) for token in event.tokens]
                if fork in waiting and request in begun:
                    answers[request] = tuple(cell.token for cell in stream[len(begun[request]) :])
            case _:
                pass
    found = []
    for one in inspections(entries):
        if answer := answers.get(one.request):
            prompt = tuple(with_markup(begun[one.request], is_special))
            found.append(Asked(one, prompt, answer, _forced(one, answer), choices[one.request]))
    return tuple(found)


def with_markup(cells: Iterable[Cell], is_special: Callable[[int], bool]) -> Iterable[Cell]:
    """The cells, with the chat template's markup fixed. What an event puts outside of roles is
    markup if it has a special token or goes on after markup; in a template without special tokens,
    all of it is.
    """
    cells = list(cells)
    has_roles = any(cell.role for cell in cells)
    outside = {cell.event for cell in cells if cell.kind == "text" and not cell.role}
    special = {cell.event for cell in cells if cell.event in outside and is_special(cell.token)}
    is_after_markup = False
    for event, group in groupby(cells, key=lambda cell: cell.event):
        is_markup = has_roles and event in outside and (event in special or is_after_markup or not special)
        is_after_markup = is_markup
        for cell in group:
            yield cell._replace(is_fixed=is_markup or (cell.kind != "block" and is_special(cell.token)))


def _forced(one: Inspection, answer: tuple[int, ...]) -> tuple[bool, ...]:
    """Samples may begin before the answer, with what healing drew again, and go on after it."""
    tokens = tuple(sample.token for sample in one.samples)
    for first in range(len(tokens) - len(answer) + 1):
        if tokens[first : first + len(answer)] == answer:
            return tuple(sample.forced for sample in one.samples[first : first + len(answer)])
    return (False,) * len(answer)
