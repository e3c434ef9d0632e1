"""An executor that executes nothing: it records the program's values, and returns placeholders for
results.

When a placeholder is appended, the trace contains an `Argument` or a `Reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from ...contracts.errors import ProgramError, Stopped
from ...contracts.ids import ForkId
from ...contracts.port import Message
from ...contracts.spans import OBJECT
from ..expressions import (
    Concat,
    Embedded,
    Expr,
    Fork,
    Gen,
    Image,
    Join,
    Name,
    Reference,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    Select,
    Text,
    TokenIds,
    Tools,
    ToolTurn,
    Unordered,
    reasoning_name,
)
from ..history import History
from ..location import user_location
from ..run import Run
from ..strand import Step, StrandBase
from ..variable import Variable
from .symbols import DependsOnText, Details, Later, Placeholder, Symbols
from .values import Assign, Constant, Data, Field, Items, Joined, Meaning, Node, State, TextSoFar, Value


class TraceEnds(Exception):
    """The program uses something that this trace does not record."""


@dataclass
class Trace(Symbols):
    """The nodes of a program in its order, across all strands. A node's number is its index."""

    only: tuple[type, ...] = (object,)
    """kinds of values that are recorded; the first value of another kind ends the trace"""
    steps: list[Node] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """of the strands"""
    region: int = 0
    n_regions: int = 1
    place: Field | None = None
    n_sets: int = 0
    closed: list[tuple[int, int]] = field(default_factory=list)
    """for each open region, its strand and the number of strands when it began: others cannot be
    appended to inside
    """

    def __post_init__(self) -> None:
        super().__init__()

    def record(self, strand: int, value: Value, opened: tuple[int, ...] = ()) -> int:
        if not isinstance(value, self.only):
            self.only = ()  # a program that continues nevertheless is not recorded
            raise TraceEnds
        if any(strand != own and strand < n_strands for own, n_strands in self.closed):
            raise ProgramError(
                f"{user_location()} appends to another state inside a case", hint="append to the case's own state, or fork it"
            )
        self.steps.append(Node(strand, value, user_location(), opened, self.region, self.place))
        return len(self.steps) - 1

    def data(self, value: object) -> Data:
        """What a program returns or keeps, with its placeholders resolved."""
        match value:
            case str():
                return Joined(tuple(self.parts(value)))
            case Later():
                return Meaning(value._sgl_value)
            case list() | tuple():
                return Items("list" if isinstance(value, list) else "tuple", tuple(map(self.data, value)))
            case dict() if all(isinstance(key, str | int) for key in value):
                return Items("dict", tuple(map(self.data, value.values())), tuple(value))
        strand = getattr(value, "_stream", None)
        return State(int(strand.id)) if isinstance(strand, Tracer) and strand.trace is self else Constant(value)


class _History(History):
    """A history whose text is in part a placeholder."""

    tracer: Tracer

    def text(self) -> str:
        return self.tracer.text_so_far(super().text)

    @property
    def messages(self) -> tuple[Message, ...]:
        for entry in self.history:
            if self.tracer.trace.found(getattr(entry, "text", "")):
                raise DependsOnText("the messages so far", self.tracer.trace.found(getattr(entry, "text", "")))
        return super().messages


class Kept(NamedTuple):
    """The state of a strand before a case."""

    variables: dict[Name, Variable]
    role: str | None
    n_unnamed: int
    history: History


