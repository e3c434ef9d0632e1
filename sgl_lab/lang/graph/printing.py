"""A graph as text, a line a node, and as DOT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ...contracts.events import GraphNode
from ..expressions import (
    Argument,
    Embedded,
    Fork,
    Gen,
    Image,
    Join,
    Reference,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    Select,
    Text,
    TokenIds,
    Tools,
    ToolTurn,
    Warm,
)
from .values import Assign, Call, Cond, End, Node, TextSoFar, Value

_WIDTH = 60
"""characters of a text in a picture"""
_LONG = 240
"""characters of what a program says at a node"""


class Printed(Protocol):
    """What of a graph is printed."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> tuple[str, ...]: ...
    @property
    def nodes(self) -> tuple[Node, ...]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def end(self) -> End | None: ...
    @property
    def before(self) -> Sequence[int | None]: ...
    @property
    def reads(self) -> Sequence[Sequence[int]]: ...
    @property
    def owners(self) -> Mapping[int, int]: ...
    @property
    def parents(self) -> Mapping[int, int]: ...


def line(graph: Printed, number: int) -> str:
    """`%5 = %4 + Constant('Q: ')`."""
    value, before = graph.nodes[number].value, graph.before[number]
    if isinstance(value, Fork):
        return f"%{number} = Fork(%{before}, number={value.number}, position_ids_offset={value.position_ids_offset})"
    text = described(value)
    return f"%{number} = {text}" if before is None else f"%{number} = %{before} + {text}"


def described(value: Value) -> str:
    match value:
        case Text(text):
            return f"Constant({text!r})"
        case Argument(name):
            return f"Argument(name={name}, value=None)"
        case Reference(step, name, sample):
            return f"Variable({name!r}, source=%{step}{f', sample={sample}' if sample else ''})"
        case Gen(name):
            return f"Gen({name!r})"
        case Select(name, choices):
            return f"Select({name!r}, choices={list(choices)!r:.200})"
        case RoleBegin(role) | RoleEnd(role):
            return f"{type(value).__name__}({role})"
        case ScopeBegin(name) | ScopeEnd(name):
            return f"{type(value).__name__}({name})"
        case Join(mode, forks):
            return f"Join({', '.join(map(str, forks))}, mode={mode})"
        case Image(media_type):
            return f"Image({media_type})"
        case TokenIds(ids):
            return f"TokenIds({len(ids)})"
        case Embedded():
            return "Embedded()"
        case Tools(specs):
            return f"Tools({', '.join(spec.name for spec in specs)})"
        case ToolTurn(call):
            return f"ToolTurn({call!r})"
        case Warm() | TextSoFar():
            return f"{type(value).__name__}()"
        case Assign(name):
            return f"Assign({name!r})"
        case Call(program, given):
            return f"Call({', '.join([program, *(f'{name}={argument!r}' for name, argument in given)])})"
        case Cond(_, cases, regions, otherwise):
            known = ", ".join(f"{case!r}: region {region}" for case, region in zip(cases, regions, strict=True))
            return f"Cond({known}{'' if otherwise is None else f', otherwise: region {otherwise}'})"
    return repr(value)


def listing(graph: Printed) -> str:
    """All nodes, a strand and a region named where it changes."""
    lines, here = [f"graph of {graph.name}({', '.join(graph.arguments)})"], (-1, -1)
    for number, node in enumerate(graph.nodes):
        if (node.strand, node.region) != here:
            here = (node.strand, node.region)
            lines.append(f"stream {node.strand} ({graph.labels[node.strand]}){f', region {node.region}' if node.region else ''}:")
        lines.append(f"  {line(graph, number)}")
    if graph.end:
        lines.append(f"ends at {graph.end.location}: {graph.end.why}")
    return "\n".join(lines)


def dot(graph: Printed) -> str:
    """For graphviz: a column a strand; dashed lines for values that are read."""
    lines = ["digraph {", '  rankdir=TB; node [shape=box, fontname="monospace", fontsize=10];']
    for number, node in enumerate(graph.nodes):
        shape = ", style=bold" if isinstance(node.value, Gen | Select) else ""
        lines.append(f"  n{number} [label={_quoted(described(node.value)[:_WIDTH])}, group=s{node.strand}{shape}];")
    for number, node in enumerate(graph.nodes):
        if (before := graph.before[number]) is not None:
            label = _quoted(_case(graph, before, node.region)) if node.region != graph.nodes[before].region else '""'
            lines.append(f"  n{before} -> n{number} [label={label}];")
        lines += [f"  n{read} -> n{number} [style=dashed, constraint=true];" for read in graph.reads[number]]
    return "\n".join([*lines, "}"]) + "\n"


