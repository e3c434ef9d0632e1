"""JSON schemas to grammars: `lowered(text)` is the input of `LLMatcher`.

The grammar accepts exactly what the schema allows, as `json.dumps(value, ensure_ascii=False)`
writes it: one space after `,` and `:`, the properties in the order in which the schema names them
(`required` after `properties`, other keys last). Draft 2020-12; nothing is ever downloaded.
Unsupported keywords are refused before anything is generated, with their path. Values without
limits remain unlimited: give strings a `maxLength` and arrays a `maxItems`, so that a weak model
must come to an end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_schema import plainly_valid
from ..contracts.json_values import Json
from ..contracts.params import MAX_SOURCE

if TYPE_CHECKING:
    from .spelling import Spelled

MAX_DEPTH = 64
MAX_VALUES = 20_000
MAX_OBJECTS = 1_000
MAX_STRING = 10_000
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_OLDER = ("http://json-schema.org/draft-07/schema", "https://json-schema.org/draft/2019-09/schema")
_CHANGED = {"dependencies", "additionalItems", "$recursiveRef", "$recursiveAnchor"}
_BESIDE_REF = {"$ref", "$comment", "$schema", "title", "description", "default", "examples", "definitions", "$defs"}


def lowered(schema_text: str) -> str:
    """The Lark grammar of a JSON schema. BadArgument if it is invalid, BackendUnsupported for an
    unsupported keyword.
    """
    return spelled(schema_text).grammar


def spelled(schema_text: str) -> Spelled:
    """As `lowered`, with the same as trees."""
    schema = _parsed(schema_text)
    _check(schema)
    from .reading import Endless, Reading
    from .spelling import Speller

    try:
        return Speller(Reading(schema)).grammar()
    except Endless as error:
        raise BackendUnsupported(error.message, hint=error.hint) from None


def _parsed(text: str) -> Json:
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_SOURCE:
        raise BadArgument(f"the schema has {size} bytes, more than {MAX_SOURCE}")
    try:
        schema: Json = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise BadArgument(f"the schema is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise BadArgument(f"the schema is not JSON: {error}") from None
    _measure(schema)
    return schema


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _measure(schema: object) -> None:
    n_values, n_objects, level = 0, 0, [schema]
    for _ in range(MAX_DEPTH):
        n_values += len(level)
        n_objects += sum(isinstance(value, dict) for value in level)
        if n_values > MAX_VALUES or n_objects > MAX_OBJECTS:
            raise BadArgument(f"the schema has more than {MAX_VALUES} values or {MAX_OBJECTS} objects", hint="a smaller schema")
        for value in level:
            _check_scalar(value)
        level = [inner for value in level for inner in _parts(value)]
        if not level:
            return
    raise BadArgument(f"the schema is nested deeper than {MAX_DEPTH} levels")


def _check_scalar(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise BadArgument("the schema has a number too large to be one")
    for text in value if isinstance(value, dict) else [value] if isinstance(value, str) else ():
        if len(text) > MAX_STRING:
            raise BadArgument(f"the schema has a string of {len(text)} characters, more than {MAX_STRING}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise BadArgument("the schema has half a character (a lone surrogate) in a string")


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check(schema: object) -> None:
    if plainly_valid(schema):
        return
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    named = schema.get("$schema", _DRAFT) if isinstance(schema, dict) else _DRAFT
    if named != _DRAFT and (not str(named).startswith(_OLDER) or _differs(schema)):
        raise BackendUnsupported(f"`$schema` at (root) is {named!r}, which is not supported", hint=f"leave it out, or write {_DRAFT}")
    error = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    if error is not None:
        path = ".".join(map(str, error.absolute_path)) or "(root)"
        raise BadArgument(f"not a JSON schema at {path}: {error.message}")


def _differs(value: object) -> bool:
    """Whether a schema of an older draft may have another meaning today."""
    if isinstance(value, dict) and (("$ref" in value and not value.keys() <= _BESIDE_REF) or _CHANGED & value.keys()):
        return True
    return any(_differs(inner) for inner in _parts(value))
