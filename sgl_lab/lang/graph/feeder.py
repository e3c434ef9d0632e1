"""Feeds the nodes of a graph to the streams of a run, as soon as what they read is there.

The program's Python does not run. Strands advance independently: a strand waits only for values that
its next node reads. Every stream receives the same values in the same order as from the program
itself, so the results are the same.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from ...contracts.errors import ProgramError, UnknownVariable
from ...contracts.events import Foreseen, ForkJoined
from ...contracts.port import Backend
from ..expressions import (
    Argument,
    Concat,
    Expr,
    Fork,
    Gen,
    Join,
    Name,
    Reference,
    ScopeBegin,
    ScopeEnd,
    Select,
    Text,
    ToolTurn,
    Warm,
    reasoning_name,
)
from ..run import Strand
from ..sampling import given
from ..state import ProgramState
from ..stream import Stream
from ..streams import stream_of
from ..variable import Variable
from .coming import Item
from .dataflow import Graph
from .progress import Batch, Progress
from .symbols import Part
from .values import Assign, Call, Cond, Constant, Data, Items, Joined, Meaning, Node, State, TextSoFar

_REASONING = reasoning_name("")


class NotThere(Exception):
    """A value that a node reads is still being generated."""


class Gate(NamedTuple):
    """Holds gens and selects of later steps back."""

    steps: Mapping[int, int]
    """the step of each gen and select"""
    last: int

    def holds(self, number: int) -> bool:
        return self.steps.get(number, 0) > self.last


class Feeder:
    """One run of a graph. `advance` is called under the run's lock, whenever the run has changed."""

    def __init__(
        self, graph: Graph, state: ProgramState, arguments: Mapping[str, str], batch: Batch | None = None, item: Item | None = None
    ) -> None:
        self._item = item
        self._graph, self._state, self._run, self._arguments = graph, state, state._run, arguments
        self._strands: dict[int, Strand] = {0: state._stream}
        self._variables: dict[int, Variable] = {}
        """what a node fills"""
        self._texts: dict[int, str] = {}
        """of `TextSoFar` nodes"""
        self._after: dict[int, dict[Name, Variable]] = {}
        """the variables after the case of a `Cond`"""
        self._scopes: defaultdict[tuple[int, str], list[Variable]] = defaultdict(list)
        self._queues: dict[int, deque[int]] = {}
        """what is left of each strand; `~number` ends the case of Cond `number`"""
        self._gate: Gate | None = None
        is_together = any(node.together is not None for node in graph.nodes)
        self._at_once = self._run.backend.at_once if is_together and isinstance(self._run.backend, Backend) else nullcontext
        self._progress = Progress(graph, self._run, batch or Batch())
        self._begin(0)

    def _begin(self, region: int) -> None:
        for strand, numbers in self._graph.regions.get(region, {}).items():
            self._queues.setdefault(strand, deque()).extendleft(reversed(numbers))

    # ------------------------------------------------------------ feeding

    def advance(self, gate: Gate | None = None) -> bool:
        """Feed what can be fed now. Whether the whole graph has been fed, and what it returns is
        there; with a gate, whether all that it lets pass is done. Raises the error of a value that a
        node reads.
        """
        if self._run.stopped:
            raise self._run.stopped
        self._gate = gate
        with self._at_once():
            moved = True
            while moved:
                moved = False
                for number in list(self._queues):
                    self._call(number)
                    moved |= number in self._strands and self._feed(number)
        if gate is not None:
            return self._run.idle
        if self._queues and self._run.idle:
            at = next(iter(self._queues.values()))[0]
            raise ProgramError(f"the graph cannot continue: node %{at} reads a value that no node fills", hint="trace the program again")
        return not self._queues and self._is_there(self._graph.returned)

    def _feed(self, number: int) -> bool:
        """Feed a strand until it waits for a value. Whether anything was fed."""
        queue, strand = self._queues[number], self._strands[number]
        text: list[Expr] = []
        numbers: list[int] = []
        first = queue[0] if queue else None
        try:
            while queue:
                at = queue[0]
                if at >= 0 and (appended := self._appended(self._graph.nodes[at])) is not None:
                    text += appended
                    numbers.append(queue.popleft())
                    continue
                self._append(strand, text, numbers)
                if at < 0:
                    self._after[~at] = dict(strand.variables)
                    queue.popleft()
                else:
                    self._do(at, self._graph.nodes[at], strand)
        except NotThere:
            pass
        self._append(strand, text, numbers)
        if not queue:
            del self._queues[number]
        return not queue or queue[0] != first

    def _append(self, strand: Strand, text: list[Expr], numbers: list[int]) -> None:
        """Append what was gathered of these nodes; neighbouring texts as one, which has the same tokens."""
        if numbers:
            self._progress.entered(numbers, strand.id)
            numbers.clear()
        if text:
            parts: list[Expr] = []
            for is_text, group in groupby(text, key=lambda expr: isinstance(expr, Text)):
                run = list(group)
                parts += [Text("".join(expr.text for expr in run if isinstance(expr, Text)))] if is_text else run
            strand.submit(parts[0] if len(parts) == 1 else Concat(tuple(parts)))
            text.clear()

    def _appended(self, node: Node) -> tuple[Expr, ...] | None:
        """What a node appends that fills no variable; None if it does something else."""
        match node.value:
            case Gen() | Select():
                return None
            case Expr() as expr:
                return (expr,)
            case Argument() | Reference() as part:
                return (Text(self._text(part)),)
            case ToolTurn():  # the strand adds it by itself
                return ()
        return None

    def _do(self, at: int, node: Node, strand: Strand) -> None:
        """Raises NotThere, having done nothing, if the node has to wait."""
        if self._gate is not None and self._gate.holds(at):
            raise NotThere
        use, here = (node.use, None) if self._item is None else self._item.at(at)
        if use is not None and isinstance(strand, Stream):
            strand.foresee(Foreseen(self._run.id, *use, here))
        match node.value:
            case Gen() | Select() as request:
                self._progress.entered((at,), strand.id)
                strand.submit(request)
                self._variables[at] = strand.variables[strand.n_unnamed - 1 if request.name is None else request.name]
            case Fork() as fork:
                self._strands |= dict(zip(node.opened, strand.submit(fork), strict=True))
            case Join() as join:
                self._join(join, strand)
            case ScopeBegin(name=scope):
                strand.submit(node.value)
                self._scopes[int(strand.id), scope].append(strand.variables[scope])
            case ScopeEnd(name=scope):
                strand.submit(node.value)
                self._variables[at] = self._scopes[int(strand.id), scope].pop()
            case Warm():
                strand.submit(node.value)
            case Assign(key, data):
                self._need(data)
                strand.assign(key, self.resolved(data))
            case TextSoFar():
                self._settled(strand)
                self._texts[at] = strand.transcript.text()
            case Cond() as cond:
                self._decide(at, cond, node)
                self._progress.entered((at,), strand.id)
                return
        if not isinstance(node.value, Gen | Select):
            self._progress.entered((at,), strand.id)
        self._queues[node.strand].popleft()

    def _call(self, number: int) -> None:
        """Begin a program inside this one, if the strand's next node says so."""
        node = self._graph.nodes[self._queues[number][0]]
        if isinstance(node.value, Call) and number not in self._strands and all(map(self._is_done, node.after)):
            strand = stream_of(self._run, node.value.program)
            strand.defaults = replace(self._run.defaults, **given(dict(node.value.given)))
            self._strands[number] = strand
            self._progress.entered((self._queues[number].popleft(),), strand.id)

    def _is_done(self, at: int) -> bool:
        """Whether node `at`, the last of its strand, is done."""
        number = self._graph.nodes[at].strand
        return number in self._strands and number not in self._queues and self._strands[number].idle

    def _join(self, join: Join, strand: Strand) -> None:
        numbers = [int(fork) for fork in join.forks]
        if any(number in self._queues for number in numbers):
            raise NotThere
        children = [self._strands[number] for number in numbers]
        if not all(child.idle for child in children):
            raise NotThere
        for index, child in enumerate(children):
            if child.error is not None:
                child.error.add_note(f"in fork {index} of {len(children)}")
                raise self._run.seen(child.error)
        forks = tuple(child.id for child in children)
        strand.submit(Join(join.mode, forks))
        self._run.emit(ForkJoined(strand.id, forks, join.mode))

    def _decide(self, at: int, cond: Cond, node: Node) -> None:
        text = "".join(map(self._text, cond.on))
        region = cond.regions[cond.cases.index(text)] if text in cond.cases else cond.otherwise
        queue = self._queues[node.strand]
        queue.popleft()
        queue.appendleft(~at)
        if region is not None:
            self._begin(region)

    def _settled(self, strand: Strand) -> None:
        if not strand.idle:
            raise NotThere
        if strand.error is not None:
            raise self._run.seen(strand.error)

    # ------------------------------------------------------------ values

    def _text(self, part: Part) -> str:
        match part:
            case Text(text):
                return text
            case Argument(name):
                return self._arguments[name]
            case Reference(step, _, sample):
                if step in self._texts:
                    return self._texts[step]
                value = self._filled(part).value
                return str(value[sample]) if isinstance(value, list) else value if isinstance(value, str) else str(value)

    def _filled(self, part: Reference) -> Variable:
        """The variable that it reads, which has its value."""
        if part.step in self._after:
            name = part.name or ""
            found = self._after[part.step].get(name, self._after[part.step].get(int(name)) if name.isdecimal() else None)
            if found is None:
                raise UnknownVariable(f"no variable {name!r}", hint="the case that ran does not fill it; fill it in each case")
        elif (found := self._variables.get(part.step)) is None:
            raise NotThere
        elif part.name is not None and part.name.endswith(_REASONING) and found.reasoning is not None:
            found = found.reasoning
        if not found.done:
            raise NotThere
        if found.error is not None:
            raise self._run.seen(found.error)
        if found.aborted and self._run.stopped:
            raise self._run.stopped
        return found

    def _need(self, data: Data) -> None:
        """Raise NotThere if a part of it is not there yet."""
        match data:
            case Joined(parts):
                for part in parts:
                    self._text(part)
            case Items(_, items):
                for item in items:
                    self._need(item)
            case Meaning(of):
                self._filled(of)

    def _is_there(self, data: Data) -> bool:
        try:
            self._need(data)
        except NotThere:
            return False
        return True

    def resolved(self, data: Data) -> object:
        """The Python value of what a program returns. All of it is there."""
        match data:
            case Joined(parts):
                return "".join(map(self._text, parts))
            case Items("dict", items, keys):
                return dict(zip(keys, map(self.resolved, items), strict=True))
            case Items(kind, items):
                return (list if kind == "list" else tuple)(map(self.resolved, items))
            case Meaning(of):
                return self._filled(of).read()
            case State(strand):
                return self._state if strand == 0 else ProgramState(self._strands[strand])
            case Constant(value):
                return value
