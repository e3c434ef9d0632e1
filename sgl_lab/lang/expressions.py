"""The intermediate representation: all that a program can say, as frozen values.

Expressions (`Expr`) are appended to a state: text, embedded blocks, generations, selections, role marks. The other values say what
becomes of a strand: forks, joins, scopes of variables, the turn of a tool. None of them does anything. An executor
(`run.Strand`) is given them one after the other; a stream executes them, a tracer records them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Literal, NoReturn

from ..contracts.errors import BadArgument
from ..contracts.ids import ForkId
from ..contracts.near import did_you_mean
from ..contracts.params import SamplingParams
from ..contracts.spans import Block
from .choices import ChoicesSamplingMethod
from .form import Form
from .location import SourceLocation, user_location
from .reasoning import MODEL_TYPES, Reasoning

_SHOWN = 40
"""characters of an argument that the repr of an expression has"""


class Expr:
    """Anything that can be appended to a state. `a + b` is both, in this order; either may be a string."""

    def __add__(self, other: object) -> Concat:
        return Concat((*_parts(self), *_parts(as_expr(other)))) if isinstance(other, Expr | str) else NotImplemented

    def __radd__(self, other: object) -> Concat:
        return Concat((as_expr(other), *_parts(self))) if isinstance(other, str) else NotImplemented

    def __format__(self, spec: str) -> NoReturn:
        raise BadArgument(f"a {type(self).__name__.lower()} in an f-string has no text yet", hint="join them with +: f'...' + gen(...)")


@dataclass(frozen=True)
class Text(Expr):
    text: str

    @property
    def value(self) -> str:
        return self.text


@dataclass(frozen=True)
class Concat(Expr):
    parts: tuple[Expr, ...]

    @property
    def expr_list(self) -> list[Expr]:
        return list(self.parts)


def _parts(expr: Expr) -> tuple[Expr, ...]:
    return expr.parts if isinstance(expr, Concat) else (expr,)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


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
    heal: bool = True
    """the model may say the end of the text before it again, where what it says would be one token with it"""
    location: SourceLocation = field(default_factory=user_location, compare=False)

    kind = "gen"

    def __repr__(self) -> str:
        """As a program writes it; a form by what it constrains the text to."""
        form = [] if self.form is None else [f"{self.form.constraint.kind}={_short(self.form.constraint.source)}"]
        given = [f"{name}={_short(value)}" for name, value in self.given]
        return f"gen({', '.join([*([repr(self.name)] if self.name is not None else []), *given, *form])})"

    @property
    def sampling_params(self) -> SamplingParams:
        """What the program states, over the defaults of `run`."""
        return self.params(SamplingParams())

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
    reasoning: Reasoning | None = None
    heal: bool = True
    """choices are encoded with the text before them"""
    location: SourceLocation = field(default_factory=user_location, compare=False)

    kind = "select"

    def __repr__(self) -> str:
        return f"select({repr(self.name) + ', ' if self.name is not None else ''}choices={_short(list(self.choices))})"


@dataclass(frozen=True)
class Embedded(Expr):
    """Positions whose embeddings are given, such as an image's patches."""

    block: Block


@dataclass(frozen=True)
class RoleBegin(Expr):
    role: str


@dataclass(frozen=True)
class RoleEnd(Expr):
    role: str


@dataclass(frozen=True)
class SeparateReasoning(Expr):
    """Says of `expr`, the part that stands before it, that what its gens think aloud is told from what they answer."""

    model_type: str | None
    expr: Expr = field(repr=False)

    def __repr__(self) -> str:
        return f"SeparateReasoning(model_type={self.model_type}, name={self.name})"

    @property
    def name(self) -> str | None:
        """What the reasoning of the last gen with a name is kept under."""
        names = [leaf.name for leaf in asked(self.expr) if leaf.name is not None]
        return reasoning_name(names[-1]) if names else None

    def process_name_for_reasoning(self, name: str | None) -> str:
        if not name:
            raise BadArgument("a name must be provided")
        return reasoning_name(name)

    def applied(self, expr: Expr) -> Expr:
        """`expr` with gens that separate their reasoning. BadArgument for a type of model that is not known."""
        reasoning = MODEL_TYPES.get(self.model_type.lower()) if isinstance(self.model_type, str) else None
        if reasoning is None:
            raise BadArgument(f"model_type {self.model_type!r} is unknown", hint=did_you_mean(self.model_type, MODEL_TYPES))
        return _reasoning(expr, reasoning)


