"""What a row along a user's pattern gave its request becomes text: tokens are taken, stops and
constraints are followed.

What has a bound is done on the engine's thread (`attempt`). What would cost more is left to threads
that are none of the engine's (`resident` has them). A request that is not through when the next step
is planned takes no part in that step, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...contracts.errors import RequestFailed
from ...contracts.ids import RequestId
from ...contracts.patterns.bounded import OverBound, bounded
from ..plan import Row, RowOutput
from .group import Accepted, Answer, Following, RequestGroup
from .scheduling.request import Matcher, Request

MOST_STEPS = 4_000
"""of about a microsecond, that the engine's thread spends on the pattern of one row"""


class Processing:
    """One row of a request, or the request's start if there is no row. Call `attempt` on the engine's
    thread, and if it is not done then, call it once from any thread. Neither raises.
    """

    __slots__ = (
        "_following", "accepted", "answer", "error", "group", "is_aborted", "is_done", "notify", "now", "output", "request", "row", "step"
    )  # fmt: skip

    def __init__(self, group: RequestGroup, request: Request, step: int, now: float, row: Row | None, output: RowOutput) -> None:
        self.group = group
        self.request = request
        self.step = step
        self.now = now
        self.row = row
        self.output = output
        self._following: Following | None = None
        self.accepted = Accepted()
        self.answer: Answer | None = None
        """progress to notify the listener of"""
        self.error: Exception | None = None
        self.is_done = False
        self.is_aborted = False
        """the request was cancelled meanwhile"""
        self.notify: Callable[[], object] | None = None
        """called when it is done, where the engine went on without it"""

    def attempt(self) -> bool:
        """Do what is bounded; whether it is done."""
        if self.group.is_bounded:
            with bounded(MOST_STEPS):
                self.is_done = self._advance()
        return self.is_done

    def __call__(self) -> None:
        while not self._advance():
            pass
        self.is_done = True
        if self.notify is not None:
            self.notify()

    def _advance(self) -> bool:
        try:
            if self.output.error is not None:
                raise self.output.error
            if self._following is None:
                self._following = self._begun()
            try:
                next(self._following)
            except StopIteration as end:
                self.accepted = end.value
            else:
                return False
            if self.accepted.reason is None and (self.row is not None or self.accepted.samples):
                self.answer = self.group.progress(self.request)
        except BaseException as error:
            self.error = as_failure(error)
        return True

    def _begun(self) -> Following:
        if self.row is None:
            return self.group.begin(self.request, self.now)
        return self.group.follow(self.request, self.row, self.output, self.now)


class Filling:
    """The masks of a constrained row. As a `Processing`, but the step waits for it."""

    __slots__ = ("drafts", "error", "is_done", "matcher", "request")

    def __init__(self, request: RequestId, matcher: Matcher, drafts: tuple[int, ...]) -> None:
        self.request = request
        self.matcher = matcher
        self.drafts = drafts
        self.error: Exception | None = None
        self.is_done = False

    def attempt(self) -> bool:
        try:
            with bounded(MOST_STEPS):
                self()
        except OverBound:
            return False
        return True

    def __call__(self) -> None:
        try:
            self.matcher.fill(self.drafts)
        except OverBound:
            raise
        except BaseException as error:
            self.error = as_failure(error)
        self.is_done = True


def as_failure(error: BaseException) -> Exception:
    """The error of one request: in a pattern, a token's bytes or a constraint. Other requests are
    not affected.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    return error if isinstance(error, Exception) else RequestFailed(f"{type(error).__name__}: {error}")  # a library panicked


class Process(Protocol):
    def __call__(self, tasks: Sequence[Processing] | Sequence[Filling], *, until_done: bool = False) -> None:
        """Call them all. Returns when they are done, or without `until_done` after a moment."""


def process_here(tasks: Sequence[Processing] | Sequence[Filling], *, until_done: bool = False) -> None:
    for task in tasks:
        task()
