"""jinja2 for untrusted templates: the immutable sandbox, with limits on work and size.

jinja2's own sandbox protects Python's internals, but lets a template loop for ever and fill the
memory. Here every loop and call is counted, and every value is measured while it is built. The
dialect is that of transformers' chat templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from itertools import islice
from typing import Literal, ParamSpec, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.filters import do_round, do_title, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SIZE = 4 << 20
"""characters of the output and of any value that a template builds, nested ones included, whatever
it is given; and ...
"""
BASE_SIZE, GIVEN_TIMES = 1 << 18, 8
"""... this much, plus a multiple of the template's input"""
MAX_BITS = 4096
"""of any number that a template computes"""
MAX_PLACES = 100
"""to which a number may be rounded"""
_ITEM_SIZE = 64
"""weight of an item that is not a string"""
_STEP_SIZE = 1024
"""how much of a value is read or measured in one step"""
_MAX_INDENT, _MAX_DEPTH = 16, 32
"""of JSON that is indented"""
_MAX_LAYOUT = 256
"""characters of a date's layout"""

_GROWING = frozenset({"replace", "center", "ljust", "rjust", "zfill", "expandtabs"})
"""methods of a string whose result can exceed the sum of their arguments"""
_SPLITTING = frozenset({"split", "rsplit", "splitlines", "partition", "rpartition"})
_REFUSED = frozenset({"encode", "translate", "maketrans"})
"""methods of a string that no chat template needs and that are hard to bound"""
_CHEAP_TESTS = frozenset({"boolean", "callable", "defined", "eq", "even", "false", "float", "integer", "iterable", "mapping", "ne", "none"})
_CHEAP_TESTS |= {"number", "odd", "sameas", "sequence", "string", "true", "undefined"}


class Work:
    """The remaining work of the current rendering, and the maximum size of a value."""

    def __init__(self, steps: int, size: int) -> None:
        self.steps = steps
        self.size = size

    def spend(self, steps: int = 1) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise TooMuch("it takes too many steps")


_work: ContextVar[Work] = ContextVar("work")
_LINE_ENDS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


class TooMuch(Exception):
    """The template passed a bound."""


P = ParamSpec("P")
T = TypeVar("T")


class Refused(Exception):
    """The template called `raise_exception`."""


def render(template: jinja2.Template, variables: Mapping[str, object], *, max_work: int) -> str:
    """The rendered text. `max_work` limits loop iterations, calls and the reading of large values.

    Raises Refused, TooMuch, or any exception of a template.
    """
    size = min(MAX_SIZE, BASE_SIZE + GIVEN_TIMES * _size_of(variables))
    token = _work.set(Work(max_work, size))
    pieces: list[str] = []
    try:
        for piece in template.generate(variables):
            pieces.append(piece)
            size -= len(piece)
            if size < 0:
                raise TooMuch("its output is too long")
    finally:
        _work.reset(token)
    return "".join(pieces)


