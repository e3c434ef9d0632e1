"""A stream: a queue of what was appended, advanced by the completion of its generations.

A stream has no thread. Whoever makes something possible advances it: the program that appends,
or the backend's thread that finishes a request. All of it happens under the run's lock.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from typing import assert_never

from ..contracts.errors import ProgramError, Stopped
from ..contracts.events import ForkOpened, StreamExtended
from ..contracts.ids import ForkId
from ..contracts.params import SamplingParams
from .ahead import Ahead
from .expressions import Embedded, Gen, RoleBegin, RoleEnd, Select, Text, leaves, reasoning_name
from .generation import Generation
from .ids import fork_ids
from .run import Run, do_nothing
from .transcript import Healed, Piece, Said, Transcript, likely_seam
from .variable import Name, Variable
from .work import Expression, Selection, Warming, Work


@dataclass(frozen=True, slots=True)
class GenStep:
    gen: Gen
    variable: Variable
    params: SamplingParams
    context: Context | None
    """to call a tool in; None where none is to be called"""


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """What the tool said whose call stands in `variable`: a turn of its own, or a line of plain text."""

    variable: Variable
    in_roles: bool


@dataclass(frozen=True, slots=True)
class SelectStep:
    select: Select
    variable: Variable


@dataclass(frozen=True, slots=True)
class ScopeMark:
    variable: Variable
    begins: bool


@dataclass(frozen=True, slots=True)
class ForkPoint:
    children: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class Absorb:
    history: tuple[Said, ...]


Queued = Text | Embedded | RoleBegin | RoleEnd | GenStep | ToolTurn | SelectStep | ScopeMark | ForkPoint | Absorb


class Stream:
    """A `Strand` whose expressions are executed one after the other."""

    def __init__(self, run: Run, label: str, parent: Stream | None = None, index: int = 0) -> None:
        self.run = run
        self.id = ForkId(fork_ids.next())
        self.label = label
        self.parent = parent
        self.index = index
        self.variables: dict[Name, Variable] = dict(parent.variables) if parent else {}
        self.inherited = dict(self.variables)
        self.role: str | None = parent.role if parent else None
        """the role that is open once everything appended so far is done"""
        self.defaults = replace(run.defaults, seed=parent.child_seed()) if parent else run.defaults
        """of sampling: a fork has a seed of its own, or forks that begin alike would all say the same"""
        self._n_children = 0
        self._text: str = parent._text if parent else ""
        """literal text that was appended last"""
        self.transcript = Transcript(run.backend, run.chat, self._extended)
        self.n_inherited = 0
        """how much of the transcript's history is the parent's"""
        self.error: Exception | None = None
        self.joined = False
        self.work: Work | None = None
        """the request that is under way"""
        self.n_unnamed: int = parent.n_unnamed if parent else 0
        self.ahead = Ahead()
        self._calls: list[Variable] = list(parent._calls) if parent else []
        """of tools, in the turn that is open: what they say stands after it"""
        self._queue: deque[Queued] = deque()
        self._blocked = parent is not None
        self._advancing = False
        run.streams.append(self)
        if parent is None:
            self._say_opened()

    @property
    def idle(self) -> bool:
        return not self._queue and self.work is None and not self._blocked

    @property
    def partial(self) -> str:
        return self.work.variable.text if isinstance(self.work, Expression) else ""

    # ------------------------------------------------------------ appending

    def append(self, value: object) -> None:
        parts = tuple(leaves(value, self))
        text = self._text
        for leaf in parts:
            if isinstance(leaf, Gen) and leaf.form is not None:
                self._prepare(leaf, text)  # without the lock: the backend's thread may not wait for it
            text = (text + leaf.text)[-512:] if isinstance(leaf, Text) else ""
        self._text = text
        with self.run.lock:
            self._check_open()
            role, n_unnamed, calls = self.role, self.n_unnamed, list(self._calls)
            steps: list[Queued] = []
            named: dict[Name, Variable] = {}
            for leaf in parts:
                if isinstance(leaf, Gen | Select):
                    variable = named[n_unnamed if leaf.name is None else leaf.name] = Variable(self)
                    n_unnamed += leaf.name is None
                    if leaf.reasoning:
                        variable.reasoning = Variable(self)
                        if leaf.name is not None:
                            named[reasoning_name(leaf.name)] = variable.reasoning
                if isinstance(leaf, Select):
                    steps.append(SelectStep(leaf, variable))
                elif isinstance(leaf, Gen):
                    steps.append(self._gen_step(leaf, variable))
                    if leaf.execute:
                        calls.append(variable)
                else:
                    role = next_role(role, leaf)
                    steps.append(leaf)
                if role is None:
                    steps += [ToolTurn(call, in_roles=isinstance(leaf, RoleEnd)) for call in calls]
                    calls.clear()
            self.role, self.n_unnamed, self._calls = role, n_unnamed, calls
            self.variables |= named
            self._enqueue(*steps)

    def _gen_step(self, gen: Gen, variable: Variable) -> GenStep:
        return GenStep(gen, variable, gen.params(self.defaults), copy_context() if gen.execute else None)

    def _prepare(self, gen: Gen, text: str) -> None:
        """Have its constraint ready, also behind the end of the `text` before it, which the model may say again."""
        backend = self.run.backend
        if gen.form is not None:
            backend.prepare(gen.form.constraint)
            if gen.heal and (seam := likely_seam(backend, text)):
                backend.prepare(replace(gen.form.constraint, seam=seam))

    def child_seed(self) -> int | None:
        """The seed of the next fork: another one each, the same ones whenever the program runs with the same seed."""
        self._n_children += 1
        if self.defaults.seed is None:
            return None
        digest = hashlib.blake2b(f"{self.defaults.seed}:{self._n_children}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def begin_scope(self, name: str) -> Variable:
        with self.run.lock:
            self._check_open()
            variable = self.variables[name] = Variable(self)
            self._enqueue(ScopeMark(variable, begins=True))
        return variable

    def end_scope(self, variable: Variable) -> None:
        with self.run.lock:
            self._enqueue(ScopeMark(variable, begins=False))

    def fork(self, size: int) -> tuple[Stream, ...]:
        with self.run.lock:
            self._check_open()
            children = tuple(Stream(self.run, f"{self.label}[{i}]", self, i) for i in range(size))
            self._enqueue(ForkPoint(children))
        return children

    @property
    def own_history(self) -> tuple[Said, ...]:
        return tuple(self.transcript.history[self.n_inherited :])

    def absorb(self, history: Sequence[Said]) -> None:
        with self.run.lock:
            self._check_open()
            role = self.role
            for said in history:
                role = role if isinstance(said, Piece) else next_role(role, said)
            self.role = role
            self._enqueue(Absorb(tuple(history)))

    def _check_open(self) -> None:
        if self.run.stopped and self.run.body_active:
            raise self.run.stopped
        if self.joined:
            raise ProgramError(f"fork {self.label} has been joined", hint="append to its parent")

    def _enqueue(self, *queued: Queued) -> None:
        self._queue.extend(queued)
        if self.error:
            self._drop(self.error)
        self.advance()

    # ------------------------------------------------------------ advancing

    def advance(self) -> None:
        """Do what can be done now. A backend may answer before its `submit` returns: then the loop below goes on."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._queue and self.work is None and not self._blocked:
                queued = self._queue.popleft()
                try:
                    self._do(queued)
                except Exception as error:
                    self._queue.appendleft(queued)
                    self.fail(error)
                except BaseException:
                    self._queue.appendleft(queued)
                    self.fail(Stopped("interrupted"))
                    raise
        finally:
            self._advancing = False
            self.run.notify()

    def _do(self, queued: Queued) -> None:
        if isinstance(queued, Text):
            self.ahead.pass_over(queued.text)
        elif not isinstance(queued, GenStep | ScopeMark):
            self.ahead.forget()
        match queued:
            case Text(text):
                self.transcript.say(text)
            case Embedded(block):
                self.transcript.embed(block)
            case RoleBegin(role):
                self.transcript.begin(role)
            case RoleEnd():
                self.transcript.end()
            case GenStep(gen, variable, params, context):
                Generation(self, gen, variable, context).start(params)
            case ToolTurn(variable, in_roles):
                self._observe(variable.observed, in_roles)
            case SelectStep(select, variable):
                Selection(self, select, variable).start()
            case ScopeMark(variable, begins):
                if begins:
                    variable.mark = len(self.transcript.history)
                else:
                    variable.set(self.transcript.said_since(variable.mark))
            case ForkPoint(children):
                self._open(children)
            case Absorb(history):
                self.transcript.replay(history)
                self.transcript.settle()
            case _:
                assert_never(queued)

    def _observe(self, said: str | None, in_roles: bool) -> None:
        if said is None:
            return  # the call was not whole, and was not made
        if in_roles:
            self.transcript.begin("tool")
            self.transcript.say(said)
            self.transcript.end()
        else:
            self.transcript.say(f"\n{said}")

    def _open(self, children: tuple[Stream, ...]) -> None:
        """Give the children what stands here, once its KV is computed: else each would compute it again."""
        self.transcript.settle()
        for child in children:
            child.transcript = self.transcript.fork(child._extended)
            child.n_inherited = len(child.transcript.history)
            child._say_opened()
        self._warm(lambda: self.release(children), lambda error: self._give_up(children, error))

    def _warm(self, warmed: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        if self.transcript.ids:
            Warming(self, warmed, failed).start()
        else:
            warmed()

    def release(self, children: tuple[Stream, ...]) -> None:
        """The parent is warm: the children may go, together, so that what one finds of another in the cache is no matter of time."""
        with self.run.backend.at_once():
            for child in children:
                child._blocked = False
                child.advance()

    def _give_up(self, children: tuple[Stream, ...], error: Exception) -> None:
        """The parent cannot be warmed: neither it nor the children go on."""
        for child in children:
            child.fail(error)
        self.fail(error)

    def warm(self) -> None:
        self.transcript.settle()
        self._warm(do_nothing, self.fail)

    # ------------------------------------------------------------ ending

    def fail(self, error: Exception) -> None:
        """Nothing more happens on this stream; what is queued will never have a value."""
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
        for queued in dropped:
            match queued:
                case GenStep(variable=variable) | SelectStep(variable=variable) | ScopeMark(variable):
                    variable.fail(error)
                case ForkPoint(children):
                    for child in children:
                        child.fail(error)
                case _:
                    pass

    # ------------------------------------------------------------ saying so

    def _say_opened(self) -> None:
        parent = self.parent.id if self.parent else None
        self.run.emit(ForkOpened(self.run.id, self.id, parent, self.index, self.label))

    def _extended(self, start: int, piece: Piece, healed: Healed) -> None:
        self.run.emit(StreamExtended(self.id, start, piece.ids or (), piece.kind, piece.role, healed.n, healed.before))


def next_role(role: str | None, leaf: Text | Embedded | RoleBegin | RoleEnd) -> str | None:
    """The open role after `leaf`; roles do not nest."""
    match leaf:
        case RoleBegin(new):
            if role is not None:
                raise ProgramError(f"role {new!r} begins inside role {role!r}", hint=f"end {role!r} first")
            return new
        case RoleEnd(old):
            if role != old:
                raise ProgramError(f"role {old!r} ends, but {'no role' if role is None else repr(role)} is open")
            return None
        case Text() | Embedded():
            return role