def reasoning_name(name: str) -> str:
    return f"{name}_reasoning_content"


def asked(expr: Expr) -> Iterator[Gen | Select]:
    """The gens and selects in `expr`."""
    if isinstance(expr, Concat):
        for part in expr.parts:
            yield from asked(part)
    elif isinstance(expr, Gen | Select):
        yield expr


def _reasoning(expr: Expr, reasoning: Reasoning) -> Expr:
    if isinstance(expr, Concat):
        return Concat(tuple(_reasoning(part, reasoning) for part in expr.parts))
    if isinstance(expr, Select):
        return replace(expr, reasoning=reasoning)
    if not isinstance(expr, Gen):
        return expr
    if expr.form is None:
        return replace(expr, reasoning=reasoning)
    if reasoning.is_spelled_in(expr.form.constraint.source):
        return replace(expr, reasoning=reasoning, form=replace(expr.form, meaning=str, stated=None))  # it shapes the reasoning too
    reasoning = replace(reasoning, gap="\n")
    return replace(expr, reasoning=reasoning, form=expr.form.after(reasoning.lead))


@dataclass(frozen=True)
class Appended(Expr):
    """What `s.user(...)` returns: `expr` is in `stream` already, and appending it there again does nothing."""

    expr: Expr
    stream: object = field(compare=False)


# ---------------------------------------------------------------- what becomes of a strand

Name = str | int
"""What a value is kept under: its name, or its position among the unnamed gens and selects."""
Mode = Literal["gather_variable", "concate_and_append"]


@dataclass(frozen=True)
class Fork:
    """`number` strands begin here with all that has been appended. A copy is a fork into one."""

    number: int
    position_ids_offset: tuple[int, ...] | None = None
    """has no effect: positions go on where the parent's end"""
    is_copy: bool = False


@dataclass(frozen=True)
class Join:
    """Forks that have nothing left to do come together: their parent takes over what they made, as `mode` says."""

    mode: Mode
    forks: tuple[ForkId, ...]


@dataclass(frozen=True)
class ScopeBegin:
    """All text from here to the end of the scope becomes the value of the variable."""

    name: str


@dataclass(frozen=True)
class ScopeEnd:
    """Of the scope with this name that began last."""

    name: str


@dataclass(frozen=True)
class ToolTurn:
    """What the tool said whose call stands in the variable: a turn of its own, or a line of plain text."""

    call: Name
    in_roles: bool


@dataclass(frozen=True)
class Warm:
    """Compute the KV of all that has been appended, so that it is found cached."""


@dataclass(frozen=True)
class Argument:
    """Text that the program is given when it runs. Only a traced program says it."""

    name: str


@dataclass(frozen=True)
class Reference:
    """Text that a step with this number gives, under a name if it has one. Only a traced program says it."""

    step: int
    name: str | None
    sample: int = 0


Leaf = Text | Embedded | Gen | Select | RoleBegin | RoleEnd
Instruction = Expr | Fork | Join | ScopeBegin | ScopeEnd | Warm
"""What an executor is given."""
Primitive = Leaf | Fork | Join | ScopeBegin | ScopeEnd | ToolTurn | Warm | Argument | Reference
"""What this comes down to, one at a time."""


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
        for part, after in zip_longest(expr.parts, expr.parts[1:]):
            yield from leaves(after.applied(part) if isinstance(after, SeparateReasoning) else part, stream)
    elif isinstance(expr, Appended):
        if expr.stream is not stream:
            yield from leaves(expr.expr, stream)
    elif isinstance(expr, Leaf):
        yield expr