def _size_of(value: object) -> int:
    """Number of characters in the template's input."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size_of, value.values()))
    return sum(map(_size_of, value)) if isinstance(value, list | tuple) else 0


def _spend(steps: int = 1) -> None:
    _work.get().spend(steps)


def _counted(items: Iterable[T]) -> Iterator[T]:
    work = _work.get()
    for item in items:
        work.spend()
        yield item


def _collected(items: Iterator[object]) -> Iterator[object]:
    """Items that arrive one by one, all of which a consumer may keep."""
    work = _work.get()
    left = work.size
    for item in items:
        work.spend()
        left -= len(item) if isinstance(item, str) else _ITEM_SIZE
        if left < 0:
            raise TooMuch("it builds too large a value")
        yield _bounded(item)


def _read(value: object) -> object:
    """The value that a filter or a test is to read, which costs steps."""
    if isinstance(value, str):
        if len(value) >= _STEP_SIZE:
            _spend(len(value) // _STEP_SIZE)
    elif isinstance(value, Iterator):
        return _collected(value)
    elif isinstance(value, list | tuple | dict):
        _spend(len(value) // 16)
    return value


def _bounded(value: object) -> object:
    """The value, if it is small enough to be written out. Large values also cost steps."""
    if isinstance(value, str) and len(value) < _STEP_SIZE:
        return value
    work = _work.get()
    left, stack = work.size, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, int) and item.bit_length() > MAX_BITS:
            raise TooMuch("it computes too large a number")
        if isinstance(item, bytes | bytearray):
            raise TooMuch("it computes bytes")
        left -= len(item) if isinstance(item, str) else _ITEM_SIZE
        if left < 0 or (isinstance(item, list | tuple | dict) and len(item) * _ITEM_SIZE > left):
            raise TooMuch("it builds too large a value")
        if isinstance(item, list | tuple):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
    work.spend((work.size - left) // _STEP_SIZE)
    return value


def _check_growth(*arguments: object) -> None:
    """Sizes and numbers that a function may multiply with one another."""
    sizes = sorted(len(a) if isinstance(a, Sized) else a for a in arguments if isinstance(a, Sized | int))
    if len(sizes) > 1 and sizes[-1] * max(1, sizes[-2]) > _work.get().size:
        raise TooMuch("it builds too large a value")


def _joined(items: Iterable[object], between: object) -> str:
    """`between.join(items)`, measured as it grows: the items may arrive one by one, even the same
    large one repeatedly.
    """
    between = str(_bounded(between))
    parts: list[str] = []
    left = _work.get().size
    for item in _counted(items):
        parts.append(str(_bounded(item)))
        left -= len(parts[-1]) + len(between)
        if left < 0:
            raise TooMuch("it builds too large a value")
    return str(between.join(parts))


@jinja2.pass_environment
def _join(environment: jinja2.Environment, value: Iterable[object], d: object = "", attribute: str | int | None = None) -> str:
    return _joined(value if attribute is None else map(make_attrgetter(environment, attribute), value), d)


@jinja2.pass_environment
def _sum(environment: jinja2.Environment, iterable: Iterable[float], attribute: str | int | None = None, start: object = 0) -> float:
    if not isinstance(start, int | float):
        raise TooMuch("it adds up what are no numbers")
    return sum(_counted(iterable if attribute is None else map(make_attrgetter(environment, attribute), iterable)), start)


def _round(value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    if not -MAX_PLACES <= precision <= MAX_PLACES:
        raise TooMuch("it rounds to too many places")
    return do_round(value, precision, method)


def _growing(function: Callable[P, T]) -> Callable[P, T]:
    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        _check_growth(*args, *kwargs.values())
        return function(*args, **kwargs)

    return checked


def _pieces_of(owner: str, name: str, *args: object, **kwargs: object) -> object:
    """`owner.split(...)` and similar methods, if the result has no more items than a value may
    have.
    """
    most = _work.get().size // _ITEM_SIZE
    if name == "splitlines" and sum(1 for _ in islice(_LINE_ENDS.finditer(owner), most + 1)) > most:
        raise TooMuch("it builds too large a value")
    if name.endswith("split"):
        given = kwargs.pop("maxsplit", args[1] if len(args) > 1 else -1)
        separator = kwargs.pop("sep", args[0] if args else None)
        asked = given if isinstance(given, int) and 0 <= given <= most else most
        found = getattr(owner, name)(separator, asked, **kwargs)
        if asked == most and len(found) > most:
            raise TooMuch("it builds too large a value")
        return found
    return getattr(owner, name)(*args, **kwargs)


class _Measured(NodeTransformer):
    """Wraps each operation that builds or fully reads a value with a size check, and adds a counter
    to every loop.
    """

    def _around(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, "bounded")

    visit_Add = visit_Mul = visit_Concat = visit_List = visit_Dict = _around

    def visit_Filter(self, node: nodes.Filter) -> nodes.Expr:
        self.generic_visit(node)
        if node.node is not None:
            node.node = _filter(node.node, "read")
        return _filter(node, "bounded")

    def visit_Test(self, node: nodes.Test) -> nodes.Expr:
        self.generic_visit(node)
        if node.name not in _CHEAP_TESTS:
            node.node = _filter(node.node, "read")
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:
        self.generic_visit(node)
        for operand in node.ops:
            if operand.op in ("in", "notin"):
                operand.expr = _filter(operand.expr, "read")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        return self._around(node) if isinstance(node.arg, nodes.Slice) and node.ctx == "load" else self._visited(node)

    def _visited(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return node

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


def _filter(node: nodes.Node | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno if node else 1)


class Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Measured().visit(template)
        template.set_environment(self)
        return template

    def plain(self, source: str) -> nodes.Template:
        """The original template, without the additions of `_parse`."""
        return super()._parse(source, None, None)

    def call(self, context: Context, function: object, *args: object, **kwargs: object) -> object:
        _spend()
        method = getattr(function, "__wrapped__", function)  # jinja2 wraps str.format
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str):
            kwargs = {key: value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars")}  # jinja2's own, for macros
            for value in (owner, *args, *kwargs.values()):
                _read(value)
            if name in _REFUSED:
                raise TooMuch(f"it calls {name}")
            if name == "join" and len(args) == 1 and not kwargs and isinstance(args[0], Iterable):
                return _joined(args[0], owner)
            if name in _SPLITTING:
                return _bounded(_pieces_of(owner, name, *args, **kwargs))
            if name in _GROWING:
                _check_growth(owner, *args, *kwargs.values())
            if name in ("format", "format_map"):
                if re.search(r"[0-9]{4}|{[^}]*{", owner):
                    raise TooMuch("it pads too far")
                _check_growth(owner.count("{"), 1000 + max((_size_of(value) for value in (*args, *kwargs.values())), default=0))
        elif isinstance(owner, int | float | bytes | bytearray):
            raise TooMuch(f"it calls {name} of a number")
        elif isinstance(owner, list | tuple | dict):
            _read(owner)
        return _bounded(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
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
    """A repr without content, which may be too large."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _raise_exception(message: object) -> None:
    raise Refused(str(message))


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    if indent and (indent > _MAX_INDENT or _depth(value) > _MAX_DEPTH):
        raise TooMuch("it indents JSON too far")
    if separators and sum(map(len, separators)) > _MAX_INDENT:
        raise TooMuch("it separates JSON too far")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _depth(value: object) -> int:
    """The nesting depth of lists and objects, as far as it matters."""
    depth, layer = 0, [value]
    while layer and depth <= _MAX_DEPTH:
        depth += 1
        inner = [item for item in layer if isinstance(item, list | tuple | dict)]
        layer = [item for each in inner for item in (each.values() if isinstance(each, dict) else each)]
    return depth