def _case(graph: Printed, cond: int, region: int) -> str:
    value = graph.nodes[cond].value
    if isinstance(value, Cond) and region in value.regions:
        return value.cases[value.regions.index(region)]
    return "otherwise" if isinstance(value, Cond) and region == value.otherwise else ""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


class Row(NamedTuple):
    """A row of a drawing. `number` is of its last node; neighbouring texts are one row."""

    number: int
    strand: int
    kind: str
    words: str
    reads: tuple[int, ...]
    """numbers of rows"""
    opened: tuple[int, ...] = ()


def rows(graph: Printed) -> list[Row]:
    """The nodes as rows, in order."""
    found: list[Row] = []
    row_of: dict[int, int] = {}
    region = -1
    for number, node in enumerate(graph.nodes):
        kind, words = _kind(node.value)
        reads = tuple(dict.fromkeys(row_of[read] for read in (*graph.reads[number], *node.after)))
        last = found[-1] if found else None
        if last and kind == last.kind == "text" and (last.strand, region) == (node.strand, node.region):
            found[-1] = last._replace(number=number, words=last.words + words)
        else:
            found.append(Row(number, node.strand, kind, words, reads, node.opened))
        row_of[number], region = len(found) - 1, node.region
    return found


class Shown(NamedTuple):
    """A graph as its live view shows it."""

    nodes: tuple[GraphNode, ...]
    rows: tuple[int, ...]
    """the place in `nodes` of each node of the graph"""


def shown(graph: Printed) -> Shown:
    """The nodes of the live view. Literal texts and arguments that follow each other are one."""
    found: list[GraphNode] = []
    row_of: list[int] = []
    place = (-1, -1)
    for number, node in enumerate(graph.nodes):
        kind, words = _kind(node.value)
        kind = "text" if kind == "argument" else kind
        here, before = (node.strand, node.region), graph.before[number]
        last = found[-1] if found else None
        if last and kind == last.kind == "text" and here == place:
            if len(last.words) < _LONG:
                found[-1] = last._replace(label=_cut(last.label + words, _WIDTH), words=_cut(last.words + words, _LONG))
        else:
            after = tuple(dict.fromkeys(row_of[each] for each in (*(() if before is None else (before,)), *node.after)))
            reads = tuple(dict.fromkeys(row_of[read] for read in graph.reads[number]))
            label = _label(node.value, words)
            found.append(GraphNode(kind, node.strand, _cut(label, _WIDTH), _cut(words, _LONG), after, reads))
        row_of.append(len(found) - 1)
        place = here
    return Shown(tuple(found), tuple(row_of))


def _label(value: Value, words: str) -> str:
    match value:
        case Gen(name) | Select(name):
            return name or type(value).__name__.lower()
        case Reference(_, name):
            return f"{{{name}}}"
        case Call(program):
            return program
        case Cond(_, cases):
            return f"cond: {', '.join(cases)}"
        case Assign(name):
            return f"{name} ="
        case Warm() | Fork():
            return words
    return type(value).__name__.lower() if not isinstance(value, Text | Argument | RoleBegin | RoleEnd) else words


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _kind(value: Value) -> tuple[str, str]:
    match value:
        case Text(text):
            return "text", text
        case RoleBegin(role):
            return "text", f"<{role}>"
        case RoleEnd(role):
            return "text", f"</{role}>"
        case Argument(name):
            return "argument", f"{{{name}}}"
        case Reference(_, name):
            return "read", f"text of {name!r}"
        case Gen():
            return "gen", repr(value)
        case Select():
            return "select", repr(value)
        case Warm():
            return "warm", "compute what is here"
        case Fork(n):
            return "opens", f"fork({n})"
        case Call(program, given):
            return "opens", f"{program}({', '.join(f'{name}={argument!r}' for name, argument in given)})"
    return "other", described(value)
