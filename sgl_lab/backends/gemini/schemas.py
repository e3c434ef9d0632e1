"""JSON schemas as `responseJsonSchema` enforces them. What it does not enforce is refused before a
token is spent."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ...contracts.errors import BackendUnsupported

_KEPT = ("$id", "$anchor", "format", "minItems", "maxItems", "minimum", "maximum", "required", "propertyOrdering")
_TEXT = ("title", "description")
_ABOUT = ("default", "examples", "$comment", "$schema", "discriminator", "deprecated", "readOnly")
"""what a schema says that forbids nothing"""
Schema = dict[str, object]


def enforced(source: str) -> Schema:
    """The schema to send for a constraint's; BackendUnsupported names the first keyword that would
    not be enforced."""
    return _kept(json.loads(source), "")


def _kept(schema: object, where: str) -> Schema:
    if not isinstance(schema, Mapping):
        raise _refusal(f"the schema {json.dumps(schema)}", where)
    left = {name: value for name, value in schema.items() if name not in _ABOUT}
    kept: Schema = {name: left.pop(name) for name in (*_KEPT, *_TEXT) if name in left}
    if defs := left.pop("$defs", None):
        kept["$defs"] = {name: _kept(each, f"{where}/$defs/{name}") for name, each in defs.items()}
    if "$ref" in left:  # nothing may stand beside it
        return {"$ref": left.pop("$ref")} | ({"$defs": kept["$defs"]} if "$defs" in kept else {})
    if "const" in left:
        left["enum"] = [left.pop("const")]
    if "enum" in left:
        kept |= _values(left.pop("enum"), where)
        left.pop("type", None)
    if "type" in left:
        kept["type"] = left.pop("type")
    for name in ("anyOf", "oneOf"):
        if name in left:
            kept["anyOf"] = [_kept(each, f"{where}/{name}/{index}") for index, each in enumerate(left.pop(name))]
    if "properties" in left:
        kept["properties"] = {name: _kept(each, f"{where}/{name}") for name, each in left.pop("properties").items()}
    if "items" in left:
        kept["items"] = _kept(left.pop("items"), f"{where}/items")
    if "prefixItems" in left:
        kept["prefixItems"] = [_kept(each, f"{where}/prefixItems/{index}") for index, each in enumerate(left.pop("prefixItems"))]
    if isinstance(left.get("additionalProperties"), Mapping):
        kept["additionalProperties"] = _kept(left.pop("additionalProperties"), f"{where}/additionalProperties")
    elif "additionalProperties" in left:
        kept["additionalProperties"] = left.pop("additionalProperties")
    if left:
        raise _refusal(next(iter(left)), where)
    return kept


def _values(values: list[object], where: str) -> Schema:
    if all(isinstance(value, str) for value in values):
        return {"type": "string", "enum": values}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {"type": "number", "enum": values}
    raise _refusal(f"an enum of {json.dumps(values):.60}", where)


def _refusal(what: str, where: str) -> BackendUnsupported:
    place = f" (at {where})" if where else ""
    return BackendUnsupported(f"Gemini does not enforce {what} in a JSON schema{place}", hint="leave it out and check the value")
