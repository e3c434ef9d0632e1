"""JSON schemas lowered to grammars: what is taken, what is refused and how, and that the grammar says what the schema says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLMatcher

from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.grammar.schema import lowered
from sgl_lab.grammar.search import byte_tokenizer

from .driving import SOAK
from .schemas import accepts, takes

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "schemas.json"

NAMES = st.sampled_from(["a", "b", "ab"])
TEXTS = st.sampled_from(["", "a", "b", "ab", "é"])
NUMBERS = st.sampled_from([-2, 0, 1, 2, 3, 6, 0.5, 1.5])
PATTERNS = st.sampled_from(["a", "^a", "b$", "^(a|ab)$", "^a|b$"])
SMALL = st.integers(0, 3)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    named = st.dictionaries(NAMES, inner, min_size=1, max_size=2)
    several = st.lists(inner, min_size=1, max_size=3)
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "minimum": NUMBERS,
        "exclusiveMaximum": NUMBERS,
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": SMALL,
        "maxLength": SMALL,
        "pattern": PATTERNS,
        "minItems": SMALL,
        "maxItems": SMALL,
        "uniqueItems": st.booleans(),
        "prefixItems": several,
        "items": inner,
        "contains": inner,
        "minContains": SMALL,
        "maxContains": SMALL,
        "properties": named,
        "patternProperties": st.dictionaries(PATTERNS, inner, min_size=1, max_size=2),
        "additionalProperties": inner,
        "propertyNames": inner,
        "required": st.lists(NAMES, max_size=2, unique=True),
        "minProperties": SMALL,
        "maxProperties": SMALL,
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2, unique=True), min_size=1, max_size=2),
        "dependentSchemas": named,
        "allOf": several,
        "anyOf": several,
        "oneOf": several,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "unevaluatedProperties": inner,
        "unevaluatedItems": inner,
        "$ref": st.just("#/$defs/a"),
    }
    return st.lists(st.sampled_from(sorted(keywords)), min_size=1, max_size=3, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({keyword: keywords[keyword] for keyword in chosen})
    )


SCHEMAS = st.recursive(st.booleans() | _schemas(st.booleans()), _schemas, max_leaves=6)


@settings(max_examples=250 * SOAK, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(schema=SCHEMAS, named=SCHEMAS, values=st.lists(VALUES, min_size=3, max_size=8))
def test_a_grammar_takes_a_value_exactly_if_it_is_valid(schema: Any, named: Any, values: list[Any]) -> None:
    document = {**schema, "$defs": {"a": named}} if isinstance(schema, dict) else schema
    validator = Draft202012Validator(document)
    try:
        grammar = lowered(json.dumps(document))
    except BackendUnsupported:
        return
    except BadArgument:
        grammar = ""
    for value in values:
        assert (grammar != "" and accepts(grammar, value)) == validator.is_valid(value), (value, grammar)


@pytest.mark.parametrize(
    ("schema", "error", "message"),
    [
        ('{"type": "objekt"}', BadArgument, "not a JSON schema at type"),
        ('{"properties": {"age": {"minimum": "x"}}}', BadArgument, "not a JSON schema at properties.age.minimum"),
        ("{", BadArgument, "line 1 column 2"),
        ("[" * 70 + "]" * 70, BadArgument, "deeper than 64 levels"),
        ('{"minimum": 1e999}', BadArgument, "number too large"),
        ('{"const": NaN}', BadArgument, "NaN is not a JSON number"),
        ('{"const": "\\ud800"}', BadArgument, "half a character"),
        ("false", BadArgument, "nothing can satisfy the schema"),
        ('{"type": "string", "minLength": 3, "maxLength": 2}', BadArgument, "nothing can satisfy the schema"),
        ('{"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}', BadArgument, "nothing can satisfy the schema"),
        ('{"properties": {"a": {"type": "array", "uniqueItems": true}}}', BackendUnsupported, "`uniqueItems` at properties.a.uniqueItems"),
        ('{"minProperties": 2}', BackendUnsupported, "`minProperties` at minProperties over keys of any name"),
        ('{"properties": {"a": {"not": {"multipleOf": 3}}}}', BackendUnsupported, "opposite of `multipleOf` at properties.a.not"),
        ('{"items": {"pattern": "(?=a)b"}}', BackendUnsupported, "the pattern at items.pattern is not supported"),
        ('{"$defs": {"a": {"$ref": "https://example.com/x"}}, "$ref": "#/$defs/a"}', BackendUnsupported, "`$ref` at $defs.a.$ref leads to"),
        ('{"anyOf": [{"$ref": "#"}]}', BackendUnsupported, "leads back to itself"),
        ('{"$schema": "http://json-schema.org/draft-04/schema#"}', BackendUnsupported, "`$schema` at (root)"),
        ('{"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": ["b"]}}', BackendUnsupported, "`$schema` at (root)"),
    ],
)
def test_an_invalid_or_unsupported_schema_is_refused_with_the_path(schema: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        lowered(schema)
    assert "\n" not in str(caught.value)


def test_keys_come_in_the_order_of_the_schema_and_others_last() -> None:
    schema = {"properties": {"b": {}, "a": {}}, "required": ["c"], "additionalProperties": {"type": "integer"}}
    matcher = LLMatcher(byte_tokenizer(), lowered(json.dumps({"type": "object", **schema})))
    assert takes(matcher.deep_copy(), '{"b": null, "a": [1, {}], "c": 3, "x": 4}')
    assert takes(matcher.deep_copy(), '{"c": 3}')
    assert not takes(matcher.deep_copy(), '{"a": 1, "b": 1, "c": 3}')
    assert not takes(matcher.deep_copy(), '{"c": 3, "a": 1}')
    assert not takes(matcher.deep_copy(), '{"c": 3, "c": 4}')
    assert not takes(matcher.deep_copy(), '{"b":1,"c": 3}')


def test_a_text_that_no_pattern_limits_may_hold_every_character() -> None:
    schema = {"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "null"}}
    grammar = lowered(json.dumps({"type": "object", **schema}))
    for text in ('"\\\n\t\x00\x1f', "é漢😀", ""):
        assert accepts(grammar, {"a": text})
        assert accepts(grammar, {"b" + text: None})


def test_formats_that_are_known_hold_and_others_are_remarks() -> None:
    assert not accepts(lowered('{"type": "string", "format": "date"}'), "yesterday")
    assert accepts(lowered('{"type": "string", "format": "date"}'), "2024-02-29")
    assert accepts(lowered('{"type": "string", "format": "password"}'), "yesterday")


def test_an_older_draft_is_taken_where_it_means_the_same() -> None:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"type": "null"}}, "$ref": "#/definitions/a"}
    assert accepts(lowered(json.dumps(schema)), None)


EXAMPLES: dict[str, Any] = {
    "person": {"name": "Anna Keller", "age": 34, "occupation": "baker", "city": "Ghent"},
    "family": {"mother": {"name": "Eva", "age": 41}, "children": [{"name": "Tom", "age": 9}]},
    "payment": {"method": "transfer", "iban": "PT12345678901234", "reference": "rent"},
    "price list": {"bread": 3.5, "coffee": 2},
    "sentiment": {"sentiment": "mixed", "confidence": 0.75, "reason": "clean, but loud"},
    "one of three calls": {"name": "none", "arguments": {}},
    "calendar event": {"title": "Plan", "start": "2024-05-06T09:00:00Z", "minutes": 45, "attendees": ["a@example.com"]},
    "pydantic with Optional": {"title": "Call Bob", "done": False, "due": None, "priority": "low"},
    "pydantic with a discriminator": [{"kind": "circle", "radius": 3}, {"kind": "square", "side": 2}],
    "allOf of a base": {"maker": "Volvo", "year": 1999, "doors": 5, "colour": "red"},
    "if, then, else": {"country": "Canada", "city": "Ottawa", "code": "K1A 0B1"},
    "free-form record": {"name": "oak", "height_m": 30, "age": "200 years"},
}


def test_the_schemas_of_the_benchmark_are_enforced() -> None:
    entries = {entry["name"]: entry for entry in json.loads(BENCHMARK.read_text())}
    assert len(entries) >= 50
    for entry in entries.values():
        grammar = lowered(json.dumps(entry["schema"]))
        assert not accepts(grammar, {"surely": "not this"})
        if (example := EXAMPLES.get(entry["name"])) is not None:
            assert takes(LLMatcher(byte_tokenizer(), grammar), json.dumps(example)), entry["name"]
            assert Draft202012Validator(entry["schema"]).is_valid(example)
    assert not accepts(lowered(json.dumps(entries["if, then, else"]["schema"])), {"country": "Austria", "city": "Wien", "code": "K1A 0B1"})
    assert not accepts(lowered(json.dumps(entries["allOf of a base"]["schema"])), {**EXAMPLES["allOf of a base"], "wheels": 4})
