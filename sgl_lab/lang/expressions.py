"""The intermediate representation: everything that a program can express, as frozen values.

Expressions (`Expr`) are appended to a state: text, embedded blocks, generations, selections, role
marks. The other values change a strand: forks, joins, scopes of variables, the turn of a tool. None
of them does anything by itself. An executor (`run.Strand`) receives them one after the other: a
stream executes them, a tracer records them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Literal

from ..contracts.conversation import ImagePart
from ..contracts.errors import BadArgument
from ..contracts.ids import ForkId
from ..contracts.near import did_you_mean
from ..contracts.params import SamplingParams
from ..contracts.port import ModelCard
from ..contracts.spans import Block
from ..contracts.tools import ToolSpec, described
from .choices import ChoicesSamplingMethod
from .form import Form
from .location import SourceLocation, user_location
from .reasoning import MODEL_TYPES, OF_THE_MODEL, Reasoning

_SHOWN = 40
"""characters of an argument in the repr of an expression"""


class Expr:
    """Anything that can be appended to a state. `a + b` is both, in order; either may be a string."""

    def __add__(self, other: object) -> Concat:
        return Concat((*_parts(self), *_parts(as_expr(other)))) if isinstance(other, Expr | str) else NotImplemented

    def __radd__(self, other: object) -> Concat:
        return Concat((as_expr(other), *_parts(self))) if isinstance(other, str) else NotImplemented

    def __format__(self, spec: str) -> str:
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


@dataclass(frozen=True)
class Unordered(Expr):
    """All of `items`, in this order unless another one lets prompts begin alike for longer."""

    items: tuple[Expr, ...]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@dataclass(frozen=True)
class Gen(Expr):
    """Text from the model. `given` holds the sampling arguments of the program; the others are the
    run's.

    execute          the text is a call of a tool, which is made
    spells_logprobs  log-probabilities include the text of their tokens
    """

    name: str | None
    given: tuple[tuple[str, Any], ...] = ()
    form: Form | None = None
    execute: bool = False
    spells_logprobs: bool | None = None
    reasoning: Reasoning | None = None
    heal: bool = True
    """the model may generate the end of the preceding text again, if it would be one token with
    what follows
    """
    begins: tuple[int, ...] = ()
    """tokens that the text begins with: they are not drawn, and count for its constraint and stops"""
    location: SourceLocation = field(default_factory=user_location, compare=False)

    kind = "gen"

    def __repr__(self) -> str:
        """As a program writes it; a form by its constraint."""
        form = [] if self.form is None else [f"{self.form.constraint.kind}={_short(self.form.constraint.source)}"]
        given = [f"{name}={_short(value)}" for name, value in self.given]
        return f"gen({', '.join([*([repr(self.name)] if self.name is not None else []), *given, *form])})"

    @property
    def sampling_params(self) -> SamplingParams:
        """The program's own arguments over the defaults of `run`."""
        return self.params(SamplingParams())

    def params(self, defaults: SamplingParams, sampling: Collection[str] = ("stop_regex",)) -> SamplingParams:
        """The sampling parameters of this gen in a run with these defaults, for a backend that has
        `sampling`: one without patterns that stop is given a form without the remainder.
        """
        params = replace(defaults, **dict(self.given))
        if self.form is None:
            return params
        if self.execute and params.n > 1:
            raise BadArgument(
                f"execute= makes one call, but n is {params.n}", hint="leave execute= out, and .run() the call that you choose"
            )
        if self.form.exact is not None and "stop_regex" not in sampling:
            return replace(params, constraint=self.form.exact)
        return replace(params, constraint=self.form.constraint, stop_regex=(*params.stop_regex, *self.form.stop_regex))


@dataclass(frozen=True)
class Select(Expr):
    """The one of `choices` that the model finds likeliest, as `method` counts it."""

    name: str | None
    choices: tuple[str, ...]
    method: ChoicesSamplingMethod
    reasoning: Reasoning | None = None
    heal: bool = True
    """whether choices are encoded together with the text before them"""
    location: SourceLocation = field(default_factory=user_location, compare=False)

    kind = "select"

    def __repr__(self) -> str:
        return f"select({repr(self.name) + ', ' if self.name is not None else ''}choices={_short(list(self.choices))})"


@dataclass(frozen=True)
class Embedded(Expr):
    """Positions with given embeddings, such as an image's patches."""

    block: Block


@dataclass(frozen=True)
class TokenIds(Expr):
    """Tokens by their ids, as they are: no text is encoded."""

    ids: tuple[int, ...]

    def __repr__(self) -> str:
        return f"token_ids({_short(list(self.ids))})"


@dataclass(frozen=True)
class Image(Expr):
    """A picture, as a backend of messages takes it."""

    media_type: str
    """such as image/png"""
    data: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"image({self.media_type}, {len(self.data):,} bytes)"

    @property
    def part(self) -> ImagePart:
        return ImagePart(self.media_type, self.data)


@dataclass(frozen=True)
class Tools(Expr):
    """A description of tools: the one of the model's own chat template if it has one, otherwise
    `described`."""

    specs: tuple[ToolSpec, ...]

    def __str__(self) -> str:
        return described(self.specs)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@dataclass(frozen=True)
class RoleBegin(Expr):
    role: str


@dataclass(frozen=True)
class RoleEnd(Expr):
    role: str


