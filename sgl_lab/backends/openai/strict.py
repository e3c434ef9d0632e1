"""JSON schemas of the kind that OpenAI calls strict, which are the only ones that its models are held to.

There every object lists all its properties as required and allows no others. A schema that says
less is made narrower: what the narrower one allows, the wider one allows, too. What the API has no
way to follow is refused by name.
"""

from __future__ import annotations

import json

from ...contracts.errors import BackendUnsupported

_UNKNOWN = (
    *("allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties", "propertyNames"),
    *(
        "prefixItems",
        "contains",
        "minContains",
        "maxContains",
        "unevaluatedProperties",
        "unevaluatedItems",
        "minProperties",
        "maxProperties",
    ),
    *("uniqueItems", "$dynamicRef"),
)
_SCHEMAS = ("items",)
_MAPS = ("properties", "$defs", "definitions")
MAX_DEPTH = 10
MAX_PROPERTIES = 5000


def strict(schema: object, by: str) -> dict[str, object]:
    """The schema made strict; BackendUnsupported for what the model called `by` cannot be held to."""
    counted = [0]
    narrowed = _narrow(schema, by, 0, counted)
    if counted[0] > MAX_PROPERTIES:
        raise BackendUnsupported(f"{by} takes schemas of at most {MAX_PROPERTIES} properties, not {counted[0]}")
    return narrowed


def _narrow(schema: object, by: str, depth: int, counted: list[int]) -> dict[str, object]:
    if not isinstance(schema, dict):
        if schema is True or schema == {}:
            raise _refusal(by, "a part that allows any value")
        raise _refusal(by, json.dumps(schema)[:40])
    for keyword in _UNKNOWN:
        if keyword in schema:
            raise _refusal(by, f"the keyword {keyword!r}")
    if depth > MAX_DEPTH:
        raise _refusal(by, f"more than {MAX_DEPTH} levels")
    if not schema.keys() & {"type", "$ref", "anyOf", "enum", "const", "properties"}:
        raise _refusal(by, "a part that allows any value")
    narrowed = dict(schema)
    for keyword in _MAPS:
        if isinstance(parts := schema.get(keyword), dict):
            step = int(keyword == "properties")
            narrowed[keyword] = {name: _narrow(part, by, depth + step, counted) for name, part in parts.items()}
    for keyword in _SCHEMAS:
        if keyword in schema:
            narrowed[keyword] = _narrow(schema[keyword], by, depth + 1, counted)
    if "anyOf" in schema:
        narrowed["anyOf"] = [_narrow(part, by, depth + 1, counted) for part in schema["anyOf"]]
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        counted[0] += len(properties)
        if isinstance(schema.get("additionalProperties"), dict):
            raise _refusal(by, "an object whose keys are not listed (additionalProperties)")
        if not properties:
            raise _refusal(by, "an object without properties")
        narrowed |= {"type": schema.get("type", "object"), "required": [*properties], "additionalProperties": False}
    if schema.get("type") == "array" and "items" not in schema:
        raise _refusal(by, "an array of anything (items)")
    return narrowed


def _refusal(by: str, what: str) -> BackendUnsupported:
    return BackendUnsupported(f"{by} cannot be held to a JSON schema with {what}", hint="simplify the schema, or take another backend")
