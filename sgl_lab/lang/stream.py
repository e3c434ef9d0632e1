"""A stream: a queue of appended expressions, advanced by the completion of its generations.

A stream has no thread. It is advanced by the program that appends, or by the backend's thread that
finishes a request. All of this happens under the run's lock.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from typing import Self

from ..contracts.errors import Stopped
from ..contracts.events import Foreseen, ForkOpened
from ..contracts.ids import ForkId
from ..contracts.params import SamplingParams
from .ahead import Ahead
from .expressions import Embedded, Fork, Gen, Image, Join, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, Select, Text, TokenIds, ToolTurn, Warm
from .ids import fork_ids
from .run import Run, do_nothing
from .strand import Step, StrandBase
from .variable import Variable
from .work import Evaluation, Work, Worked

_ASKING = (Gen, Select, Fork, Warm)
"""what makes a request"""
_KEEP_AHEAD = (Gen, Join, ScopeBegin, ScopeEnd, Warm)
"""whether text that came ahead may still follow after one of these"""


class Stream(StrandBase):
    """A `Strand` whose expressions are executed one after the other. The port determines its
    requests (`streams.py`).
    """

    def __init__(self, run: Run, label: str, parent: Self | None = None, index: int = 0) -> None:
        super().__init__(run, ForkId(fork_ids.next()), label, parent, index)
        self.error: Exception | None = None
        self.work: Work[Worked] | None = None
        """the request in flight"""
        self.ahead = Ahead()
        self.foreseen: Foreseen | None = None
        """of the request in flight"""
        self._foreseen: deque[Foreseen] = deque()
        self._queue: deque[Step[Self]] = deque()
        self._blocked = parent is not None
        self._advancing = False
        self._has_begun = False
        run.streams.append(self)

    @property
    def idle(self) -> bool:
        return not self._queue and self.work is None and not self._blocked

    @property
    def partial(self) -> str:
        return self.work.variable.text if isinstance(self.work, Evaluation) else ""

    # ------------------------------------------------------------ what a port does in its own way

    @abstractmethod
    def _generate(self, gen: Gen, variable: Variable, params: SamplingParams, context: Context | None) -> None: ...

    @abstractmethod
    def _select(self, select: Select, variable: Variable) -> None: ...

    @abstractmethod
    def _begin_at(self, parent: Self) -> None:
        """Start with everything in the parent."""

    def _warm(self, warmed: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Compute the current content, so that it is found cached, if the port supports it; then
        call `warmed`.
        """
        warmed()

    def _at_once(self) -> AbstractContextManager[object]:
        """Requests made inside start together, if the port supports it."""
        return nullcontext()

    def foresee(self, foreseen: Foreseen) -> None:
        """What is known of the next gen, select, fork or warming that is submitted."""
        self._foreseen.append(foreseen)

    # ------------------------------------------------------------ advancing

    def _take(self, *steps: Step[Self]) -> None:
        if not self._has_begun and self.parent is None:  # a state that a program never uses is not shown
            self._begin()
        self.run.is_over = False
        self._queue.extend(steps)
        if self.error:
            self._drop(self.error)
        self.advance()

    def advance(self) -> None:
        """Do what can be done now. A backend may answer before its `submit` returns: the loop below
        then continues.
        """
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._queue and self.work is None and not self._blocked:
                step = self._queue.popleft()
                try:
                    self._do(step)
                except Exception as error:
                    self._queue.appendleft(step)
                    self.fail(error)
                except BaseException:
                    self._queue.appendleft(step)
                    self.fail(Stopped("interrupted"))
                    raise
        finally:
            self._advancing = False
            self.run.notify()

    def _do(self, step: Step[Self]) -> None:
        if isinstance(step.value, Text):
            self.ahead.pass_over(step.value.text)
        elif not isinstance(step.value, _KEEP_AHEAD):
            self.ahead.forget()
        if isinstance(step.value, _ASKING):
            self.foreseen = self._foreseen.popleft() if self._foreseen else None
        match step:
            case Step(Text(text)):
                self.transcript.say(text)
            case Step(TokenIds(ids)):
                self.transcript.place(ids)
            case Step(Embedded(block)):
                self.transcript.embed(block)
            case Step(Image() as image):
                self.transcript.show(image.part)
            case Step(RoleBegin(role)):
                self.transcript.begin(role)
            case Step(RoleEnd()):
                self.transcript.end()
            case Step(Gen() as gen, Variable() as variable, SamplingParams() as params, context):
                self._generate(gen, variable, params, context)
            case Step(Select() as select, Variable() as variable):
                self._select(select, variable)
            case Step(ToolTurn(_, in_roles), Variable() as call):
                if call.observed is not None:  # otherwise the call was incomplete and was not made
                    self.transcript.observe(call.observed, in_roles)
            case Step(ScopeBegin(), Variable() as variable):
                variable.mark = len(self.transcript.history)
            case Step(ScopeEnd(), Variable() as variable):
                variable.set(self.transcript.said_since(variable.mark))
            case Step(Fork(), strands=children):
                self._open(children)
            case Step(Join("concate_and_append"), strands=children):
                self.ahead.forget()
                self.transcript.replay(entry for child in children for entry in child.own_history)
                self.transcript.settle()
            case Step(Warm()):
                self.transcript.settle()
                self._warm(do_nothing, self.fail)

    def _open(self, children: Sequence[Self]) -> None:
        """Give the children the current tokens once their KV is computed; otherwise each would
        compute it again.
        """
        self.transcript.settle()
        for child in children:
            child._begin_at(self)
            child.n_inherited = len(child.transcript.history)
            child._begin()
        self._warm(lambda: self.release(children), lambda error: self._give_up(children, error))

    def release(self, children: Sequence[Self]) -> None:
        """The parent's KV is computed: start the children together, so that cache hits among them
        do not depend on timing.
        """
        with self._at_once():
            for child in children:
                child._blocked = False
                child.advance()

    def _give_up(self, children: Sequence[Self], error: Exception) -> None:
        """The parent's KV cannot be computed: neither it nor the children continue."""
        for child in children:
            child.fail(error)
        self.fail(error)

    # ------------------------------------------------------------ ending

    def fail(self, error: Exception) -> None:
        """End this stream. Queued expressions will never have a value."""
        self.error = self.error or error
        self.work = None
        self._blocked = False
        self._drop(error)
        self.run.notify()

    def abandon(self, error: Exception) -> None:
        if self.work is not None:
            self.work.on_error(error)
        elif not self.idle:
            self.fail(error)

    def stop(self, stopped: Stopped) -> None:
        if self.work is not None:
            self.error = self.error or stopped
            self._drop(stopped)
            self.work.cancel()
        elif not self.idle:
            self.fail(stopped)

    def _drop(self, error: Exception) -> None:
        dropped, self._queue = self._queue, deque()
        for step in dropped:
            if step.variable is not None and not isinstance(step.value, ToolTurn):
                step.variable.fail(error)
            for strand in step.strands if isinstance(step.value, Fork) else ():
                strand.fail(error)

    # ------------------------------------------------------------ events

    def _begin(self) -> None:
        self._has_begun = True
        parent = self.parent.id if self.parent else None
        within = self.run.within if self.parent is None else None
        self.run.emit(ForkOpened(self.run.id, self.id, parent, self.index, self.label, within))
