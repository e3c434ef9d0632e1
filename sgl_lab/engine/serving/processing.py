"""What a row gave its request becomes text: tokens are taken, stops and constraints are followed.

Stop patterns and constraints are the user's and may take their time, so rows that have to pass one are processed on a
thread that is none of the engine's (`resident` has it). A request that is not through when the next step is planned takes
no part in that step, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...contracts.errors import RequestFailed
from ...contracts.ids import RequestId
from ..plan import Row, RowOutput
from .group import Accepted, Answer, RequestGroup
from .scheduling.request import Matcher, Request


class Processing:
    """One row of a request, or the request's start if there is no row. Call it once, from any
    thread. It does not raise.
    """

    __slots__ = ("accepted", "answer", "error", "group", "is_aborted", "is_done", "notify", "now", "output", "request", "row", "step")

    def __init__(self, group: RequestGroup, request: Request, step: int, now: float, row: Row | None, output: RowOutput) -> None:
        self.group = group
        self.request = request
        self.step = step
        self.now = now
        self.row = row
        self.output = output
        self.accepted = Accepted()
        self.answer: Answer | None = None
        """progress to notify the listener of"""
        self.error: Exception | None = None
        self.is_done = False
        self.is_aborted = False
        """the request was cancelled meanwhile"""
        self.notify: Callable[[], object] | None = None
        """called when it is done, where the engine went on without it"""

    def __call__(self) -> None:
        self.error = _error_of(self._work)
        self.is_done = True
        if self.notify is not None:
            self.notify()

    def _work(self) -> None:
        group, request = self.group, self.request
        if self.output.error is not None:
            raise self.output.error
        if self.row is None:
            self.accepted = group.begin(request, self.now)
        else:
            self.accepted = group.accept(request, self.row, self.output, self.now)
        if self.accepted.reason is None and (self.row is not None or self.accepted.samples):
            self.answer = group.progress(request)


class Filling:
    """The masks of a constrained row. As a `Processing`, but the step waits for it."""

    __slots__ = ("drafts", "error", "is_done", "matcher", "request")

    def __init__(self, request: RequestId, matcher: Matcher, drafts: tuple[int, ...]) -> None:
        self.request = request
        self.matcher = matcher
        self.drafts = drafts
        self.error: Exception | None = None
        self.is_done = False

    def __call__(self) -> None:
        self.error = _error_of(lambda: self.matcher.fill(self.drafts))
        self.is_done = True


def _error_of(work: Callable[[], None]) -> Exception | None:
    """The error that `work` raised: in a pattern, a token's bytes or a constraint. Other requests
    are not affected.
    """
    try:
        work()
    except Exception as error:
        return error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return RequestFailed(f"{type(error).__name__}: {error}")  # a library panicked
    return None


class Process(Protocol):
    def __call__(self, tasks: Sequence[Processing] | Sequence[Filling], *, until_done: bool = False) -> None:
        """Call them all. Returns when they are done, or without `until_done` after a moment."""


def process_here(tasks: Sequence[Processing] | Sequence[Filling], *, until_done: bool = False) -> None:
    for task in tasks:
        task()
