"""jinja2 for templates that nobody has vouched for: the immutable sandbox, and bounds on work and on size.

jinja2's own sandbox keeps a template from Python's internals but lets it loop for ever and fill
the memory. Here every loop and call is counted, and whatever a template builds is measured as it
is built. The dialect is that of transformers' chat templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, Literal

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.filters import do_round, make_attrgetter
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SIZE = 4 << 20
"""characters of the output and of any value that a template builds, nested ones included"""
MAX_BITS = 4096
"""of any number that a template computes"""
MAX_PLACES = 100
"""to which a number may be rounded"""
_ITEM_SIZE = 64
"""what an item that is no string counts for"""
_STEP_SIZE = 4096
"""how much of a value is measured in one step"""

_GROWING = frozenset({"replace", "center", "ljust", "rjust", "zfill", "expandtabs", "translate"})
"""methods of a string whose result is not bounded by the sum of what they are given"""

_work: ContextVar[list[int]] = ContextVar("work")
"""how many steps the rendering at hand may still take"""


class TooMuch(Exception):
    """The template passed a bound."""


class Refused(Exception):
    """The template called `raise_exception`."""


def render(template: jinja2.Template, variables: Mapping[str, Any], *, max_work: int) -> str:
    """The rendered text; `max_work` bounds loop iterations and calls. Refused, TooMuch, or whatever else a template can raise."""
    token = _work.set([max_work])
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate(variables):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_SIZE:
                raise TooMuch("its output is too long")
    finally:
        _work.reset(token)
    return "".join(pieces)


def _spend(steps: int = 1) -> None:
    left = _work.get()
    left[0] -= steps
    if left[0] < 0:
        raise TooMuch("it takes too many steps")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend()
        yield item


def _bounded(value: Any) -> Any:
    """The value, if it is not too large to be written out; what is large costs steps too."""
    left, stack = MAX_SIZE, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, int) and item.bit_length() > MAX_BITS:
            raise TooMuch("it computes too large a number")
        left -= len(item) if isinstance(item, str) else _ITEM_SIZE
        if left < 0 or (isinstance(item, list | tuple | dict) and len(item) * _ITEM_SIZE > left):
            raise TooMuch("it builds too large a value")
        if isinstance(item, list | tuple):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
    _spend((MAX_SIZE - left) // _STEP_SIZE)
    return value


def _check_growth(*arguments: Any) -> None:
    """Sizes and numbers that a function may multiply with one another."""
    sizes = sorted(len(a) if hasattr(a, "__len__") else a for a in arguments if hasattr(a, "__len__") or isinstance(a, int))
    if len(sizes) > 1 and sizes[-1] * max(1, sizes[-2]) > MAX_SIZE:
        raise TooMuch("it builds too large a value")


def _joined(items: Iterable[Any], between: Any) -> str:
    """`between.join(items)`, measured as it grows: the items may come one by one, the same large one again and again."""
    between = str(_bounded(between))
    parts: list[str] = []
    left = MAX_SIZE
    for item in _counted(items):
        parts.append(str(_bounded(item)))
        left -= len(parts[-1]) + len(between)
        if left < 0:
            raise TooMuch("it builds too large a value")
    return str(between.join(parts))


@jinja2.pass_environment
def _join(environment: jinja2.Environment, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    return _joined(value if attribute is None else map(make_attrgetter(environment, attribute), value), d)


@jinja2.pass_environment
def _sum(environment: jinja2.Environment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    if not isinstance(start, int | float):
        raise TooMuch("it adds up what are no numbers")
    return sum(_counted(iterable if attribute is None else map(make_attrgetter(environment, attribute), iterable)), start)


def _round(value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    if not -MAX_PLACES <= precision <= MAX_PLACES:
        raise TooMuch("it rounds to too many places")
    return do_round(value, precision, method)


def _growing(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_growth(*args, *kwargs.values())
        return function(*args, **kwargs)

    return checked


class _Measured(NodeTransformer):
    """Puts a measure around whatever makes a value of others, and a count into every loop."""

    def _around(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, "bounded")

    visit_Add = visit_Mul = visit_Concat = visit_Filter = visit_List = visit_Dict = _around

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        return self._around(node) if node.ctx == "load" else node

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filter(node.iter, "counted")
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:
        self.generic_visit(node)
        node.filter = node.filter or _filter(None, "bounded")
        return node


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno if node else 1)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Measured().visit(template)
        template.set_environment(self)
        return template

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        _spend()
        method = getattr(function, "__wrapped__", function)  # jinja2 wraps str.format
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str) and name == "join" and len(args) == 1 and not kwargs:
            return _joined(args[0], owner)
        if isinstance(owner, str) and name in _GROWING:
            _check_growth(owner, *args, *kwargs.values())
        if isinstance(owner, str) and name in ("format", "format_map") and re.search(r"[0-9]{5}|{[^}]*{", owner):
            raise TooMuch("it pads too far")
        return _bounded(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (isinstance(left, str) and operator == "%"):
            raise TooMuch(f"it uses the operator {operator}")
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            _check_growth(left, right)
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}` marks assistant text for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Writes nothing of what it holds: that may be too large."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _raise_exception(message: Any) -> None:
    raise Refused(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    _check_growth(min(indent or 0, MAX_SIZE), 1000)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> jinja2.Environment:
    """The environment in which `from_string` makes templates for `render`."""
    # Not optimised: constants would be folded, and with them computed without a bound, while the template is compiled.
    made = _Environment(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    for name in ("batch", "center", "format", "pprint", "slice", "urlencode", "urlize", "wordwrap", "xmlattr"):
        del made.filters[name]
    for name in ("indent", "replace"):
        made.filters[name] = _growing(made.filters[name])
    made.filters |= {"tojson": _to_json, "join": _join, "sum": _sum, "round": _round, "counted": _counted, "bounded": _bounded}
    del made.globals["lipsum"]
    made.globals |= {"raise_exception": _raise_exception, "namespace": _Namespace}
    made.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return made
