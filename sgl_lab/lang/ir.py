"""What a program says, as frozen values: text, generations, selections and role marks.

An expression does nothing. Appended to a state it becomes work of that state's stream.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..contracts.errors import BadArgument
from ..contracts.params import SamplingParams
from .choices import ChoicesSamplingMethod
from .form import Form

if TYPE_CHECKING:
    from .reasoning import Reasoning


class Place(NamedTuple):
    """A line of the user's own source; line 0 when unknown."""

    file: str
    line: int

    def __str__(self) -> str:
        # A notebook cell's file name is made up and says nothing to its author.
        return f"line {self.line} of {os.path.basename(self.file)}" if os.path.exists(self.file) else f"line {self.line}"


def user_place() -> Place:
    """Where the caller outside this package stands."""
    frame = sys._getframe(1)
    package = __name__.rpartition(".")[0] + "."
    while frame.f_globals.get("__name__", "").startswith(package):
        if frame.f_back is None:
            return Place("", 0)
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


class Expr:
    """Anything that can be appended to a state. `a + b` is both, in this order; either may be a string."""

    def __add__(self, other: object) -> Concat:
        return Concat((self, as_expr(other))) if isinstance(other, Expr | str) else NotImplemented

    def __radd__(self, other: object) -> Concat:
        return Concat((as_expr(other), self)) if isinstance(other, str) else NotImplemented

    def __format__(self, spec: str) -> NoReturn:
        raise BadArgument(f"a {type(self).__name__.lower()} in an f-string has no text yet", hint="join them with +: f'...' + gen(...)")


@dataclass(frozen=True)
class Text(Expr):
    text: str


@dataclass(frozen=True)
class Concat(Expr):
    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class Gen(Expr):
    """Text from the model. `given` holds the sampling that the program states; the rest is the run's.

    `execute`: the text is a call of a tool, which is made. `spells_logprobs`: log-probabilities come with the text of their tokens.
    """

    name: str | None
    given: tuple[tuple[str, Any], ...] = ()
    form: Form | None = None
    execute: bool = False
    spells_logprobs: bool | None = None
    reasoning: Reasoning | None = None
    place: Place = field(default_factory=user_place, compare=False)

    kind = "gen"

    def params(self, defaults: SamplingParams) -> SamplingParams:
        """The sampling of this gen in a run with these defaults."""
        params = replace(defaults, **dict(self.given))
        if self.form is None:
            return params
        if self.execute and params.n > 1:
            raise BadArgument(f"a call is executed once, n is {params.n}", hint="leave out execute= and .run() the call you choose")
        return replace(params, constraint=self.form.constraint, stop_regex=(*params.stop_regex, *self.form.stop_regex))


@dataclass(frozen=True)
class Select(Expr):
    """The one of `choices` that the model finds likeliest, as `method` counts it."""

    name: str | None
    choices: tuple[str, ...]
    method: ChoicesSamplingMethod
    place: Place = field(default_factory=user_place, compare=False)

    kind = "select"


@dataclass(frozen=True)
class RoleBegin(Expr):
    role: str


@dataclass(frozen=True)
class RoleEnd(Expr):
    role: str


@dataclass(frozen=True)
class Appended(Expr):
    """What `s.user(...)` returns: `expr` is in `stream` already, and appending it there again does nothing."""

    expr: Expr
    stream: object = field(compare=False)


Leaf = Text | Gen | Select | RoleBegin | RoleEnd


def as_expr(value: object) -> Expr:
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return Text(value)
    raise BadArgument(
        f"cannot append {type(value).__name__} {value!r:.60} to a program",
        hint="append a string or an expression such as gen(...); write f'{value}' for its text",
    )


def leaves(value: object, stream: object) -> Iterator[Leaf]:
    """What appending `value` to `stream` comes down to, in order."""
    expr = as_expr(value)
    if isinstance(expr, Concat):
        for part in expr.parts:
            yield from leaves(part, stream)
    elif isinstance(expr, Appended):
        if expr.stream is not stream:
            yield from leaves(expr.expr, stream)
    elif isinstance(expr, Leaf):
        yield expr


# ---------------------------------------------------------------- names that programs written for the original import from here

SglExpr, SglExprList, SglConstantText = Expr, Concat, Text
SglGen, SglSelect, SglRoleBegin, SglRoleEnd = Gen, Select, RoleBegin, RoleEnd

REGEX_INT = r"[-+]?[0-9]+"
REGEX_FLOAT = r"[-+]?[0-9]*\.?[0-9]+"
REGEX_BOOL = "(True|False)"
REGEX_STR = REGEX_STRING = r'"[^"\\\n]*"'


def __getattr__(name: str) -> Any:
    if name == "SglFunction":  # made of what this module knows nothing of
        from .program import SglFunction

        return SglFunction
    raise AttributeError(f"{__name__} has no {name!r}")
