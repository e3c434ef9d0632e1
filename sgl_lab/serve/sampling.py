"""Sampling parameters of requests, by the language's own code."""

from __future__ import annotations

import json

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.params import Constraint, SamplingParams
from ..lang import sampling
from ..lang.form import of_grammar, of_regex, of_schema
from .fields import Fields

COMMON = (
    *("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "n", "seed", "logit_bias"),
    *("min_tokens", "stop", "stop_token_ids", "stop_regex", "ignore_eos", "skip_special_tokens"),
)
"""names of the language that requests use too"""
EXACT_STATE = 1 << 30
"""SGLang's top_k for all tokens"""


def read(fields: Fields, constraint: Constraint | None = None, **given: object) -> SamplingParams:
    """The parameters named as the language names them; `given` were read already, and override."""
    arguments: dict[str, object] = {name: fields.any(name) for name in COMMON} | given
    if arguments["top_k"] in (0, EXACT_STATE):
        arguments["top_k"] = -1
    if isinstance(stop := arguments["stop"], list):
        arguments["stop"] = [text for text in stop if text != ""]
    elif stop == "":
        arguments["stop"] = None
    constraint = constraint or constraint_in(fields)
    penalty = fields.number("repetition_penalty")
    found = sampling.given(arguments)
    if penalty is not None:
        found["repetition_penalty"] = penalty
    return SamplingParams(**({"max_tokens": None} | found | {"constraint": constraint}))


def constraint_in(fields: Fields) -> Constraint | None:
    """`regex`, `json_schema` or `grammar`, as SGLang's requests and the language name them."""
    found: list[Constraint] = []
    if (pattern := fields.any("regex")) is not None:
        found.append(of_regex(pattern).constraint)
    if (schema := fields.any("json_schema")) is not None:
        found.append(of_schema(schema).constraint)
    if (grammar := fields.any("grammar")) is not None:
        found.append(of_grammar(grammar).constraint)
    if fields.any("ebnf") is not None:
        raise BackendUnsupported("ebnf is not supported here", hint="give grammar, a Lark grammar, or regex or json_schema")
    if len(found) > 1:
        raise BadArgument("a text can have one constraint", hint="give one of regex, json_schema and grammar")
    return found[0] if found else None


def of_format(given: Fields | None) -> Constraint | None:
    """`response_format` of chat completions, and `text.format` of responses."""
    if given is None:
        return None
    match kind := given.needed("type"):
        case "text":
            constraint = None
        case "json_object":
            constraint = of_schema({"type": "object"}).constraint
        case "json_schema":
            inner = given.inner("json_schema") or given
            inner.ignore("name", "strict", "description")
            constraint = of_schema(_schema(inner.any("schema"))).constraint
            inner.done()
        case _:
            raise BackendUnsupported(f"a format of type {kind!r:.40} is not supported here", hint="use text, json_object or json_schema")
    given.done()
    return constraint


def _schema(value: Json) -> dict[str, Json] | bool:
    if isinstance(value, dict | bool):
        return value
    raise BadArgument(f"a schema must be an object, not {json.dumps(value):.60}")
