"""A run over data, folded: what each row gave, what its checks found, and what it cost.

Each program belongs to the row whose body started it, also those that a body starts. What a judge
computes is counted apart: it is no part of what is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ...contracts.events import (
    Checked,
    Entry,
    ExprFinished,
    ExprStarted,
    ForkOpened,
    GridOpened,
    RequestAnswered,
    RequestFinished,
    RequestQueued,
    RowFinished,
    RowStarted,
    TextArrived,
    TokensSampled,
)
from ...contracts.ids import ExprId, ForkId, RequestId, RunId
from .inspection import STEP
from .names import row_title

MAX_PIECES = 2_000
"""tokens of one row's answers that are kept for comparisons"""
Piece = tuple[str, int | None]
"""the text of a token and its id; None for the choice of a select"""


@dataclass(slots=True)
class Cell:
    """One row in one column."""

    row: int
    run: RunId
    title: str
    """of the run, such as `In[5]`"""
    status: str = "running"
    """running, ok, error or stopped"""
    value: str = ""
    """of the body's last expression; of its last answer if that is nothing"""
    message: str = ""
    line: int = 0
    values: dict[str, str] = field(default_factory=dict)
    """of the gens and selects, by name"""
    checks: list[Checked] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    """tokens of the answers, in the order of the program"""
    last_gen: str = ""
    """name of the last gen"""
    cached: int = 0
    computed: int = 0
    generated: int = 0
    judged: int = 0
    """tokens that judges computed; not part of the others"""
    ms: float = 0.0
    cost: float = 0.0
    currency: str = ""
    unpriced: int = 0
    """requests to an API whose price is unknown"""

    @property
    def is_done(self) -> bool:
        return self.status in ("ok", "error")

    @property
    def passed(self) -> bool | None:
        """Whether all checks pass; None if there are none, or the row has not finished. A row that
        failed does not pass.
        """
        if not self.is_done or not (self.checks or self.status == "error"):
            return None
        return self.status == "ok" and all(check.passed for check in self.checks)

    @property
    def where(self) -> str:
        """The row in its run, as commands take it: `row 3`."""
        return row_title(self.row)


class Given(NamedTuple):
    """A row of the data: its columns and their values as text."""

    columns: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Counts:
    """Of one program, by its root stream."""

    cached: int = 0
    computed: int = 0
    generated: int = 0
    cost: float = 0.0
    currency: str = ""
    unpriced: int = 0


@dataclass(slots=True)
class _Answer:
    """A gen or select."""

    fork: ForkId
    kind: str
    name: str
    first: RequestId | None = None
    pieces: list[Piece] = field(default_factory=list)
    value: str = ""