def _strftime_now(layout: str) -> str:
    if len(layout) > _MAX_LAYOUT or re.search(r"%[-_0^#+]*[0-9]", layout):
        raise TooMuch("it asks for too long a date")
    return datetime.now().strftime(layout)


def _wordcount(value: object) -> int:
    _spend(len(str(value)) // _ITEM_SIZE)
    return sum(1 for _ in re.finditer(r"\w+", str(value)))


def _title(value: Sized) -> str:
    if len(value) * _ITEM_SIZE > MAX_SIZE:
        raise TooMuch("it reads too large a value")
    _spend(len(value) // _ITEM_SIZE)
    return do_title(str(value))


def _list(value: Iterable[T]) -> list[T]:
    """For a text, its characters, which need more memory than the text."""
    if isinstance(value, str) and len(value) * _ITEM_SIZE > _work.get().size:
        raise TooMuch("it builds too large a value")
    return list(value)


def environment() -> Environment:
    """The environment in which `from_string` makes templates for `render`."""
    # Not optimised: constants would be folded, and with them computed without a bound, while the template is compiled.
    made = Environment(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    for name in ("batch", "center", "format", "pprint", "slice", "urlencode", "urlize", "wordwrap", "xmlattr"):
        del made.filters[name]
    for name in ("indent", "replace"):
        made.filters[name] = _growing(made.filters[name])
    made.filters |= {"tojson": _to_json, "join": _join, "sum": _sum, "round": _round, "counted": _counted, "bounded": _bounded}
    made.filters |= {"read": _read, "list": _list, "title": _title, "wordcount": _wordcount}
    del made.globals["lipsum"]
    made.globals |= {"raise_exception": _raise_exception, "namespace": _Namespace}
    made.globals["strftime_now"] = _strftime_now
    return made
