"""Sixty grammars that must not hold other requests up, and the process that tries them one by one under limits.

`python -m tests.reliability.hostile` prints a line of JSON for each: its name, what came of it, and seconds of CPU. A child
process that takes more of the CPU or of the memory than it may is killed.
"""

from __future__ import annotations

import json
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from sgl_lab.contracts.errors import SglError
from sgl_lab.contracts.params import Constraint
from sgl_lab.grammar.grammars import Grammars

Kind = Literal["regex", "json_schema", "grammar"]
N_VOCAB = 49_152
SECONDS = 2
MEMORY = 256 << 20


def nested(depth: int, wrap: Callable[[Any], Any], core: Any) -> Any:
    for _ in range(depth):
        core = wrap(core)
    return core


def schemas() -> Iterator[tuple[str, Any]]:
    text = {"type": "string"}
    yield "objects 20 deep", nested(20, lambda s: {"properties": {"a": s}}, text)
    yield "objects 10,000 deep", '{"properties":{"a":' * 10_000 + "{}" + "}}" * 10_000
    yield "arrays 100,000 deep", "[" * 100_000
    yield "anyOf 30 deep", nested(30, lambda s: {"anyOf": [s, {"type": "null"}]}, text)
    for keyword in ("allOf", "anyOf", "oneOf"):
        twice = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(20)}
        yield f"{keyword} doubling 2**20", {"$defs": {**twice, "d20": text}, "$ref": "#/$defs/d0"}
    yield "a product of 4**16 alternatives", {"allOf": [{"anyOf": [{"required": [f"{i}{c}"]} for c in "abcd"]} for i in range(16)]}
    yield "oneOf of 300 that overlap", {"oneOf": [{"required": [f"k{i}"]} for i in range(300)]}
    yield "not of not, 60 deep", nested(60, lambda s: {"not": s}, text)
    yield "if chain", nested(30, lambda s: {"if": {"required": ["a"]}, "then": s, "else": {"required": ["b"]}}, text)
    yield "enum of 8,000", {"enum": [f"value {i}" for i in range(8_000)]}
    yield "enum of 100,000", {"enum": [f"{i}" for i in range(100_000)]}
    yield "not an enum of 5,000", {"type": "string", "not": {"enum": [f"value {i}" for i in range(5_000)]}}
    yield "not an enum of 2,000 numbers", {"not": {"enum": list(range(2_000))}}
    yield "a constant of 200 kB", {"const": "x" * 200_000}
    yield "a constant of 9,000 items", {"const": list(range(9_000))}
    yield "minLength a million", {"type": "string", "minLength": 1_000_000}
    yield "maxLength a million", {"type": "string", "maxLength": 1_000_000}
    yield "maxLength 10**18", {"type": "string", "maxLength": 10**18}
    yield "minLength 10**30", {"type": "string", "minLength": 10**30}
    yield "maxItems a million", {"type": "array", "items": text, "maxItems": 1_000_000}
    yield "minItems 10**18", {"type": "array", "items": text, "minItems": 10**18}
    yield "items in items, 1,000 each", nested(10, lambda s: {"type": "array", "items": s, "minItems": 1_000, "maxItems": 1_000}, text)
    yield "maxContains 100,000", {"contains": {"type": "string"}, "maxContains": 100_000}
    yield "ten contains", {"allOf": [{"contains": {"const": i}, "maxContains": 5} for i in range(10)]}
    yield "10,000 properties", {"properties": {f"p{i}": {} for i in range(10_000)}}
    yield "900 properties", {"properties": {f"p{i}": text for i in range(900)}}
    yield "900 required properties", {"properties": {f"p{i}": text for i in range(900)}, "required": [f"p{i}" for i in range(900)]}
    many = {f"p{i}": text for i in range(900)}
    yield "maxProperties 500 of 900", {"properties": many, "maxProperties": 500, "additionalProperties": False}
    yield "maxProperties 10**9", {"type": "object", "maxProperties": 10**9}
    yield "30 patterns of keys", {"patternProperties": {f"a{i}.*b": {"minimum": i} for i in range(30)}}
    yield "12 dependencies", {"dependentRequired": {f"k{i}": [f"k{i + 1}"] for i in range(12)}}
    yield "40 dependencies", {"dependentSchemas": {f"k{i}": {"required": [f"k{i + 1}"]} for i in range(40)}}
    yield "uniqueItems of 8 values", {"type": "array", "items": {"enum": list("abcdefgh")}, "uniqueItems": True}
    yield "uniqueItems of anything", {"uniqueItems": True}
    options = [{"properties": {f"p{i}": {}}} for i in range(30)]
    yield "unevaluatedProperties over 30 alternatives", {"anyOf": options, "unevaluatedProperties": False}
    yield "pattern (a+)+b", {"type": "string", "pattern": "^(a+)+b$"}
    yield "pattern (a+)+b over a constant", {"const": "a" * 5_000, "pattern": "^(a+)+b$"}
    yield "pattern of nested repeats", {"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"}
    yield "pattern a{100000}", {"type": "string", "pattern": "^a{100000}$"}
    yield "pattern (.*a){20} and its length", {"type": "string", "pattern": "(.*a.{20}){20}", "maxLength": 500}
    yield "not a pattern that remembers", {"type": "string", "not": {"pattern": "a.{200}b"}}
    yield "pattern with look-around", {"type": "string", "pattern": "^(?=a)(?!b)a$"}
    yield "pattern of brackets", {"type": "string", "pattern": "(" * 5_000}
    yield "an external $ref", {"$ref": "https://example.com/schema.json"}
    yield "a $ref to a file", {"$ref": "file:///etc/passwd"}
    yield "a $ref to itself", {"$ref": "#"}
    yield "a ring of $refs", {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % 50}"} for i in range(50)}, "$ref": "#/$defs/d0"}
    yield "recursion without end", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    yield "the meta-schema", {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    yield "multipleOf 1e-300", {"type": "number", "multipleOf": 1e-300}
    yield "fifty multiples", {"type": "integer", "allOf": [{"multipleOf": n} for n in range(50, 100)]}
    yield "a minimum of 10**400", {"type": "integer", "minimum": 10**400}
    yield "keys of lone surrogates and controls", '{"properties":{"\\ud800":{},"\\u0000\\u001f\\u202e\\ufeff":{"const":"\\udfff"}}}'


def larks() -> Iterator[tuple[str, str]]:
    yield "lark: left recursion without end", "start: a\na: a a | a"
    yield "lark: ambiguity", 'start: a\na: a a | "x" | ""'
    yield "lark: repeats of repeats", 'start: a{1000}\na: b{1000}\nb: c{1000}\nc: "x"'
    yield "lark: a terminal of doublings", 'start: T30\nT0: "ab" | "ba"\n' + "\n".join(f"T{i + 1}: T{i} T{i}" for i in range(30))
    yield "lark: intersection of remembering terminals", "start: A\nA: /(?s:.*)a.{60}/ & /(?s:.*)b.{61}/ & ~/(?s:.*)c.{62}/"
    yield "lark: 5,000 rules in a chain", "start: r0\n" + "\n".join(f'r{i}: "x" r{i + 1} | "y"' for i in range(5_000)) + '\nr5000: "z"'
    chain = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(1_000)} | {"d1000": {}}
    yield "lark: an inline schema with a chain of $refs", "start: %json " + json.dumps({"$defs": chain, "$ref": "#/$defs/d0"})
    yield "lark: 10,000 brackets", "start: " + "(" * 10_000 + '"x"' + ")" * 10_000


