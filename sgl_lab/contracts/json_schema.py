"""Recognises JSON schemas that are plainly well-formed, without the libraries that check all of
them.

Loading those libraries takes over a second if format checkers are installed, as they are with
JupyterLab. They check the remaining schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import TypeGuard

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {"null", "boolean", "integer", "number", "string", "array", "object"}
_Check = Callable[[object], bool]


def is_multiple(value: int | float | Decimal, of: int | float | Decimal) -> bool:
    """Whether `value` is a multiple of `of`, both taken exactly as written."""
    return _exact(value) % _exact(of) == 0


def _exact(value: int | float | Decimal) -> Fraction:
    return Fraction(value if isinstance(value, int) else Decimal(str(value)))


def _anything(value: object) -> bool:
    return True


def _text(value: object) -> bool:
    return isinstance(value, str)


def _truth(value: object) -> bool:
    return isinstance(value, bool)


def _list(value: object) -> bool:
    return isinstance(value, list)


def _number(value: object) -> bool:
    return type(value) in (int, float)


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(map(_text, value)) and len(set(value)) == len(value)


def _type(value: object) -> bool:
    return value in _TYPES if isinstance(value, str) else _names(value) and set(value) <= _TYPES and bool(value)


def _local(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"#(/[\w.$-]+)*", value, re.ASCII) is not None


def _schemas(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(plainly_valid, value))


def _named(value: object) -> bool:
    return isinstance(value, dict) and all(map(plainly_valid, value.values()))


def plainly_valid(schema: object) -> bool:
    """True only if draft 2020-12 accepts the schema; False for some schemas that it also accepts."""
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    return all(keyword in _KEYWORDS and _KEYWORDS[keyword](value) for keyword, value in schema.items())


_KEYWORDS: dict[str, _Check] = {
    "type": _type,
    "required": _names,
    "dependentRequired": lambda value: isinstance(value, dict) and all(map(_names, value.values())),
    "$ref": _local,
    "$schema": lambda value: value == DRAFT,
    "multipleOf": lambda value: isinstance(value, (int, float)) and _number(value) and value > 0,
    **dict.fromkeys(("const", "default"), _anything),
    **dict.fromkeys(("title", "description", "$comment", "format", "pattern"), _text),
    **dict.fromkeys(("enum", "examples"), _list),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _truth),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _count),
    **dict.fromkeys(("minContains", "maxContains"), _count),
    **dict.fromkeys(("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"), plainly_valid),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), plainly_valid),
    **dict.fromkeys(("anyOf", "allOf", "oneOf", "prefixItems"), _schemas),
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas", "$defs"), _named),
}
