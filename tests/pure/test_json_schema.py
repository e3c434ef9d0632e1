"""Schemas that are plainly well-formed: none that the standard refuses, and the libraries are not loaded for them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from sgl_lab.contracts import json_schema
from sgl_lab.contracts.json_schema import plainly_valid

VALUES = st.recursive(
    st.sampled_from([None, True, 0, -1, 2, 1.5, 2.0, "", "a", "string", "array", "#/$defs/a", "#/a b", "#"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "type", "items", "$ref"]), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("keyword", sorted(json_schema._KEYWORDS))
@settings(max_examples=60, deadline=None)
@given(value=VALUES)
def test_what_passes_for_a_schema_is_one(keyword: str, value: Any) -> None:
    schema = {"properties": {"x": {keyword: value}}}
    if plainly_valid(schema):
        Draft202012Validator.check_schema(schema)  # SchemaError if it is none


def test_a_wrong_keyword_does_not_pass() -> None:
    wrong: list[dict[str, Any]] = [{"type": "text"}, {"required": ["a", "a"]}, {"minLength": -1}, {"anyOf": []}, {"$ref": "http://[/a"}]
    for schema in wrong:
        assert not plainly_valid(schema)
        with pytest.raises(SchemaError):
            Draft202012Validator.check_schema(schema)


PROGRAM = """
import sys
from dataclasses import dataclass
from typing import Literal
from sgl_lab.grammar.schema import lowered
from sgl_lab.lang.form import of_schema

@dataclass
class Address:
    street: str
    number: int | None

@dataclass
class Person:
    name: str
    kind: Literal["a", "b"]
    home: Address
    others: list[Address]

lowered(of_schema(Person).constraint.source)
lowered(of_schema({"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}, "required": ["n"]}).constraint.source)
print("jsonschema" in sys.modules)
"""


def test_the_grammar_of_a_type_or_a_plain_schema_loads_no_validators() -> None:
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.strip().lower()) is False
