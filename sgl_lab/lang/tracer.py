"""An executor that executes nothing: it records the program's values, and returns placeholders for
results.

A placeholder is a string that occurs nowhere else, so it may be part of an f-string or be joined
with other text. When it is appended, the trace contains an `Argument` or a `Reference`. A program
that reads its characters is refused, because with the real text it might take another branch.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn, Self

from ..contracts.errors import ProgramError, Stopped
from ..contracts.ids import ForkId
from .expressions import (
    Argument,
    Embedded,
    Fork,
    Gen,
    Image,
    Join,
    Primitive,
    Reference,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    Select,
    Text,
    ToolTurn,
    reasoning_name,
)
from .history import History
from .location import SourceLocation, user_location
from .run import Run
from .strand import Step, StrandBase


class TraceEnds(Exception):
    """The program uses something that this trace does not record."""


class Placeholder(str):
    """Text that does not exist yet. It can be joined with other text and appended; everything else
    is refused.
    """

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ProgramError(
            f"{user_location()} depends on text that is not there while the program is traced",
            hint="append the text as it is, or let the model choose with select(...)",
        )

    def __format__(self, spec: str) -> str:
        return self._refuse() if spec else str(self)


_JOINS = {
    *("__new__", "__getattribute__", "__getnewargs__", "__doc__", "__hash__", "__sizeof__"),
    *("__str__", "__format__", "__add__", "__mul__", "__rmul__"),
}
for _name in (vars(str).keys() | {"__bool__"}) - _JOINS:
    setattr(Placeholder, _name, Placeholder._refuse)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One step. `opened` are the strands that begin with it."""

    strand: ForkId
    value: Primitive
    location: SourceLocation
    opened: tuple[ForkId, ...] = ()


@dataclass
class Trace:
    """The steps of a program in its order, across all strands. A step's number is its index."""

    only: tuple[type, ...] = (object,)
    """kinds of values that are recorded; the first value of another kind ends the trace"""
    steps: list[Recorded] = field(default_factory=list)
    n_strands: int = 0
    _key: str = field(default_factory=lambda: secrets.token_hex(16))
    _promised: list[Argument | Reference] = field(default_factory=list)

    def placeholder(self, value: Argument | Reference) -> Placeholder:
        self._promised.append(value)
        return Placeholder(f"\ue000{self._key}:{len(self._promised) - 1}\ue001")

    def parts(self, text: str) -> Iterator[Text | Argument | Reference]:
        """Appended text, with its placeholders resolved."""
        for index, part in enumerate(re.split(f"\ue000{self._key}:([0-9]+)\ue001", str(text))):
            if index % 2:
                yield self._promised[int(part)]
            elif part:
                yield Text(part)

    def record(self, strand: ForkId, value: Primitive, opened: tuple[ForkId, ...]) -> None:
        if not isinstance(value, self.only):
            self.only = ()  # a program that continues nevertheless is not recorded
            raise TraceEnds
        self.steps.append(Recorded(strand, value, user_location(), opened))


class Tracer(StrandBase):
    """A `Strand` of a trace. Its transcript has placeholders for text of an argument or the model."""

    error: Exception | None = None
    idle = True
    partial = ""

    def __init__(self, run: Run, trace: Trace, label: str = "s", parent: Self | None = None, index: int = 0) -> None:
        super().__init__(run, ForkId(trace.n_strands), label, parent, index)
        trace.n_strands += 1
        self.trace = trace
        self.transcript = History(run.chat)
        if parent:
            self.transcript.go_on_from(parent.transcript)
        self.n_inherited = len(self.transcript.history)

    def stop(self, stopped: Stopped) -> None:
        """Nothing is running."""

    def abandon(self, error: Exception) -> None:
        """There are no requests."""

    def _child(self, label: str, index: int) -> Self:
        return type(self)(self.run, self.trace, label, self, index)

    def _take(self, *steps: Step[Self]) -> None:
        for step in steps:
            opened = tuple(strand.id for strand in step.strands) if isinstance(step.value, Fork) else ()
            for value in self.trace.parts(step.value.text) if isinstance(step.value, Text) else (step.value,):
                self.trace.record(self.id, value, opened)
            self._follow(step)

    def _follow(self, step: Step[Self]) -> None:
        """Update the transcript and the variable to the state after the step."""
        transcript, variable = self.transcript, step.variable
        match step.value:
            case Text(text):
                transcript.say(str(text))
            case Embedded(block):
                transcript.embed(block)
            case Image() as image:
                transcript.show(image.part)
            case RoleBegin(role):
                transcript.begin(role)
            case RoleEnd():
                transcript.end()
            case Gen(name) | Select(name) if variable:
                samples = [self._promise(name, sample) for sample in range(step.params.n if step.params else 1)]
                variable.set(samples if len(samples) > 1 else samples[0])
                variable.means = samples[0]._refuse if isinstance(step.value, Gen) and step.value.form else None
                if variable.reasoning:
                    variable.reasoning.set(self._promise(reasoning_name(name or "")))
                transcript.say(str(samples[0]))
            case ToolTurn(_, in_roles):
                transcript.observe(str(self._promise(None)), in_roles)
            case ScopeBegin() if variable:
                variable.mark = len(transcript.history)
            case ScopeEnd() if variable:
                variable.set(Placeholder(transcript.said_since(variable.mark)))
            case Join("concate_and_append"):
                transcript.replay(entry for child in step.strands for entry in child.own_history)

    def _promise(self, name: str | None, sample: int = 0) -> Placeholder:
        return self.trace.placeholder(Reference(len(self.trace.steps) - 1, name, sample))
