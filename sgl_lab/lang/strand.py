"""The common half of all executors: the values of one strand are checked, named and turned into
steps.

`submit` accepts a value completely or refuses it completely. A step is one value of the
intermediate representation, with the variable that it fills or the strands that it opens. The
executor decides what to do with a step: a stream executes it, a tracer records it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextvars import Context, copy_context
from dataclasses import replace
from functools import partial
from typing import Generic, NamedTuple, Self, TypeVar

from ..contracts.errors import BadArgument, ProgramError
from ..contracts.ids import ForkId
from ..contracts.params import SamplingParams
from ..contracts.tools import ToolStyle
from .choices import token_length_normalized
from .expressions import (
    Embedded,
    Expr,
    Fork,
    Gen,
    Image,
    Instruction,
    Join,
    Leaf,
    Name,
    Primitive,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    Select,
    Text,
    TokenIds,
    Tools,
    ToolTurn,
    leaves,
    reasoning_name,
    with_marks,
)
from .history import History, Piece, Turned
from .run import Run
from .variable import Variable

S = TypeVar("S", covariant=True)


class Step(NamedTuple, Generic[S]):
    value: Primitive
    variable: Variable | None = None
    """the variable that it fills; for the turn of a tool, the one that holds the call"""
    params: SamplingParams | None = None
    """of a gen"""
    context: Context | None = None
    """the context to call a gen's tool in; None if no tool is to be called"""
    strands: tuple[S, ...] = ()
    """the strands that a fork opens, or a join joins"""


