"""Values of the intermediate representation as JSON, and back.

A value with Python objects that JSON cannot name is refused: a form of a Python type or of tools,
or a user's own choices method.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from ..contracts.errors import ProgramError
from ..contracts.json_values import Json
from .choices import greedy_token_selection, token_length_normalized, unconditional_likelihood_normalized
from .expressions import (
    Argument,
    Concat,
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
    SeparateReasoning,
    Text,
    TokenIds,
    ToolTurn,
    Warm,
)
from .form import FORMS, Form
from .location import SourceLocation
from .reasoning import Reasoning

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_VALUES = (
    *(Argument, Concat, Fork, Gen, Image, Join, Reference, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, Select, SeparateReasoning, Text),
    *(TokenIds, ToolTurn, Warm, Reasoning),
)
_KINDS: dict[str, type[DataclassInstance]] = {kind.__name__: kind for kind in _VALUES}
_LATER: dict[type, set[str]] = {Gen: {"begins"}}
"""fields that values written before they existed lack"""
_METHODS = {repr(method): method for method in (greedy_token_selection, token_length_normalized, unconditional_likelihood_normalized)}


def to_json(value: object) -> Json:
    """A value of the representation as JSON values. ProgramError if a part of it has no JSON form."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case SourceLocation(file, line):
            return {"is": "SourceLocation", "file": file, "line": line}
        case bytes():
            return {"is": "bytes", "base64": base64.b64encode(value).decode("ascii")}
        case tuple():
            return [to_json(each) for each in value]
        case Form(stated=(argument, text)):
            return {"is": "Form", "argument": argument, "text": text, "lead": value.constraint.lead}
        case _ if is_dataclass(value) and type(value) in _VALUES:
            return {"is": type(value).__name__} | {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
        case _ if value in _METHODS.values():
            return {"is": "ChoicesSamplingMethod", "name": repr(value)}
    raise ProgramError(
        f"{type(value).__name__} {value!r:.60} has no JSON form",
        hint="state a form as dtype=, regex=, json_schema= or grammar=, and take one of the choices methods that are there",
    )


def from_json(data: Json) -> object:
    """The value that `to_json` wrote. ValueError for anything else."""
    match data:
        case None | bool() | int() | float() | str():
            return data
        case list():
            return tuple(map(from_json, data))
        case {"is": "SourceLocation", "file": str(file), "line": int(line)}:
            return SourceLocation(file, line)
        case {"is": "bytes", "base64": str(text)}:
            return base64.b64decode(text, validate=True)
        case {"is": "Form", "argument": str(argument), "text": str(text), "lead": str(lead)} if argument in FORMS:
            form = FORMS[argument](text)
            return form.after(lead) if lead else form
        case {"is": "ChoicesSamplingMethod", "name": str(name)} if name in _METHODS:
            return _METHODS[name]
        case {"is": str(kind)} if kind in _KINDS:
            return _made(_KINDS[kind], {name: value for name, value in data.items() if name != "is"})
    raise ValueError(f"{data!r:.60} is no value of a program")


def _made(kind: type[DataclassInstance], given: Mapping[str, Json]) -> object:
    known = {each.name for each in fields(kind)}
    if not known - _LATER.get(kind, set()) <= given.keys() <= known:
        raise ValueError(f"{kind.__name__} has not the fields {', '.join(sorted(given))}")
    return kind(**{name: from_json(value) for name, value in given.items()})
