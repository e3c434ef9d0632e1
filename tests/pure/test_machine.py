"""The shortest completion to a whole text, from wherever a text of a tree stands."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from sgl_lab.contracts.params import Constraint
from sgl_lab.contracts.patterns import ecma, python
from sgl_lab.contracts.patterns.machine import Machine
from sgl_lab.contracts.patterns.tree import ALL, ANY, Chars, Choice, Many, Named, Node, Such, Text, chain, choice, for_python
from sgl_lab.engine.tools.fake import ByteTokenizer
from sgl_lab.grammar.grammars import Grammars
from sgl_lab.grammar.numbers import between
from sgl_lab.lang.form import of_schema

GRAMMARS = Grammars(ByteTokenizer())


def machine(node: Node, **rules: Node) -> Machine:
    return Machine(node, rules, lambda text: [*range(len(text), -1, -1)])


def ways(made: Machine, word: str, begun: bytes = b"") -> list[str]:
    place = made.start
    for character in word:
        place = made.step(place, character)
    return [way.decode() for way in made.completions(place, begun)]


PATTERNS = ["a*b|ba", "(a|b)*ab", "(ab?){2,3}", "a?(b|ab)+a", "(a*b*){2}a", "((a|bb)*a){2}", "(a{2,4}|b){2}", "|b+", "(a?){3}b"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_way_is_as_short_as_brute_force_finds_it(pattern: str) -> None:
    made = machine(python.read(pattern))
    texts = [text for n in range(9) for text in map("".join, product("ab", repeat=n)) if re.fullmatch(pattern, text)]
    n_ways = 0
    for word in ("".join(letters) for n in range(4) for letters in product("ab", repeat=n)):
        wanted = [len(text) - len(word) for text in texts if text.startswith(word)]
        found = ways(made, word)
        assert bool(found) == bool(wanted), word
        assert all(re.fullmatch(pattern, word + way) for way in found)
        if wanted:
            n_ways += 1
            assert min(map(len, found)) == min(wanted)
    assert n_ways > 2


def test_a_rule_may_contain_itself() -> None:
    value = choice([Text("null"), chain([Text("["), Many(chain([Named("value"), Text(", ")])), Named("value"), Text("]")])])
    made = machine(Named("value"), value=value)
    assert ways(made, "")[0] == "null"
    assert ways(made, "[[null, nu")[0] == "ll]]"
    assert ways(made, "[nx") == []


def test_a_rule_that_never_ends_has_no_way() -> None:
    made = machine(Choice((Named("loop"), Text("x"))), loop=chain([Text("a"), Named("loop")]))
    assert ways(made, "")[0] == "x"
    assert ways(made, "aa") == []


def test_the_way_keeps_to_several_limits_at_once() -> None:
    both = Such((ecma.read(r"[A-Z]{2}\d"), ecma.read("https?://"), Many(Chars(ALL), 0, 20)), (ecma.read("AA"), Text("B")))
    made = machine(both)
    for word in ("", "he says A", "http:", "x" * 10):
        whole = word + ways(made, word)[0]
        assert re.search(r"[A-Z]{2}\d", whole)
        assert re.search("https?://", whole)
        assert "AA" not in whole
        assert len(whole) <= 20
    assert ways(made, "x" * 11) == []


def test_within_a_character_the_way_begins_with_its_rest() -> None:
    for pattern, word, character in ("[é-ü]+€", "é", "é"), ("x😀y", "x", "😀"), ("[^a]*!", "", "中"):
        for n in range(1, len(character.encode())):
            begun = character.encode()[:n]
            found = [(word.encode() + begun + way).decode() for way in machine_completions(pattern, word, begun)]
            assert found
            assert all(re.fullmatch(pattern, text) for text in found)


def machine_completions(pattern: str, word: str, begun: bytes) -> list[bytes]:
    made = machine(python.read(pattern))
    place = made.start
    for character in word:
        place = made.step(place, character)
    return list(made.completions(place, begun))


def test_what_is_too_far_off_has_no_way_and_takes_no_time() -> None:
    assert ways(machine(python.read("a{100000}")), "aa") == []
    assert ways(machine(python.read("x(a?){1000000}y")), "xa") == ["y"]
    assert ways(machine(ANY), "anything") == [""]


NUMBERS = ["0", "0.5", "1", "1.0", "9", "10", "10.01", "9.99", "-1", "-0.5", "0.25", "0.250", "0.2500001", "3.0001", "2.9999", "-10.01"]


def test_a_number_is_between_limits_exactly_if_the_decimal_is() -> None:
    draw = random.Random(2)
    for _ in range(300):
        low, high = (draw.choice([None, *map(Decimal, NUMBERS)]) for _ in range(2))
        above, below, is_whole = draw.random() < 0.5, draw.random() < 0.5, draw.random() < 0.3
        if is_whole:
            low, high = (None if bound is None else Decimal(int(bound)) for bound in (low, high))
        if low is None and high is None:
            continue
        tree = between(low, above, high, below, is_whole)
        patterns = [for_python(limit) for limit in (tree.all_of if isinstance(tree, Such) else (tree,))]
        for text in NUMBERS:
            value = Decimal(text)
            fits = not (is_whole and "." in text)
            fits = fits and (low is None or value > low or (value == low and not above))
            fits = fits and (high is None or value < high or (value == high and not below))
            assert all(re.fullmatch(pattern, text) for pattern in patterns) == fits, (low, above, high, below, is_whole, text)


def test_a_number_under_limits_is_the_same_when_it_is_read_as_a_float() -> None:
    form = of_schema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})
    matcher = GRAMMARS.start(form.constraint)
    assert matcher.is_text("0." + "9" * 15)
    assert not matcher.is_text("0." + "9" * 58)
    assert 0 < form.meaning("0." + "9" * 15) < 1
    assert not GRAMMARS.start(Constraint("json_schema", '{"type": "number"}')).is_text("1e999")


LISTS: dict[str, Any] = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"type": "string"}}, "done": {"type": "boolean"}},
    "required": ["items", "done"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "word", "way"),
    [
        (LISTS, "", '{"items": [], "done": true}'),
        (LISTS, '{"items": ["a", "b', '"], "done": true}'),
        ({"type": "string", "pattern": r"[A-Z]{2}\d"}, '"he says A', 'A0"'),
        ({"type": "string", "pattern": "https?://"}, '"see htt', 'p://"'),
        ({"type": "string", "format": "email"}, '"ada', '@b.co"'),
        ({"type": "string", "pattern": "^a+$", "minLength": 5}, '"aa', 'aaa"'),
        ({"type": "array", "items": {"enum": ["x"]}, "minItems": 3}, '["x", ', '"x", "x"]'),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "array", "items": {"$ref": "#"}}}}, "[[[", "]]]"),
        ({"type": "number", "exclusiveMinimum": 0.25, "maximum": 3}, "0.2", "6"),
        ({}, '{"a": [1, {"b": "x', '"}]}'),
    ],
)
def test_json_is_brought_to_its_shortest_end(schema: Any, word: str, way: str) -> None:
    text = json.dumps(schema)
    machine_of = GRAMMARS.prepare(Constraint("json_schema", text)).machine
    assert machine_of is not None
    place = machine_of.start
    for character in word:
        place = machine_of.step(place, character)
    assert next(machine_of.completions(place)).decode() == way
    assert GRAMMARS.start(Constraint("json_schema", text)).is_text(word + way)
