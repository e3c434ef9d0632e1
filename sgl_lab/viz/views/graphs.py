"""The dataflow graphs of compiled programs: which nodes wait, run, are done or have failed.

A node that a stream has been given is queued until the stream reaches it. A gen or select runs from
its ExprStarted to its ExprFinished; everything else is done as soon as the nodes before it are.
Executions of one graph, such as the items of a batch, are counted at the same nodes.

Knows where a node's tokens are in its stream, and no token's text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypedDict

from ...contracts.events import (
    Entry,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    GraphNode,
    GraphStarted,
    NodesEntered,
    RequestQueued,
    StreamExtended,
)
from ...contracts.ids import ExprId, ForkId, RequestId, RunId
from ...contracts.legible import clipped
from .layers import HEAD, LETTERS, PITCH, layout

MOST = 2_000
"""nodes that are kept; of a graph beyond that only the name and the number of nodes"""
MOST_PLACES = 32
"""stretches of tokens, and requests, that are kept of one node: the last ones"""
ASKING = ("gen", "select")
STATES = ("queued", "running", "done", "failed")
LEAST_BYTES = 150
"""of a node as JSON"""


class GraphRow(TypedDict):
    graph: int
    name: str
    n: int
    """nodes"""
    is_kept: bool
    """whether its nodes are"""
    runs: int
    """executions that have begun"""
    y: int
    """of its heading"""


class StepRow(TypedDict):
    id: int
    graph: int
    kind: str
    label: str
    words: str
    strand: int
    x: int
    y: int
    w: int
    """place and width in pixels"""
    after: list[int]
    reads: list[int]
    n: list[int]
    """executions in which it is queued, running, done, failed"""
    state: str
    """one of these, or idle: not reached"""
    places: list[list[int | None]]
    """its tokens: fork, first position, and the one after the last; None while it grows"""
    requests: list[int]


class GraphsPicture(TypedDict):
    graphs: list[GraphRow]
    steps: list[StepRow]
    width: int
    height: int


@dataclass(slots=True)
class _Execution:
    row: GraphRow
    first: int
    """id of the graph's first node"""


@dataclass(slots=True)
class _Stream:
    """What one fork has been given."""

    queue: deque[StepRow] = field(default_factory=deque)
    texts: list[StepRow] = field(default_factory=list)
    """those whose tokens are not known yet"""
    asking: StepRow | None = None
    """the gen or select that it reached last"""
    expr: ExprId | None = None
    is_open: bool = False