@dataclass(frozen=True)
class SeparateReasoning(Expr):
    """Marks `expr`: its gens separate reasoning and answer."""

    model_type: str | None
    expr: Expr = field(repr=False)

    def __repr__(self) -> str:
        return f"SeparateReasoning(model_type={self.model_type}, name={self.name})"

    @property
    def name(self) -> str | None:
        """The name under which the reasoning of the last named gen is kept."""
        names = [leaf.name for leaf in requests_in(self.expr) if leaf.name is not None]
        return reasoning_name(names[-1]) if names else None

    def process_name_for_reasoning(self, name: str | None) -> str:
        if not name:
            raise BadArgument("a name must be provided")
        return reasoning_name(name)

    def applied(self, expr: Expr) -> Expr:
        """`expr` with gens that separate their reasoning. BadArgument for an unknown type of model."""
        if self.model_type is None:
            return _reasoning(expr, OF_THE_MODEL)
        reasoning = MODEL_TYPES.get(self.model_type.lower()) if isinstance(self.model_type, str) else None
        if reasoning is None:
            raise BadArgument(f"model_type {self.model_type!r} is unknown", hint=did_you_mean(self.model_type, MODEL_TYPES))
        return _reasoning(expr, reasoning)


def with_marks(expr: Gen | Select, card: ModelCard, *, in_answer: bool) -> Gen | Select:
    """`expr` with the marks of the model, if it was to have the model's own. BadArgument if none are known.
    `in_answer`: it is in an assistant's turn, which the chat template began.
    """
    if expr.reasoning != OF_THE_MODEL:
        return expr
    if card.reasoning is None:
        message = f"no marks of reasoning are known of {card.name}: its chat template and special tokens have none"
        raise BadArgument(message, hint=f"name them: separate_reasoning(..., model_type=...), one of {', '.join(MODEL_TYPES)}")
    begin, end, is_open = card.reasoning
    return _separated(expr, Reasoning(begin, end, is_open and in_answer))


def reasoning_name(name: str) -> str:
    return f"{name}_reasoning_content"


def requests_in(expr: Expr) -> Iterator[Gen | Select]:
    """The gens and selects in `expr`."""
    if isinstance(expr, Concat):
        for part in expr.parts:
            yield from requests_in(part)
    elif isinstance(expr, Unordered):
        for item in expr.items:
            yield from requests_in(item)
    elif isinstance(expr, Gen | Select):
        yield expr


def _reasoning(expr: Expr, reasoning: Reasoning) -> Expr:
    if isinstance(expr, Concat):
        return Concat(tuple(_reasoning(part, reasoning) for part in expr.parts))
    if isinstance(expr, Unordered):
        return Unordered(tuple(_reasoning(item, reasoning) for item in expr.items))
    return _separated(expr, reasoning) if isinstance(expr, Gen | Select) else expr


def _separated(expr: Gen | Select, reasoning: Reasoning) -> Gen | Select:
    if isinstance(expr, Select) or expr.form is None or reasoning == OF_THE_MODEL:
        return replace(expr, reasoning=reasoning)
    if reasoning.is_spelled_in(expr.form.constraint.source):
        # its form includes the reasoning
        return replace(expr, reasoning=reasoning, form=replace(expr.form, meaning=str, stated=None))
    reasoning = replace(reasoning, gap="\n")
    return replace(expr, reasoning=reasoning, form=expr.form.after(reasoning.lead))


@dataclass(frozen=True)
class Appended(Expr):
    """The result of `s.user(...)`: `expr` is already in `stream`, and appending it there again does
    nothing.
    """

    expr: Expr
    stream: object = field(compare=False)


# ---------------------------------------------------------------- what becomes of a strand

Name = str | int
"""The key of a value: its name, or its position among the unnamed gens and selects."""
Mode = Literal["gather_variable", "concate_and_append"]


@dataclass(frozen=True)
class Fork:
    """`number` strands begin here with everything appended so far. A copy is a fork into one."""

    number: int
    position_ids_offset: tuple[int, ...] | None = None
    """has no effect: positions continue where the parent ends"""
    is_copy: bool = False


@dataclass(frozen=True)
class Join:
    """Finished forks are joined: their parent takes over their results, as `mode` defines."""

    mode: Mode
    forks: tuple[ForkId, ...]


@dataclass(frozen=True)
class ScopeBegin:
    """All text from here to the end of the scope becomes the value of the variable."""

    name: str


@dataclass(frozen=True)
class ScopeEnd:
    """The end of the latest scope with this name."""

    name: str


@dataclass(frozen=True)
class ToolTurn:
    """The result of the tool whose call is in the variable: a turn of its own, or a line of plain
    text.
    """

    call: Name
    in_roles: bool


@dataclass(frozen=True)
class Warm:
    """Compute the KV of everything appended so far, so that it is found cached."""


@dataclass(frozen=True)
class Argument:
    """Text that the program receives when it runs. Only a traced program contains it."""

    name: str


@dataclass(frozen=True)
class Reference:
    """Text that the step with this number produces, under a name if it has one. Only a traced
    program contains it.
    """

    step: int
    name: str | None
    sample: int = 0


Leaf = Text | TokenIds | Embedded | Image | Tools | Gen | Select | RoleBegin | RoleEnd
Instruction = Expr | Fork | Join | ScopeBegin | ScopeEnd | Warm
"""The values that an executor receives."""
Primitive = Leaf | Fork | Join | ScopeBegin | ScopeEnd | ToolTurn | Warm | Argument | Reference
"""The values that this is composed of, one at a time."""


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
    """The expressions that appending `value` to `stream` adds, in order."""
    expr = as_expr(value)
    if isinstance(expr, Concat):
        for part, after in zip_longest(expr.parts, expr.parts[1:]):
            yield from leaves(after.applied(part) if isinstance(after, SeparateReasoning) else part, stream)
    elif isinstance(expr, Unordered):
        for item in expr.items:
            yield from leaves(item, stream)
    elif isinstance(expr, Appended):
        if expr.stream is not stream:
            yield from leaves(expr.expr, stream)
    elif isinstance(expr, Leaf):
        yield expr
