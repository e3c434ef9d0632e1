"""The requests of a stream: their common part for both ports.

Each is the listener of its own request. The backend calls it on its own thread. It takes the run's
lock, stores the result and advances the stream.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Generic, Protocol, TypeVar

from ..contracts.errors import Stopped
from ..contracts.events import ExprFinished, ExprStarted
from ..contracts.ids import ExprId, ForkId, RequestId
from ..contracts.port import Usage
from .ahead import Ahead
from .expressions import Gen, Select
from .finish import FinishReason
from .history import History, Piece
from .ids import expr_ids
from .run import Run
from .variable import Variable


class Worked(Protocol):
    """What a request needs of its stream."""

    id: ForkId
    run: Run
    ahead: Ahead
    work: Work[Worked] | None

    @property
    def transcript(self) -> History: ...

    def advance(self) -> None:
        """Continue with the queue."""

    def fail(self, error: Exception) -> None:
        """End this stream."""


W = TypeVar("W", bound=Worked, covariant=True)


class Work(Generic[W]):
    """One request in flight; at most one per stream."""

    def __init__(self, stream: W) -> None:
        self.stream = stream
        self.run = stream.run
        self.request: RequestId | None = None
        stream.work = self

    @property
    def current(self) -> bool:
        """False after the stream has abandoned it: its answer then comes too late"""
        return self.stream.work is self

    def cancel(self) -> None:
        if self.request is not None:
            self.run.backend.cancel(self.request)

    def finish(self) -> None:
        self.stream.work = None
        self.stream.advance()

    def on_error(self, error: Exception) -> None:
        with self.run.lock:
            if self.current:
                self.give_up(error)

    def give_up(self, error: Exception) -> None:
        self.stream.fail(error)


class Evaluation(Work[W]):
    """Work for an expression of the program: it has a value, a line and events."""

    def __init__(self, stream: W, source: Gen | Select, variable: Variable) -> None:
        super().__init__(stream)
        self.source = source
        self.variable = variable
        self.n_rewritten = self.n_healed = 0
        self.is_complete: bool | None = None
        """whether the first sample is a complete text of its constraint"""
        self.expr = ExprId(expr_ids.next())
        role = stream.transcript.role
        self.run.emit(ExprStarted(stream.id, self.expr, source.kind, source.name or "", source.location.line, role))

    def meta(self, usage: Usage, finish_reason: str, matched: str | int | None = None) -> dict[str, object]:
        """The meta info that every expression has."""
        reason = FinishReason.of(finish_reason, usage.completion_tokens, matched)
        counts = {"rewritten_tokens": self.n_rewritten, "healed_tokens": self.n_healed}
        return asdict(usage) | {"finish_reason": reason} | counts

    def settle(self, piece: Piece, held: tuple[int, ...], value: object, meta: object, aborted: bool = False) -> None:
        self.stream.transcript.take(piece, held)
        self.variable.aborted = aborted
        self.variable.set(value, meta)
        self.run.emit(ExprFinished(self.stream.id, self.expr, "stopped" if aborted else "ok", piece.text, self.is_complete))
        if aborted:
            self.stream.fail(self.run.stopped or Stopped("the generation was stopped"))
        else:
            self.finish()

    def give_up(self, error: Exception) -> None:
        if not isinstance(error, Stopped):
            note = f"in {self.source.kind}({self.source.name or ''!r}), {self.source.location}"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        self.variable.fail(error)
        self.run.emit(ExprFinished(self.stream.id, self.expr, "stopped" if isinstance(error, Stopped) else "error", str(error)))
        super().give_up(error)
