"""JSON schemas as users write them: wrappers are removed, older drafts translated, unsupported
parts named, and values checked.

jsonschema is loaded by the first schema that is not plainly valid, or by the first value that is
read.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_schema import is_multiple
from ..contracts.json_values import Json
from ..contracts.patterns import ecma
from ..contracts.patterns.formats import FORMATS, fits
from ..contracts.patterns.tree import Unsupported

Schema: TypeAlias = dict[str, Any]
"""its values have the types that the keywords demand"""

ONE = frozenset(
    [
        "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
        "unevaluatedItems", "unevaluatedProperties",
    ]
)  # fmt: skip
SEVERAL = frozenset(
    [
        "allOf", "anyOf", "oneOf", "prefixItems",
    ]
)  # fmt: skip
NAMED = frozenset(
    [
        "$defs", "definitions", "dependentSchemas", "patternProperties", "properties",
    ]
)  # fmt: skip
"""keywords whose values are schemas"""
LIMITS = frozenset(
    [
        "$dynamicRef", "$ref", "const", "dependentRequired", "enum", "exclusiveMaximum", "exclusiveMinimum", "format",
        "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems", "minLength",
        "minProperties", "minimum", "multipleOf", "nullable", "pattern", "required", "type", "uniqueItems",
    ]
)  # fmt: skip
FOLLOWED = ONE | SEVERAL | NAMED | LIMITS
REMARKS = frozenset(
    [
        "$anchor", "$comment", "$dynamicAnchor", "$id", "$schema", "$vocabulary", "contentEncoding", "contentMediaType",
        "default", "deprecated", "description", "discriminator", "example", "examples", "externalDocs", "readOnly", "title",
        "writeOnly", "xml",
    ]
)  # fmt: skip
_WRAPPER = frozenset(["type", "name", "schema", "strict", "description"])
_OLD = frozenset(["dependencies", "additionalItems"])
_OLDER = re.compile(r"https?://json-schema\.org/(draft-0[67]|draft/2019-09)/schema#?$")
_REMARKS_OF_NUMBERS = frozenset(["int32", "int64", "float", "double", "decimal"])


def unwrapped(schema: object) -> object:
    """The schema inside the wrappers of OpenAI's interface."""
    for _ in range(3):
        if not isinstance(schema, dict):
            return schema
        if schema.get("type") == "json_schema" and isinstance(schema.get("json_schema"), dict):
            schema = schema["json_schema"]
        elif isinstance(schema.get("schema"), dict) and "name" in schema and schema.keys() <= _WRAPPER:
            schema = schema["schema"]
        else:
            return schema
    return schema


def translated(schema: Json) -> Json:
    """The schema in draft 2020-12, translated from draft-06, draft-07 or 2019-09, and with
    OpenAPI's `nullable`. Returns the same object if nothing changes.
    """
    old = _old_draft(schema)
    refs_alone = bool(old) and "2019" not in old
    if not old and "nullable" not in json.dumps(schema):
        return schema
    found = _rewritten(schema, lambda one: _today(one, bool(old), refs_alone))
    if old and isinstance(found, dict):
        found.pop("$schema")
    return found


def _old_draft(schema: object) -> str:
    """The URL of the draft that it is written in, if that is an older one."""
    draft = schema.get("$schema") if isinstance(schema, dict) else None
    return draft if isinstance(draft, str) and _OLDER.match(draft) else ""


def _rewritten(schema: Json, rewrite: Callable[[Schema], Schema]) -> Json:
    """Every schema in it, innermost first."""
    if not isinstance(schema, dict):
        return schema
    found: Schema = {}
    for keyword, value in schema.items():
        if keyword in NAMED | {"dependencies"} and isinstance(value, dict):
            found[keyword] = {name: _rewritten(inner, rewrite) for name, inner in value.items()}
        elif keyword in ONE | SEVERAL | {"additionalItems"}:
            found[keyword] = [_rewritten(inner, rewrite) for inner in value] if isinstance(value, list) else _rewritten(value, rewrite)
        else:
            found[keyword] = value
    return rewrite(found)


def _today(schema: Schema, is_old: bool, refs_alone: bool) -> Schema:
    if is_old:
        if refs_alone and "$ref" in schema:
            schema = {key: value for key, value in schema.items() if key in ("$ref", "$defs", "definitions", "$schema", "$id")}
        later = schema.pop("additionalItems", None)
        if isinstance(schema.get("items"), list):
            schema |= ({"prefixItems": first} if (first := schema.pop("items")) else {}) | ({} if later is None else {"items": later})
        dependencies = schema.pop("dependencies", {})
        lists = {name: value for name, value in dependencies.items() if isinstance(value, list)}
        schemas = {name: value for name, value in dependencies.items() if not isinstance(value, list)}
        schema |= ({"dependentRequired": lists} if lists else {}) | ({"dependentSchemas": schemas} if schemas else {})
    if schema.get("nullable") is True:
        schema = {key: value for key, value in schema.items() if key != "nullable"}
        outer: dict[str, object] = {key: schema.pop(key) for key in ("$schema", "$defs", "definitions", "$id") if key in schema}
        return {**outer, "anyOf": [schema, {"type": "null"}]}
    schema.pop("nullable", None)
    return schema