class StrandBase(ABC):
    transcript: History

    def __init__(self, run: Run, id: ForkId, label: str, parent: Self | None = None, index: int = 0) -> None:
        self.run = run
        self.id = id
        self.label = label
        self.parent = parent
        self.index = index
        self.variables: dict[Name, Variable] = dict(parent.variables) if parent else {}
        self.inherited = dict(self.variables)
        self.role: str | None = parent.role if parent else None
        """the open role once everything appended so far is done"""
        self.defaults = replace(run.defaults, seed=parent._child_seed()) if parent else run.defaults
        """of sampling: a fork has a seed of its own, because forks with equal beginnings would
        otherwise generate the same text
        """
        self.n_unnamed: int = parent.n_unnamed if parent else 0
        """gens and selects without a name so far"""
        self.n_inherited = 0
        """length of the transcript's history that belongs to the parent"""
        self.children: list[Self] = []
        self.joined = False
        self._going: dict[ForkId, StrandBase] = {}
        """children that may ask again, as far as is known"""
        self._scopes: list[tuple[str, Variable]] = []
        """open scopes"""
        self._calls: list[tuple[Name, Variable]] = list(parent._calls) if parent else []
        """results of tools in the open turn; they follow it"""
        self._tool_style: ToolStyle | None = parent._tool_style if parent else None
        """how calls are written, once the model's own template has described the tools"""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing is in flight and nothing will be until more is appended."""

    @abstractmethod
    def _child(self, label: str, index: int) -> Self:
        """A strand that begins here."""

    @abstractmethod
    def _take(self, *steps: Step[Self]) -> None:
        """The next steps. The run's lock is held."""

    def _prepare(self, parts: Sequence[Leaf]) -> Sequence[Leaf]:
        """Do everything that can fail or take long, before any of `parts` is accepted. Returns the
        parts as this executor takes them. The run's lock is not held.
        """
        return parts

    def _check_open(self) -> None:
        """Raise if nothing more can be appended."""
        if self.run.stopped and self.run.body_active:
            raise self.run.stopped
        if self.joined:
            raise ProgramError(f"fork {self.label} has been joined", hint="append to its parent")

    def submit(self, instruction: Instruction) -> tuple[Self, ...]:
        """Accept the next value. Returns the strands that it opens. It is refused completely if any
        part of it is invalid.
        """
        if isinstance(instruction, Expr):
            self._append(instruction)
            return ()
        with self.run.lock:
            if not isinstance(instruction, Join | ScopeEnd):
                self._check_open()
            match instruction:
                case Fork(number):
                    for index in range(number):
                        self.children.append(self._child(f"{self.label}[{index}]", index))
                    opened = tuple(self.children[-number:])
                    self._going |= {child.id: child for child in opened}
                    self._take(Step(instruction, strands=opened))
                    return opened
                case Join():
                    self._join(instruction)
                case ScopeBegin(name):
                    variable = self.variables[name] = Variable(self)
                    self._scopes.append((name, variable))
                    self._take(Step(instruction, variable))
                case ScopeEnd(name):
                    self._take(Step(instruction, self._end_scope(name)))
                case _:
                    self._take(Step(instruction))
        return ()

    def _append(self, expr: Expr) -> None:
        parts = self._prepare(tuple(self._marked(leaves(expr, self))))
        with self.run.lock:
            self._check_open()
            role, n_unnamed, calls, style = self.role, self.n_unnamed, list(self._calls), self._tool_style
            card = self.run.card
            steps: list[Step[Self]] = []
            named: dict[Name, Variable] = {}
            for leaf in parts:
                if isinstance(leaf, Gen | Select):
                    name: Name = n_unnamed if leaf.name is None else leaf.name
                    n_unnamed += leaf.name is None
                    variable = named[name] = Variable(self)
                    if leaf.reasoning:
                        variable.reasoning = Variable(self)
                        if leaf.name is not None:
                            named[reasoning_name(leaf.name)] = variable.reasoning
                if isinstance(leaf, Select):
                    card.capabilities.check_choices(card.name, is_default=leaf.method is token_length_normalized)
                    steps.append(Step(leaf, variable))
                elif isinstance(leaf, Gen):
                    params, context = leaf.params(self.defaults, card.capabilities.sampling), copy_context() if leaf.execute else None
                    is_call = leaf.form is not None and bool(leaf.form.tools)
                    card.capabilities.check(params, card.name, is_tool_call=is_call)
                    before, after = (style.before, style.after) if style and is_call and leaf.reasoning is None else ("", "")
                    steps += [Step(Text(before))] if before else []
                    steps.append(Step(leaf, variable, params, context))
                    steps += [Step(Text(after))] if after else []
                    if leaf.execute:
                        calls.append((name, variable))
                elif isinstance(leaf, Tools):
                    style = card.tool_style
                    steps.append(Step(self._described(leaf)))
                else:
                    if isinstance(leaf, Embedded) and not (card.capabilities.blocks or (card.capabilities.images and leaf.block.is_image)):
                        raise self.run.missing("blocks")
                    if isinstance(leaf, Image):
                        _check_image(self.run, role)
                    if isinstance(leaf, TokenIds):
                        _check_ids(self.run, leaf.ids)
                    role = next_role(role, leaf)
                    steps.append(Step(leaf))
                if role is None:
                    steps += [Step(ToolTurn(name, in_roles=isinstance(leaf, RoleEnd)), call) for name, call in calls]
                    calls.clear()
            self.role, self.n_unnamed, self._calls, self._tool_style = role, n_unnamed, calls, style
            self.variables |= named
            self._pass_over()
            self._take(*steps)

    def _pass_over(self) -> None:
        """This strand goes on: children that have nothing left to do have probably served their
        purpose. One that is appended to again goes on itself.
        """
        if self.run.traced:
            return
        if self.parent is not None:
            self.parent._going[self.id] = self
        if over := [child for child in self._going.values() if child._settled]:
            for child in over:
                del self._going[child.id]
            self.run.ended(tuple(strand.id for child in over for strand in child._below()), is_all=False)

    @property
    def _settled(self) -> bool:
        return all(strand.idle for strand in self._below())

    def _below(self) -> Iterator[StrandBase]:
        """This strand and its descendants."""
        yield self
        for child in self.children:
            yield from child._below()

    def _marked(self, parts: Iterable[Leaf]) -> Iterator[Leaf]:
        """`parts` with the model's marks of reasoning where the program names none. A traced
        program has no model yet.
        """
        role = self.role
        for leaf in parts:
            if isinstance(leaf, Gen | Select) and self.run.traced is None:
                yield with_marks(leaf, self.run.card, in_answer=role == "assistant")
            else:
                role = leaf.role if isinstance(leaf, RoleBegin) else None if isinstance(leaf, RoleEnd) else role
                yield leaf

    def _described(self, tools: Tools) -> Text | Tools:
        """The description of tools that the model reads."""
        style = self.run.card.tool_style
        return Text(str(tools) if style is None else style.description(tools.specs))

    def assign(self, name: Name, value: object) -> None:
        """`s[name] = value`."""
        with self.run.lock:
            variable = self.variables[name] = Variable(self)
            variable.set(value)

    def _child_seed(self) -> int | None:
        """The seed of the next fork: different for each fork, and equal in every run with the same
        seed.
        """
        if self.defaults.seed is None:
            return None
        digest = hashlib.blake2b(f"{self.defaults.seed}:{len(self.children) + 1}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def _end_scope(self, name: str) -> Variable:
        for at in range(len(self._scopes) - 1, -1, -1):
            if self._scopes[at][0] == name:
                return self._scopes.pop(at)[1]
        raise ProgramError(f"no scope {name!r} is open")

    # ------------------------------------------------------------ joining

    @property
    def own_history(self) -> tuple[Turned, ...]:
        """The text of this strand itself, after its fork."""
        return tuple(self.transcript.history[self.n_inherited :])

    def _join(self, join: Join) -> None:
        children = tuple(child for child in self.children if child.id in join.forks)
        if join.mode == "gather_variable":
            self._gather(children)
        else:
            self._check_open()
            role = self.role
            for child in children:
                for entry in child.own_history:
                    role = role if isinstance(entry, Piece) else next_role(role, entry)
            self.role = role
        self._take(Step(join, strands=children))
        for child in children:
            child.joined = True
            self._going.pop(child.id, None)
        if not self.run.traced:
            self.run.ended(join.forks, is_all=False)

    def _gather(self, children: Sequence[Self]) -> None:
        """Each value that a child created, by its name, with one entry per child; None for a child
        without it.
        """
        own = [{name: v for name, v in child.variables.items() if child.inherited.get(name) is not v} for child in children]
        for name in dict.fromkeys(name for variables in own for name in variables):
            found = [variables.get(name) for variables in own]
            gathered = self.variables[name] = Variable(self)
            gathered.set([v.value if v else None for v in found], [v.meta if v else None for v in found])
            gathered.means = partial(_read_all, found)
        self.n_unnamed = max(self.n_unnamed, *(child.n_unnamed for child in children))


def _read_all(variables: list[Variable | None]) -> list[object]:
    return [variable.read() if variable else None for variable in variables]


def _check_image(run: Run, role: str | None) -> None:
    """Refuse an image that the backend does not take, or that is outside a turn."""
    if not run.card.capabilities.images:
        raise run.missing("images")
    if role is None:
        raise ProgramError("an image is part of a turn", hint="write user(image(...) + 'What is this?')")


def _check_ids(run: Run, ids: tuple[int, ...]) -> None:
    """Refuse ids that are none of the model's tokens."""
    if not run.card.capabilities.token_ids:
        raise run.missing("token_ids")
    if outside := next((token for token in ids if token >= run.card.vocab), None):
        raise BadArgument(f"{run.card.name} has no token {outside}: its ids end at {run.card.vocab - 1:,}")


def next_role(role: str | None, leaf: Text | TokenIds | Embedded | Image | RoleBegin | RoleEnd) -> str | None:
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
        case Text() | TokenIds() | Embedded() | Image():
            return role