def regexes() -> Iterator[tuple[str, str]]:
    yield "regex (a+)+b", "(a+)+b"
    yield "regex of repeats", "(((a{1,1000}){1,1000}){1,1000}){1,1000}"
    yield "regex of 10,000 brackets", "(" * 10_000 + "a" + ")" * 10_000
    yield "regex of 20,000 pieces", "(ab?)" * 20_000
    yield "regex that remembers", "(a|b)*a(a|b){5000}"


class Words:
    """A vocabulary as large as the built-in model's: every byte, and made-up words."""

    def __init__(self) -> None:
        draw = random.Random(0)
        words = {bytes([byte]) for byte in range(256)}
        while len(words) < N_VOCAB - 1:
            words.add((" " * draw.randrange(2) + "".join(draw.choices('etaoinshrdlu0123"{}[],:', k=draw.randint(2, 8)))).encode())
        self._words = [*sorted(words), b""]
        self._of_byte = [self._words.index(bytes([byte])) for byte in range(256)]
        self.eos_ids = self.special_ids = frozenset({N_VOCAB - 1})
        self.n_vocab = N_VOCAB

    def token_bytes(self, token: int) -> bytes:
        return self._words[token]

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._of_byte[byte] for byte in text.encode())


def attempt(grammars: Grammars, kind: Kind, source: object) -> str:
    try:
        grammars.prepare(Constraint(kind, source if isinstance(source, str) else json.dumps(source)))
    except SglError as error:
        return f"refused: {error}"
    return "answered"


def main() -> None:
    grammars = Grammars(Words())
    attempt(grammars, "json_schema", {"properties": {"a": {"pattern": "a", "$anchor": "a"}}})  # whatever is loaded once
    cases: list[tuple[Kind, str, object]] = [("json_schema", name, schema) for name, schema in schemas()]
    cases += [("grammar", name, lark) for name, lark in larks()]
    cases += [("regex", name, regex) for name, regex in regexes()]
    for kind, name, source in cases:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            with os.fdopen(writing, "w") as out:
                out.write(attempt(grammars, kind, source))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            what = stream.read()
        _, status, used = os.wait4(child, 0)
        print(json.dumps([name, what if status == 0 else f"died of {status}", used.ru_utime + used.ru_stime]), flush=True)


if __name__ == "__main__":
    main()