def named(document: object) -> None:
    """Warn of unsupported parts of a schema. BadArgument or BackendUnsupported for an invalid or
    unsupported pattern.
    """
    known = FOLLOWED | REMARKS | (_OLD if _old_draft(document) else frozenset())
    for path, schema in _every(document, "$"):
        for keyword in schema:
            if keyword not in known and not keyword.startswith(("x-", "x_", "$")):
                close = [f"did you mean {one!r}?" for one in get_close_matches(keyword, known, n=1, cutoff=0.7)]
                _warn("; ".join([f"json_schema: the keyword {keyword!r} at {path} is unknown and is ignored", *close]))
        kind, form = schema.get("type"), schema.get("format")
        is_remark = form in _REMARKS_OF_NUMBERS and kind in ("integer", "number")
        if isinstance(form, str) and form not in FORMATS and not is_remark:
            _warn(f"json_schema: the format {form!r} at {path} is unknown and is ignored; use a pattern instead")
        patterns = [("pattern", schema["pattern"])] if isinstance(schema.get("pattern"), str) else []
        for keyword, pattern in [*patterns, *(("patternProperties", each) for each in schema.get("patternProperties", ()))]:
            try:
                ecma.read(pattern)
            except Unsupported as error:
                raise BackendUnsupported(f"json_schema: the pattern at {path}.{keyword} is not supported: {error}") from None
            except ValueError as error:
                raise BadArgument(f"json_schema is invalid at {path}.{keyword}: {error}") from None


def _warn(what: str) -> None:
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("sgl_lab."):
        level, frame = level + 1, frame.f_back
    warnings.warn(what, stacklevel=level)  # at the user's gen(...)


def _every(schema: object, path: str) -> Iterator[tuple[str, Schema]]:
    """All schemas in a schema, with their paths."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword, value in schema.items():
        if keyword in NAMED and isinstance(value, dict):
            for name, inner in value.items():
                yield from _every(inner, f"{path}.{keyword}.{name}")
        elif keyword in SEVERAL and isinstance(value, list):
            for index, inner in enumerate(value):
                yield from _every(inner, f"{path}.{keyword}.{index}")
        elif keyword in ONE:
            yield from _every(value, f"{path}.{keyword}")


@lru_cache(256)
def check_schema(text: str) -> None:
    import jsonschema

    schema = json.loads(text)
    try:
        made = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        made.check_schema(schema, format_checker=jsonschema.FormatChecker(()))  # patterns are not Python's
    except jsonschema.SchemaError as error:
        words = (one for one in error.context or () if one.validator == "enum" and isinstance(one.instance, str))
        near = next(words, error)  # for an unknown type, list the valid types
        raise BadArgument(f"json_schema is invalid at {near.json_path}: {near.message:.200}") from None


# ---------------------------------------------------------------- values


class _Validator(Protocol):
    """jsonschema's, which has no types."""

    def validate(self, value: object) -> None: ...

    def is_type(self, value: object, name: str) -> bool: ...


def read_json(schema: str, text: str) -> Json:
    """The value of `text`. ValueError if it is not JSON or does not match the schema. Numbers are
    compared as they are written.
    """
    import jsonschema

    value: Json = json.loads(text, parse_float=_finite, parse_constant=_no_number)
    try:
        _validator(schema).validate(json.loads(text, parse_float=Decimal))
    except jsonschema.ValidationError as error:
        message = re.sub(r"Decimal\('([^']*)'\)", r"\1", error.message)
        raise ValueError(f"{error.json_path}: {message:.300}") from None
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits} is too large a number")
    if value == 0 and digits.strip("-0.eE+"):
        digits = re.split("[eE]", digits)[0]
        if digits.strip("-0."):
            raise ValueError("a number too small to distinguish from 0")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


@lru_cache(64)
def _validator(schema: str) -> _Validator:
    import jsonschema
    from jsonschema_specifications import REGISTRY

    value = _rewritten(json.loads(schema, parse_float=Decimal), _for_python)
    made = jsonschema.validators.validator_for(value, jsonschema.Draft202012Validator)
    kinds = made.TYPE_CHECKER.redefine("integer", lambda _, one: _is_whole(one))
    # A registry of its own, because the default one downloads the target of a $ref.
    ours = {"multipleOf": _multiple_of, "format": _format, "pattern": _pattern}
    validator: _Validator = jsonschema.validators.extend(made, ours, type_checker=kinds)(value, registry=REGISTRY)
    return validator


def _for_python(schema: Schema) -> Schema:
    """With patterns of keys in the syntax of Python's `re`."""
    found = dict(schema)
    if isinstance(found.get("patternProperties"), dict):
        found["patternProperties"] = {ecma.in_python(pattern): value for pattern, value in found["patternProperties"].items()}
    return found


def _is_whole(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, Decimal | float) and value == value // 1)


def _multiple_of(validator: _Validator, of: float, value: float, schema: object) -> Iterator[Exception]:
    import jsonschema

    if validator.is_type(value, "number") and not is_multiple(value, of):
        yield jsonschema.ValidationError(f"{value} is not a multiple of {of}")


def _pattern(validator: _Validator, pattern: str, value: object, schema: object) -> Iterator[Exception]:
    import jsonschema

    if isinstance(value, str) and not ecma.matches(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _format(validator: _Validator, form: object, value: object, schema: object) -> Iterator[Exception]:
    import jsonschema

    if form in ("date", "time", "date-time") and isinstance(value, str) and not fits(form, value):
        yield jsonschema.ValidationError(f"{value!r} is no {form}")
