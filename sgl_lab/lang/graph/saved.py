"""A graph as JSON of a versioned schema, and back. What is read is checked before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from ...contracts.errors import BadArgument, ProgramError
from ...contracts.json_values import Json
from ..expressions import Argument, Fork, Join, Primitive, Reference, Text
from ..location import SourceLocation
from ..serial import from_json, to_json
from .symbols import Part
from .values import (
    Assign,
    Call,
    Cond,
    Constant,
    Data,
    End,
    Field,
    Items,
    Joined,
    Meaning,
    Node,
    State,
    TextSoFar,
    Use,
    Value,
    parts_in,
    parts_of,
    regions_of,
)

FORMAT = "sgl_lab graph"
VERSION = 1
_OWN = (Assign, Call, Cond, Constant, Field, Items, Joined, Meaning, State, TextSoFar)
_KINDS: dict[str, Callable[..., object]] = {kind.__name__: kind for kind in _OWN}
_FIELDS = {kind.__name__: {each.name for each in fields(kind)} for kind in _OWN}


class Written(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> tuple[str, ...]: ...
    @property
    def known(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def nodes(self) -> tuple[Node, ...]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def returned(self) -> Data: ...
    @property
    def end(self) -> End | None: ...


def written(graph: Written) -> dict[str, Json]:
    """ProgramError, naming the line, for a node with Python objects that JSON cannot name."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": graph.name,
        "arguments": list(graph.arguments),
        "known": [list(pair) for pair in graph.known],
        "labels": list(graph.labels),
        "nodes": [_node(number, node) for number, node in enumerate(graph.nodes)],
        "returned": _value(graph.returned) if _is_plain(graph.returned) else _value(Constant(None)),
        "end": None if graph.end is None else {"location": list(graph.end.location), "why": graph.end.why},
    }


def _node(number: int, node: Node) -> dict[str, Json]:
    try:
        value = _value(node.value)
    except ProgramError as error:
        raise ProgramError(f"node %{number}, {node.location}: {error.message}", hint=error.hint) from None
    written: dict[str, Json] = {"strand": node.strand, "value": value, "location": [node.location.file, node.location.line]}
    written |= {"opened": list(node.opened)} if node.opened else {}
    written |= {"region": node.region} if node.region else {}
    written |= {"after": list(node.after)} if node.after else {}
    written |= {} if node.together is None else {"together": node.together}
    written |= {} if node.use is None else {"use": list(node.use)}
    return written | ({"field": [node.field.set, node.field.item]} if node.field else {})


def _value(value: object) -> Json:
    if isinstance(value, tuple):
        return [_value(each) for each in value]
    if isinstance(value, _OWN):
        return {"is": type(value).__name__} | {name: _value(each) for name, each in vars(value).items()}
    return to_json(value)


def _is_plain(data: Data) -> bool:
    """Whether JSON can name it; a program may return any object."""
    match data:
        case Constant(value):
            return value is None or isinstance(value, bool | int | float | str)
        case Items(_, items):
            return all(map(_is_plain, items))
    return True


# ---------------------------------------------------------------- reading