class GridView:
    """The rows of one run. A fork's tokens are those of its row."""

    def __init__(self, title: str, spell: Callable[[int], str]) -> None:
        self.opened: GridOpened | None = None
        self.cells: dict[str, Cell] = {}
        """by the keys of rows"""
        self.given: dict[str, Given] = {}
        self._title, self._spell = title, spell
        self._keys: dict[int, str] = {}
        self._began: dict[str, int] = {}
        self._root: dict[ForkId, ForkId] = {}
        """of each stream, the root stream of its program"""
        self._path: dict[ForkId, tuple[int, ...]] = {}
        self._labels: dict[ForkId, str] = {}
        self._row: dict[ForkId, str] = {}
        """of a root stream, the row that it belongs to"""
        self._judges: set[ForkId] = set()
        self._inner: dict[ForkId, ForkId] = {}
        """of the root of a program that another one started, the root of that one"""
        self._counts: dict[ForkId, _Counts] = {}
        self._requests: dict[RequestId, ForkId] = {}
        self._answers: dict[ExprId, _Answer] = {}
        self._by_request: dict[RequestId, _Answer] = {}

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case GridOpened() as opened if self.opened is None:
                self.opened = opened
            case RowStarted(run=run) as started if self.opened is not None and run == self.opened.run:
                self._start(started, entry.t_ns)
            case RowFinished(run=run, row=row) as finished if self.opened and run == self.opened.run and row in self._keys:
                self._finish(self.cells[self._keys[row]], finished, entry.t_ns)
            case ForkOpened(fork=fork, parent=parent) as fork_opened:
                self._open(fork_opened, fork, parent)
            case Checked(fork=fork) as checked if (key := self._row.get(self._root.get(fork, fork))) is not None:
                self.cells[key].checks.append(checked)
                if checked.judge is not None:
                    self._judges.add(checked.judge)
            case ExprStarted(fork=fork, expr=expr, kind=kind, name=name) if fork in self._root:
                self._answers[expr] = _Answer(fork, kind, name)
            case RequestQueued(request=request, fork=fork, expr=expr) as queued if fork in self._root:
                assert fork is not None
                self._requests[request] = self._root[fork]
                answer = self._answers.get(expr) if expr is not None else None
                if answer is not None and answer.first is None and queued.kind == "gen":
                    answer.first = request
                    self._by_request[request] = answer
            case TokensSampled(samples=samples):
                for sample in samples:
                    if (answer := self._by_request.get(sample.request)) is not None and len(answer.pieces) < MAX_PIECES:
                        answer.pieces.append((self._spell(sample.token), sample.token))
            case TextArrived(request=request, index=0, samples=samples, is_whole=is_whole) if request in self._by_request:
                pieces = self._by_request[request].pieces
                if is_whole:
                    pieces.clear()
                pieces += [(self._spell(sample.token), None) for sample in samples[: MAX_PIECES - len(pieces)]]
            case RequestFinished(request=request) as ended if request in self._requests:
                counts = self._counts[self._requests[request]]
                counts.cached += ended.n_cached
                counts.computed += ended.n_computed
                counts.generated += ended.n_completion
            case RequestAnswered(request=request) as answered if request in self._requests:
                self._answered(self._counts[self._requests[request]], answered)
            case ExprFinished(expr=expr, value=value) if expr in self._answers:
                self._answers[expr].value = value
            case _:
                pass

    def full(self) -> dict[str, Cell]:
        """The cells by the keys of their rows, with the counts and answers so far."""
        for cell in self.cells.values():
            cell.cached = cell.computed = cell.generated = cell.judged = cell.unpriced = 0
            cell.cost, cell.pieces, cell.values = 0.0, [], {}
        for root, counts in self._counts.items():
            if (key := self._row.get(root)) is not None:
                self._add(self.cells[key], counts, is_judge=self._is_judge(root))
        for answer in sorted(self._answers.values(), key=lambda one: self._path[one.fork]):  # stable: in the order of a stream
            root = self._root[answer.fork]
            if (key := self._row.get(root)) is not None and not self._is_judge(root):
                self._put(self.cells[key], answer)
        for cell in self.cells.values():
            if not cell.value and cell.values:
                cell.value = list(cell.values.values())[-1]
        return self.cells

    # ------------------------------------------------------------ parts

    def _start(self, started: RowStarted, t_ns: int) -> None:
        key = self._keys[started.row] = started.key
        self.cells[key] = Cell(started.row, started.run, self._title)
        self.given[key] = Given(started.given)
        self._began[key] = t_ns
        if started.fork is not None:
            self._row[started.fork] = key
            self._root.setdefault(started.fork, started.fork)
            self._path.setdefault(started.fork, ())
            self._counts.setdefault(started.fork, _Counts())

    def _finish(self, cell: Cell, finished: RowFinished, t_ns: int) -> None:
        cell.status, cell.value, cell.message, cell.line = finished.status, finished.value, finished.message, finished.line
        cell.ms = (t_ns - self._began[self._keys[finished.row]]) / 1e6

    def _open(self, event: ForkOpened, fork: ForkId, parent: ForkId | None) -> None:
        if parent is not None and parent in self._root:
            self._root[fork] = self._root[parent]
            self._path[fork] = (*self._path[parent], event.index)
            self._labels[fork] = f"{self._labels.get(parent, '')}{event.label or f'fork {event.index + 1}'}{STEP}"
        elif event.within is not None and (key := self._row.get(event.within)) is not None:
            self._row[fork], self._root[fork], self._path[fork] = key, fork, (1 << 30,)  # after the row's own
            self._inner[fork] = event.within
            self._labels[fork] = f"{event.label}{STEP}"
            self._counts[fork] = _Counts()

    def _is_judge(self, root: ForkId) -> bool:
        while root not in self._judges:
            if root not in self._inner:
                return False
            root = self._inner[root]
        return True

    def _add(self, cell: Cell, counts: _Counts, *, is_judge: bool) -> None:
        cell.cost += counts.cost
        cell.currency = counts.currency or cell.currency
        cell.unpriced += counts.unpriced
        if is_judge:
            cell.judged += counts.computed
            return
        cell.cached += counts.cached
        cell.computed += counts.computed
        cell.generated += counts.generated

    def _put(self, cell: Cell, answer: _Answer) -> None:
        name = self._labels.get(answer.fork, "") + (answer.name or f"#{len(cell.values)}")
        while name in cell.values:
            name += "'"
        cell.values[name] = answer.value
        if answer.kind == "gen":
            cell.last_gen = name
        pieces = answer.pieces if answer.pieces else [(answer.value, None)]
        cell.pieces += pieces[: MAX_PIECES - len(cell.pieces)]

    @staticmethod
    def _answered(counts: _Counts, answered: RequestAnswered) -> None:
        n_cached = min(answered.n_cached or 0, answered.n_prompt)
        counts.cached += n_cached
        counts.computed += answered.n_prompt - n_cached
        counts.generated += answered.n_completion
        if answered.cost is None:
            counts.unpriced += 1
        else:
            counts.cost += answered.cost
            counts.currency = answered.currency