class Tracer(StrandBase):
    """A `Strand` of a trace. Its transcript has placeholders for text of an argument or the model."""

    error: Exception | None = None
    idle = True
    partial = ""

    def __init__(self, run: Run, trace: Trace, label: str = "s", parent: Self | None = None, index: int = 0) -> None:
        super().__init__(run, ForkId(len(trace.labels)), label, parent, index)
        trace.labels.append(label)
        self.trace = trace
        self.transcript = _History(run.chat)
        self.transcript.tracer = self
        if parent:
            self.transcript.go_on_from(parent.transcript)
        self.n_inherited = len(self.transcript.history)

    def stop(self, stopped: Stopped) -> None:
        """Nothing is running."""

    def abandon(self, error: Exception) -> None:
        """There are no requests."""

    def _child(self, label: str, index: int) -> Self:
        return type(self)(self.run, self.trace, label, self, index)

    def _append(self, expr: Expr) -> None:
        for piece, place in self._pieces(expr):
            self.trace.place = place
            super()._append(piece)
        self.trace.place = None

    def _pieces(self, expr: Expr) -> Iterator[tuple[Expr, Field | None]]:
        """The parts of `expr`, each with its place in an unordered set."""
        if isinstance(expr, Unordered):
            number, self.trace.n_sets = self.trace.n_sets, self.trace.n_sets + 1
            yield from ((item, Field(number, index)) for index, item in enumerate(expr.items))
        elif isinstance(expr, Concat) and any(isinstance(part, Unordered) for part in expr.parts):
            for part in expr.parts:
                yield from self._pieces(part)
        else:
            yield expr, None

    def _described(self, tools: Tools) -> Text | Tools:
        return tools if isinstance(tools, self.trace.only) else super()._described(tools)

    def assign(self, name: Name, value: object) -> None:
        if isinstance(name, str | int) and isinstance(Assign(name, Constant(value)), self.trace.only):
            self.trace.record(int(self.id), Assign(name, self.trace.data(value)))
        super().assign(name, self.trace.wrapped(value) if isinstance(value, str) else value)

    def text_so_far(self, plain: Callable[[], str]) -> str:
        if self.trace.only != (object,):
            return plain()
        return self.trace.placeholder(Reference(self.trace.record(int(self.id), TextSoFar()), None))

    def _take(self, *steps: Step[Self]) -> None:
        for step in steps:
            opened = tuple(int(strand.id) for strand in step.strands) if isinstance(step.value, Fork) else ()
            if isinstance(step.value, Gen | Select):
                self._refuse_symbols(step.value)
            for value in self.trace.parts(step.value.text) if isinstance(step.value, Text) else (step.value,):
                self.trace.record(int(self.id), value, opened)
            self._follow(step)

    def _refuse_symbols(self, value: Gen | Select) -> None:
        """Only text may be symbolic, no argument of a gen."""
        stated = (*value.choices, value.name) if isinstance(value, Select) else (value.name, repr(value.given), repr(value.form))
        if found := tuple(each for text in stated if text for each in self.trace.found(text)):
            raise DependsOnText(f"an argument of {value.kind}({value.name!r:.30})", found)

    def _follow(self, step: Step[Self]) -> None:
        """Update the transcript and the variable to the state after the step."""
        transcript, variable = self.transcript, step.variable
        match step.value:
            case Text(text):
                transcript.say(str(text))
            case TokenIds(ids):
                transcript.say(OBJECT * len(ids))
            case Embedded(block):
                transcript.embed(block)
            case Image() as image:
                transcript.show(image.part)
            case RoleBegin(role):
                transcript.begin(role)
            case RoleEnd():
                transcript.end()
            case Tools() as tools:
                transcript.say(str(tools))
            case Gen(name) | Select(name) if variable:
                self._promise_values(name, step.value, variable, step.params.n if step.params else 1)
            case ToolTurn(_, in_roles):
                transcript.observe(str(self._promise(None)), in_roles)
            case ScopeBegin() if variable:
                variable.mark = len(transcript.history)
            case ScopeEnd(name) if variable:
                variable.set(self._scope_text(name, transcript.said_since(variable.mark)))
            case Join("concate_and_append"):
                transcript.replay(entry for child in step.strands for entry in child.own_history)

    def _promise_values(self, name: str | None, value: Gen | Select, variable: Variable, n: int) -> None:
        samples = [self._promise(name, sample) for sample in range(n)]
        of = Reference(len(self.trace.steps) - 1, name)
        details = Details(of)
        variable.set(samples if n > 1 else samples[0], [details] * n if n > 1 else details)
        if isinstance(value, Gen) and value.form:
            variable.means = (lambda: Later(of)) if self.trace.only == (object,) else samples[0]._refuse
        if variable.reasoning:
            variable.reasoning.set(self._promise(reasoning_name(name or "")))
        self.transcript.say(str(samples[0]))

    def _scope_text(self, name: str, text: str) -> str:
        if self.trace.only != (object,):
            return Placeholder(text)
        return self._promise(name)

    def _promise(self, name: str | None, sample: int = 0) -> Placeholder:
        return self.trace.placeholder(Reference(len(self.trace.steps) - 1, name, sample))

    # ------------------------------------------------------------ cases

    def kept(self) -> Kept:
        history = History(self.run.chat)
        history.go_on_from(self.transcript)
        return Kept(dict(self.variables), self.role, self.n_unnamed, history)

    def restore(self, kept: Kept) -> None:
        self.variables, self.role, self.n_unnamed = dict(kept.variables), kept.role, kept.n_unnamed
        self.transcript.go_on_from(kept.history)

    @contextmanager
    def region(self) -> Iterator[int]:
        """What is recorded inside belongs to a region of its own."""
        trace, outer = self.trace, self.trace.region
        trace.region, trace.n_regions = trace.n_regions, trace.n_regions + 1
        trace.closed.append((int(self.id), len(trace.labels)))
        try:
            yield trace.region
        finally:
            trace.region = outer
            trace.closed.pop()

    def merge(self, number: int, before: Kept, after: list[Kept]) -> None:
        """Continue after the cases of `Cond` number `number`: a name that any case fills is the
        case's that ran.
        """
        if len({kept.role for kept in after}) > 1:
            raise ProgramError(f"{user_location()}: the cases end in different roles", hint="end each role in the case that begins it")
        self.restore(after[0])
        self.variables = dict(before.variables)
        self.n_unnamed = max(kept.n_unnamed for kept in after)
        for name in dict.fromkeys(name for kept in after for name in kept.variables):
            if any(kept.variables.get(name) is not before.variables.get(name) for kept in after):
                merged = self.variables[name] = Variable(self)
                reference = Reference(number, str(name))
                merged.set(self.trace.placeholder(reference), Details(reference))
                if any(kept.variables[name].means for kept in after if name in kept.variables):
                    merged.means = lambda reference=reference: Later(reference)