def document(path: str | PathLike[str]) -> object:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadArgument(f"graph file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadArgument(f"graph file {path} is damaged: {error}", hint="save the graph again") from None


class Fields(NamedTuple):
    """Of a graph, in its order."""

    name: str
    arguments: tuple[str, ...]
    known: tuple[tuple[str, str], ...]
    nodes: tuple[Node, ...]
    labels: tuple[str, ...]
    returned: Data
    end: End | None


def read(data: object) -> Fields:
    """The fields of a graph. BadArgument, with the place, for anything else than `written` wrote."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadArgument("this is no graph of sgl_lab", hint="graph.save(path) writes one")
    if data.get("version") != VERSION:
        message = f"the graph is of version {data.get('version')!r:.20}, this reads version {VERSION}"
        raise BadArgument(message, hint="trace the program again")
    try:
        end = data["end"]
        read = Fields(
            _text(data["name"], "name"),
            tuple(_text(each, "arguments") for each in _list(data["arguments"], "arguments")),
            tuple((_text(pair[0], "known"), _text(pair[1], "known")) for pair in map(_pair, _list(data["known"], "known"))),
            tuple(_read_node(number, node) for number, node in enumerate(_list(data["nodes"], "nodes"))),
            tuple(_text(each, "labels") for each in _list(data["labels"], "labels")),
            cast(Data, _read_value(data["returned"])),
            None if end is None else End(_location(end["location"]), _text(end["why"], "end")),
        )
        _check(read)
    except KeyError as error:
        raise _damaged(f"{error.args[0]!r:.40} is missing") from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise error if isinstance(error, BadArgument) else _damaged(str(error)) from None
    return read


def _pair(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{value!r:.40} is no pair")
    return value


def _location(value: object) -> SourceLocation:
    file, line = _pair(value)
    return SourceLocation(_text(file, "file"), _number(line))


def _read_node(number: int, data: object) -> Node:
    try:
        if not isinstance(data, dict):
            raise ValueError(f"{data!r:.40} is no node")
        place = data.get("field")
        return Node(
            _number(data["strand"]),
            cast(Value, _read_value(data["value"])),
            _location(data["location"]),
            tuple(map(_number, data.get("opened", ()))),
            _number(data.get("region", 0)),
            Field(*map(_number, place)) if place else None,
            tuple(map(_number, data.get("after", ()))),
            _number(data["together"]) if "together" in data else None,
            Use(*map(_number, data["use"])) if "use" in data else None,
        )
    except KeyError as error:
        raise _damaged(f"node %{number} has no {error.args[0]!r:.40}") from None
    except (TypeError, ValueError, IndexError) as error:
        raise _damaged(f"node %{number}: {error}") from None


def _read_value(data: object) -> object:
    if isinstance(data, list):
        return tuple(map(_read_value, data))
    if isinstance(data, dict) and (kind := str(data.get("is"))) in _KINDS:
        given = {name: _read_value(each) for name, each in data.items() if name != "is"}
        if given.keys() != _FIELDS[kind]:
            raise ValueError(f"{kind} has not the fields {', '.join(sorted(given))}")
        return _KINDS[kind](**given)
    return from_json(data)  # type: ignore[arg-type]  # refuses what is no JSON value


def _check(graph: Fields) -> None:
    """Every number and name that a node uses is there, and earlier."""
    n_strands, opened, regions = len(graph.labels), {0}, {0}
    for number, node in enumerate(graph.nodes):
        if not isinstance(node.value, Primitive | Assign | TextSoFar | Call | Cond):
            raise _damaged(f"node %{number} is {type(node.value).__name__}, which no program says")
        opened |= set(node.opened)
        if node.strand not in opened or any(not 0 <= each < n_strands for each in (node.strand, *node.opened)):
            raise _damaged(f"node %{number} is on strand {node.strand}, which nothing opens")
        if len(node.opened) != _n_opened(node.value):
            raise _damaged(f"node %{number} opens {len(node.opened)} strands, not {_n_opened(node.value)}")
        if node.region not in regions:
            raise _damaged(f"node %{number} is in region {node.region}, which no Cond opens")
        regions |= set(regions_of(node.value)) if isinstance(node.value, Cond) else set()
        if isinstance(node.value, Join) and not {int(fork) for fork in node.value.forks} <= opened:
            raise _damaged(f"node %{number} joins a strand that nothing opens")
        if any(not 0 <= each < number for each in node.after):
            raise _damaged(f"node %{number} runs after node %{max(node.after)}, which is not before it")
        for part in parts_of(node.value):
            _check_part(part, number, graph)
    for part in parts_in(graph.returned):
        _check_part(part, len(graph.nodes), graph)


def _n_opened(value: Value) -> int:
    return value.number if isinstance(value, Fork) else int(isinstance(value, Call))


def _check_part(part: Part, number: int, graph: Fields) -> None:
    if isinstance(part, Reference) and not 0 <= part.step < number:
        raise _damaged(f"node %{number} reads node %{part.step}, which is not before it")
    if isinstance(part, Argument) and part.name not in graph.arguments:
        raise _damaged(f"node %{number} reads the argument {part.name!r:.40}, which the graph does not have")
    if not isinstance(part, Text | Argument | Reference):
        raise _damaged(f"node %{number} reads {part!r:.40}, which is no part of a text")


def _damaged(what: str) -> BadArgument:
    return BadArgument(f"the graph is damaged: {what}", hint="save it again")


def _list(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r:.40}, not a list")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.40}, not a text")
    return value


def _number(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r:.40} is no whole number")
    return value