class GraphsView:
    """Graphs of one run, or of all runs with `run=None`."""

    def __init__(self, run: RunId | None = None) -> None:
        self._run = run
        self._graphs: list[GraphRow] = []
        self._steps: list[StepRow] = []
        self._nodes: list[tuple[GraphNode, ...]] = []
        """of each graph"""
        self._executions: dict[int, _Execution] = {}
        self._streams: dict[ForkId, _Stream] = {}
        self._requests: dict[RequestId, StepRow] = {}
        self._width = self._height = 0
        self._new_graphs: dict[int, None] = {}
        self._changed: dict[int, None] = {}

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case GraphStarted(run=run) as started if self._run in (None, run):
                self._start(started)
            case NodesEntered(execution=execution, nodes=nodes, fork=fork) if execution in self._executions:
                self._enter(self._executions[execution], nodes, self._stream(fork))
            case ForkOpened(run=run, fork=fork) if self._run in (None, run):
                stream = self._stream(fork)
                stream.is_open = True
                self._advance(stream)
            case ExprStarted(fork=fork, expr=expr) if (asked := self._waiting(fork)) is not None:
                asked.asking, asked.expr = asked.queue[0], expr
                self._move(asked.queue[0], "queued", "running")
            case ExprFinished(fork=fork, expr=expr, status=status) if (mine := self._streams.get(fork)) and mine.expr == expr:
                mine.expr = None
                self._move(mine.queue.popleft(), "running", "done" if status == "ok" else "failed")
                self._advance(mine)
            case RequestQueued(fork=fork, expr=expr, request=request, kind=kind, prompt=prompt) if fork is not None and expr is not None:
                mine = self._streams.get(fork)
                if mine is not None and mine.expr == expr and mine.asking is not None:
                    self._asked(mine.asking, fork, request, len(prompt) if kind == "gen" else None)
            case StreamExtended(fork=fork, start=start, tokens=tokens, kind=kind) if tokens and (mine := self._streams.get(fork)):
                if kind in ("generated", "choice"):
                    if mine.asking is not None:
                        self._place(mine.asking, fork, start, start + len(tokens))
                elif mine.texts:
                    for step in mine.texts:
                        self._place(step, fork, start, start + len(tokens))
                    mine.texts = []
            case _:
                pass

    def delta(self) -> GraphsPicture | None:
        """The changes since the last call, or None."""
        if not (self._new_graphs or self._changed):
            return None
        graphs, steps = [self._graphs[index].copy() for index in self._new_graphs], [_copy(self._steps[index]) for index in self._changed]
        self._new_graphs, self._changed = {}, {}
        return {"graphs": graphs, "steps": steps, "width": self._width, "height": self._height}

    def full(self) -> GraphsPicture:
        """Everything, in the shape of a delta."""
        graphs, steps = [row.copy() for row in self._graphs], list(map(_copy, self._steps))
        return {"graphs": graphs, "steps": steps, "width": self._width, "height": self._height}

    @property
    def is_empty(self) -> bool:
        """Whether no graph has run."""
        return not self._graphs

    def least_bytes(self) -> int:
        """A lower bound of the size of `full` as JSON."""
        return LEAST_BYTES * len(self._steps)

    # ------------------------------------------------------------ events

    def _start(self, started: GraphStarted) -> None:
        known = self._executions.get(started.graph)
        if known is None and started.nodes:
            same = (
                n for n, row in enumerate(self._graphs) if row["name"] == clipped(started.name, 120) and self._nodes[n] == started.nodes
            )
            known = self._add(started) if (index := next(same, None)) is None else self._first_of(index)
        if known is None:
            return
        self._executions[started.execution] = known
        known.row["runs"] += 1
        self._new_graphs[known.row["graph"]] = None

    def _first_of(self, index: int) -> _Execution:
        return next(each for each in self._executions.values() if each.row["graph"] == index)

    def _add(self, started: GraphStarted) -> _Execution:
        first, number = len(self._steps), len(self._graphs)
        is_kept = first + len(started.nodes) <= MOST
        top = self._height + (PITCH // 2 if number else 0)
        row: GraphRow = {
            "graph": number,
            "name": clipped(started.name, 120),
            "n": len(started.nodes),
            "is_kept": is_kept,
            "runs": 0,
            "y": top,
        }
        self._graphs.append(row)
        self._nodes.append(started.nodes)
        self._height = top + HEAD
        if is_kept:
            plan = layout(started.nodes)
            for node, (x, y, width) in zip(started.nodes, plan.boxes, strict=True):
                self._changed[len(self._steps)] = None
                self._steps.append(
                    {
                        "id": len(self._steps),
                        "graph": number,
                        "kind": clipped(node.kind, 12),
                        "label": clipped(node.label.replace("\n", "↵"), LETTERS),
                        "words": clipped(node.words, 240),
                        "strand": node.strand,
                        "x": x,
                        "y": top + HEAD + y,
                        "w": width,
                        "after": [first + each for each in node.after],
                        "reads": [first + each for each in node.reads],
                        "n": [0, 0, 0, 0],
                        "state": "idle",
                        "places": [],
                        "requests": [],
                    }
                )
            self._width, self._height = max(self._width, plan.width), self._height + plan.height
        return _Execution(row, first)

    def _enter(self, execution: _Execution, nodes: tuple[int, ...], stream: _Stream) -> None:
        if not execution.row["is_kept"]:
            return
        for node in nodes:
            step = self._steps[execution.first + node]
            step["n"][0] += 1
            self._touch(step)
            stream.queue.append(step)
        self._advance(stream)

    def _advance(self, stream: _Stream) -> None:
        """Whatever is no request is done once the stream has reached it."""
        while stream.is_open and stream.queue and stream.queue[0]["kind"] not in ASKING:
            step = stream.queue.popleft()
            self._move(step, "queued", "done")
            if step["kind"] in ("text", "read"):
                stream.texts.append(step)

    def _asked(self, step: StepRow, fork: ForkId, request: RequestId, start: int | None) -> None:
        self._requests[request] = step
        step["requests"] = [*step["requests"], request][-MOST_PLACES:]
        if start is not None:
            self._place(step, fork, start, None)
        self._touch(step)

    def _place(self, step: StepRow, fork: ForkId, start: int, end: int | None) -> None:
        others = [place for place in step["places"] if place[0] != fork or place[2] is not None]
        step["places"] = [*others, [fork, start, end]][-MOST_PLACES:]
        self._touch(step)

    def _move(self, step: StepRow, old: str, new: str) -> None:
        step["n"][STATES.index(old)] -= 1
        step["n"][STATES.index(new)] += 1
        self._touch(step)

    def _touch(self, step: StepRow) -> None:
        step["state"] = next((name for name in ("failed", "running", "queued", "done") if step["n"][STATES.index(name)]), "idle")
        self._changed[step["id"]] = None

    def _stream(self, fork: ForkId) -> _Stream:
        return self._streams.setdefault(fork, _Stream())

    def _waiting(self, fork: ForkId) -> _Stream | None:
        """The stream, if the next that it has been given is a gen or select."""
        stream = self._streams.get(fork)
        return stream if stream is not None and stream.expr is None and stream.queue and stream.queue[0]["kind"] in ASKING else None


def _copy(step: StepRow) -> StepRow:
    made = step.copy()
    made["n"] = step["n"].copy()
    made["places"] = [place.copy() for place in step["places"]]
    return made
