"""A regular expression for the JSON texts of a schema, for programs that pass `regex=` instead of
`json_schema=`.

It supports what is regular: objects with their properties in order, arrays, choices, strings,
numbers, and references without recursion. Limits of numbers and everything else are refused;
`gen(json_schema=...)` supports them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from ..contracts.errors import BadArgument

Schema: TypeAlias = Mapping[str, Any]
"""its values have the types that the keywords demand"""

_CHARACTER = r'(?:[^"\\\x00-\x1f\x7f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})'
_INTEGER = r"-?(?:0|[1-9][0-9]{0,18})"
_PLAIN = {
    "string": f'"{_CHARACTER}*"',
    "integer": _INTEGER,
    "number": rf"{_INTEGER}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{{1,3}})?",
    "boolean": "(?:true|false)",
    "null": "null",
}
_FORMATS = {
    "date": r'"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"',
    "time": r'"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"',
    "date-time": r'"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z"',
    "uuid": r'"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"',
}
_REMARKS = {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated"}
_OF_KIND = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}


def build_regex_from_object(object: object, whitespace_pattern: str | None = None) -> str:
    """A regular expression for a pydantic model or another type, a dict, or JSON text.
    `whitespace_pattern` is the text between tokens, ` ?` by default.

    BadArgument, with the keyword's path, for what a regular expression cannot express.
    """
    schema = _schema(object)
    return _Speller(schema, r"[ ]?" if whitespace_pattern is None else f"(?:{whitespace_pattern})").spelled(schema, "", ())


def _schema(source: object) -> object:
    if isinstance(source, str):
        try:
            return json.loads(source)
        except ValueError as error:
            raise BadArgument(f"the schema is not JSON: {error}") from None
    if isinstance(source, Mapping | bool):
        return source
    from .form import of_type

    return json.loads(of_type(source).constraint.source)


class _Speller:
    def __init__(self, root: object, gap: str) -> None:
        self._root = root
        self._gap = gap

    def spelled(self, schema: object, path: str, inside: tuple[str, ...]) -> str:
        """`inside` is the set of references that lead here."""
        if not isinstance(schema, Mapping):
            raise self._refused(path, "a value of any kind")
        if (reference := schema.get("$ref")) is not None:
            if reference in inside:
                raise self._refused(f"{path}/$ref", f"{reference}, which contains itself,")
            return self.spelled(self._found(reference, path), path, (*inside, reference))
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return _either([re.escape(json.dumps(value, ensure_ascii=False)) for value in values])
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                members = schema[keyword]
                self._know(schema, path, {keyword})
                if keyword == "allOf" and len(members) > 1:
                    raise self._refused(f"{path}/allOf", "several schemas at once")
                return _either([self.spelled(member, f"{path}/{keyword}/{i}", inside) for i, member in enumerate(members)])
        kinds = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kinds, list):
            return _either([self.spelled({**schema, "type": kind}, path, inside) for kind in kinds])
        if kinds not in (*_PLAIN, *_OF_KIND):
            raise self._refused(path, "a value of any kind" if kinds is None else f"type {kinds!r}")
        self._know(schema, path, {"type"} | _OF_KIND.get(kinds, set()))
        match kinds:
            case "string":
                return self._string(schema, path)
            case "array":
                return self._array(schema, path, inside)
            case "object":
                return self._object(schema, path, inside)
            case _:
                return _PLAIN[kinds]

    def _string(self, schema: Schema, path: str) -> str:
        if "pattern" in schema:
            pattern = schema["pattern"]
            if "minLength" in schema or "maxLength" in schema:
                raise self._refused(f"{path}/pattern", "a pattern and a length at once")
            return f'"(?:{pattern.removeprefix("^").removesuffix("$")})"'
        if "minLength" in schema or "maxLength" in schema:
            return f'"{_CHARACTER}{{{schema.get("minLength", 0)},{schema.get("maxLength", "")}}}"'
        return _FORMATS.get(schema.get("format", ""), _PLAIN["string"])

    def _array(self, schema: Schema, path: str, inside: tuple[str, ...]) -> str:
        gap, comma = self._gap, f"{self._gap},{self._gap}"
        if "prefixItems" in schema:
            items = [self.spelled(item, f"{path}/prefixItems/{i}", inside) for i, item in enumerate(schema["prefixItems"])]
            return rf"\[{gap}{comma.join(items)}{gap}\]"
        if "items" not in schema:
            raise self._refused(path, "an array of anything")
        item = self.spelled(schema["items"], f"{path}/items", inside)
        fewest, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return rf"\[{gap}\]"
        some = f"{item}(?:{comma}{item}){{{max(fewest, 1) - 1},{'' if most is None else most - 1}}}"
        return rf"\[{gap}{some}{gap}\]" if fewest else rf"\[{gap}(?:{some}{gap})?\]"

    def _object(self, schema: Schema, path: str, inside: tuple[str, ...]) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        if isinstance(schema.get("additionalProperties"), Mapping) or not properties:
            raise self._refused(path, "an object with properties of any name")
        if unknown := [name for name in required if name not in properties]:
            raise self._refused(f"{path}/required", f"{unknown[0]!r}, which is not a property,")
        gap, comma = self._gap, f"{self._gap},{self._gap}"
        pairs = {
            name: f"{re.escape(json.dumps(name, ensure_ascii=False))}{gap}:{gap}{self.spelled(value, f'{path}/properties/{name}', inside)}"
            for name, value in properties.items()
        }
        needed = [name for name in pairs if name in required]
        if needed:
            at = list(pairs).index(needed[0])
            names = list(pairs)
            before = "".join(f"(?:{pairs[name]}{comma})?" for name in names[:at])
            after = "".join(f"{comma}{pairs[name]}" if name in required else f"(?:{comma}{pairs[name]})?" for name in names[at + 1 :])
            return rf"\{{{gap}{before}{pairs[names[at]]}{after}{gap}\}}"
        names = list(pairs)
        heads = [pairs[name] + "".join(f"(?:{comma}{pairs[rest]})?" for rest in names[i + 1 :]) for i, name in enumerate(names)]
        return rf"\{{{gap}(?:{_either(heads)}{gap})?\}}"

    def _know(self, schema: Schema, path: str, known: set[str]) -> None:
        if unknown := sorted(schema.keys() - known - _REMARKS):
            raise self._refused(f"{path}/{unknown[0]}", unknown[0])

    def _found(self, reference: object, path: str) -> object:
        found = self._root
        for part in str(reference).removeprefix("#").strip("/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or (name and name not in found):
                raise self._refused(f"{path}/$ref", f"{reference}, which does not exist,")
            found = found[name] if name else found
        return found

    @staticmethod
    def _refused(path: str, what: str) -> BadArgument:
        hint = "pass the schema to gen(json_schema=...)"
        return BadArgument(f"a regular expression cannot express {what} at {path or '(root)'}", hint=hint)


def _either(options: list[str]) -> str:
    if not options:
        raise BadArgument("a regular expression cannot express a choice without options")
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
