"""JSON schemas as the API enforces them.

The SDK's own `transform_schema` moves what the API does not enforce into the description, where the
model may ignore it. Here such a schema is refused before a token is spent. What it can do is made
to fit: objects are closed, which only narrows what is generated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ...contracts.errors import BackendUnsupported

_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
_ABOUT = ("title", "description", "default", "examples", "$comment", "$schema", "$id", "discriminator", "deprecated", "readOnly")
"""what a schema says that forbids nothing"""
Schema = dict[str, object]
VALUE = "value"
"""the only property of the object that an answer is put into where it is none itself"""


def is_object(schema: object) -> bool:
    """Whether all that a schema allows are objects, as the API wants of the whole answer."""
    if not isinstance(schema, Mapping):
        return False
    if "anyOf" in schema or "oneOf" in schema:
        variants = schema.get("anyOf", schema.get("oneOf"))
        return isinstance(variants, list) and bool(variants) and all(map(is_object, variants))
    return schema.get("type") == "object"


def enforced(source: str) -> tuple[Schema, bool]:
    """The schema to send for a constraint's, and whether the answer is a property of the object that comes.

    BackendUnsupported names the first keyword that the API would not enforce.
    """
    schema = json.loads(source)
    closed = _closed(schema, "")
    if is_object(schema):
        return closed, False
    outer: Schema = {"type": "object", "properties": {VALUE: closed}, "required": [VALUE], "additionalProperties": False}
    if "$defs" in closed:
        outer["$defs"] = closed.pop("$defs")
    return outer, True


def _closed(schema: object, where: str) -> Schema:
    if not isinstance(schema, Mapping):
        raise _refusal(f"the schema {json.dumps(schema)}", where)
    left = {name: value for name, value in schema.items() if name not in _ABOUT}
    kept: Schema = {name: schema[name] for name in ("title", "description") if name in schema}
    if defs := left.pop("$defs", None):
        kept["$defs"] = {name: _closed(each, f"{where}/$defs/{name}") for name, each in defs.items()}
    for name in ("$ref", "const"):
        if name in left:
            kept[name] = left.pop(name)
    if "enum" in left:
        kept["enum"] = left.pop("enum")
    for name, value in (("anyOf", left.pop("anyOf", None)), ("anyOf", left.pop("oneOf", None)), ("allOf", left.pop("allOf", None))):
        if value is not None:
            kept[name] = [_closed(each, f"{where}/{name}/{index}") for index, each in enumerate(value)]
    kind = left.pop("type", None)
    if isinstance(kind, list):
        kept["anyOf"] = [_closed({**left, "type": each}, where) for each in kind]
        return kept
    if kind is not None:
        kept["type"] = kind
    _inside(kind, left, kept, where)
    if left:
        raise _refusal(next(iter(left)), where)
    if not kept.keys() - {"title", "description", "$defs"}:
        raise _refusal("a schema without a type", where)
    return kept


def _inside(kind: object, left: Schema, kept: Schema, where: str) -> None:
    """Move what the API enforces of an object, an array or a string from `left` to `kept`."""
    if kind == "object":
        if left.get("additionalProperties", False) not in (False, True):
            raise _refusal("additionalProperties with a schema", where)
        left.pop("additionalProperties", None)
        properties = left.pop("properties", None)
        if not properties or not isinstance(properties, Mapping):
            raise _refusal("an object without properties", where)
        kept["properties"] = {name: _closed(each, f"{where}/{name}") for name, each in properties.items()}
        if "required" in left:
            kept["required"] = left.pop("required")
        kept["additionalProperties"] = False
    elif kind == "array":
        if "items" in left:
            kept["items"] = _closed(left.pop("items"), f"{where}/items")
        if left.get("minItems") in (0, 1):
            kept["minItems"] = left.pop("minItems")
    elif kind == "string" and left.get("format") in _FORMATS:
        kept["format"] = left.pop("format")


def _refusal(what: str, where: str) -> BackendUnsupported:
    place = f" (at {where})" if where else ""
    return BackendUnsupported(f"Anthropic's API does not enforce {what} in a JSON schema{place}", hint="leave it out and check the value")
