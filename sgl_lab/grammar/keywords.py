"""The meaning of each keyword of a JSON schema, and of its negation.

Unknown keywords have no meaning, and neither do `format`s that the grammar library does not know,
as in the standard. The formats that it knows are enforced. Knows a reading only through `Claims`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from referencing.exceptions import Unresolvable

from ..contracts.errors import BackendUnsupported
from ..contracts.json_values import Json
from ..contracts.patterns import ecma
from ..contracts.patterns.formats import FORMATS
from .shapes import (
    FALSE,
    TRUE,
    UNIVERSE,
    Array,
    Fixed,
    Formula,
    Holding,
    Kind,
    Number,
    Object,
    Seen,
    Shape,
    String,
    both,
    either,
    opposite,
)

if TYPE_CHECKING:
    from referencing._core import Resolver

SchemaResolver: TypeAlias = "Resolver[bool | Mapping[str, Any]]"
"""finds what a `$ref` names"""
MAX_COUNT = 1_000_000  # of characters, items and pairs


@dataclass(frozen=True)
class Schema:
    """A schema of the document, with its path."""

    content: Any
    resolver: SchemaResolver
    path: str


class Claims(Protocol):
    """What a keyword needs of the reading of a document: formulas for schemas and shapes."""

    def schema(self, content: Any, above: Schema, *path: object) -> Formula:
        """The formula that the nested schema holds."""

    def located(self, content: Any, resolver: SchemaResolver, path: str) -> Formula:
        """The formula that the schema at any path of the document holds."""

    def ground(self, holds: Iterable[Shape], fails: Iterable[Shape]) -> Formula:
        """A claim that is known outright: the shapes of its holding and of its failing."""

    def limit(self, holds: Shape, *fails: Shape) -> Formula:
        """A claim about values of one kind, which lets all others be."""

    def shapes(self, formula: Formula) -> tuple[Shape, ...]:
        """Shapes that cover every value for which the formula holds."""

    def is_empty(self, formula: Formula) -> bool:
        """Whether it is easy to see that nothing fits."""

    def spend(self, work: int) -> None:
        """Count steps of work. BackendUnsupported if there are too many."""


@dataclass(frozen=True)
class Keyword:
    keyword: str
    value: Any
    schema: Schema

    @property
    def path(self) -> str:
        return ".".join(filter(None, [self.schema.path, self.keyword]))

    def count(self) -> int:
        if self.value > MAX_COUNT:
            raise BackendUnsupported(f"`{self.keyword}` at {self.path} is {self.value}, more than {MAX_COUNT}", hint="a smaller count")
        return int(self.value)

    def beside(self, keyword: str) -> Keyword:
        return Keyword(keyword, self.schema.content[keyword], self.schema)

    def inner(self, reading: Claims, content: Any, *path: object) -> Formula:
        return reading.schema(content, self.schema, self.keyword, *path)

    def every(self, reading: Claims) -> list[Formula]:
        return [self.inner(reading, content, index) for index, content in enumerate(self.value)]

    def opposite(self) -> str:
        return refusal(f"the opposite of `{self.keyword}`", self.schema.path)


def refusal(what: str, path: str) -> str:
    return f"{what} at {path or '(root)'} is not supported"


def _type(reading: Claims, here: Keyword) -> Formula:
    named = {here.value} if isinstance(here.value, str) else set(here.value)
    kinds = named | ({"true", "false"} if "boolean" in named else set())
    holds: list[Shape] = [shape for shape in UNIVERSE if shape.kind in kinds]
    fails: list[Shape] = [shape for shape in UNIVERSE if shape.kind not in kinds]
    if "integer" in named and "number" not in named:
        holds.append(Number(whole=True))
        fails = [Number(whole=False) if shape.kind == "number" else shape for shape in fails]
    return reading.ground(holds, fails)


def _enum(reading: Claims, here: Keyword) -> Formula:
    return _one_of_values(reading, here.value, here.schema)


def _const(reading: Claims, here: Keyword) -> Formula:
    return _one_of_values(reading, [here.value], here.schema)


def _one_of_values(reading: Claims, values: list[Json], schema: Schema) -> Formula:
    texts = tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
    numbers = sorted({value for value in values if isinstance(value, int | float) and not isinstance(value, bool)})
    words = {json.dumps(value) for value in values if value is None or isinstance(value, bool)}
    holds: list[Shape] = [shape for shape in UNIVERSE if shape.kind in words]
    fails: list[Shape] = [shape for shape in UNIVERSE if isinstance(shape, Fixed) and shape.kind not in words]
    holds += [Number(value, False, value) for value in numbers]
    gaps = zip([None, *numbers], [*numbers, None], strict=True)
    fails += [Number(low, low is not None, high, high is not None) for low, high in gaps]
    holds += [String(only=texts)] if texts else []
    fails += [String(never=texts), Array(), Object()]
    return either([reading.ground(holds, fails), *(_value(reading, value, schema) for value in values if isinstance(value, list | dict))])


def _value(reading: Claims, value: list[Json] | dict[str, Json], schema: Schema) -> Formula:
    """An array or an object as a schema of its own."""
    parts = value if isinstance(value, list) else value.values()
    reading.spend(len(value) ** 2)
    single = [_one_of_values(reading, [part], schema) for part in parts]
    if isinstance(value, list):
        exact: Shape = Array(tuple(single), FALSE, len(value), len(value))
        bits: list[Shape] = [Array((TRUE,) * i + (opposite(part),), shortest=i + 1) for i, part in enumerate(single)]
        bits += [Array(longest=len(value) - 1)] if value else []
        bits += [Array(shortest=len(value) + 1)]
    else:
        names = tuple(value)
        others = other_keys(reading, names, ())
        exact = Object(tuple(zip(names, single, strict=True)), ((others, FALSE),), names)
        bits = [Object(((name, opposite(part)),)) for name, part in zip(names, single, strict=True)]
        bits += [Object(some=(others,))]
    rest = [shape for shape in UNIVERSE if shape.kind != exact.kind]
    return reading.ground([exact], rest + bits)


def _minimum(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(Number(low=here.value), Number(high=here.value, below=True))


def _maximum(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(Number(high=here.value), Number(low=here.value, above=True))


def _exclusive_minimum(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(Number(low=here.value, above=True), Number(high=here.value))


def _exclusive_maximum(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(Number(high=here.value, below=True), Number(low=here.value))


def _multiple_of(reading: Claims, here: Keyword) -> Formula:
    if here.value == 1:
        return reading.limit(Number(whole=True), Number(whole=False))
    return reading.limit(Number(multiples=(here.value,)), Number(refused=here.opposite()))


def _min_length(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(String(here.count()), *([String(longest=here.count() - 1)] if here.value else []))


def _max_length(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(String(longest=here.count()), String(here.count() + 1))


def _pattern(reading: Claims, here: Keyword) -> Formula:
    return _matching(reading, here.value, here.path)


def _matching(reading: Claims, pattern: str, path: str) -> Formula:
    try:
        ecma.read(pattern)
    except ValueError as error:
        raise BackendUnsupported(
            f"the pattern at {path} is not supported: {error}", hint="regular expressions without look-around and back references"
        ) from None
    return reading.limit(String(patterns=(pattern,)), String(not_patterns=(pattern,)))


def _format(reading: Claims, here: Keyword) -> Formula:
    # In the standard a format is only an annotation. Enforcing it keeps within the valid values, so
    # its negation must have no effect.
    return reading.limit(String(formats=(here.value,))) if here.value in FORMATS else TRUE


def _json_text(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(String(spelling=(here.inner(reading, here.value),)), String(refused=here.opposite()))


def _min_items(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(Array(shortest=here.count()), *([Array(longest=here.count() - 1)] if here.value else []))


def _max_items(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(Array(longest=here.count()), Array(shortest=here.count() + 1))


def _unique_items(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(Array(distinct=here.path), Array(refused=here.opposite())) if here.value else TRUE


def _prefix_items(reading: Claims, here: Keyword) -> Formula:
    reading.spend(len(here.value) ** 2)
    items = [here.inner(reading, item, index) for index, item in enumerate(here.value)]
    fails = (Array((TRUE,) * index + (opposite(item),), shortest=index + 1) for index, item in enumerate(items))
    return reading.limit(Array(tuple(items), seen=Seen(n_items=len(items))), *fails)


def _items(reading: Claims, here: Keyword) -> Formula:
    start = len(here.schema.content.get("prefixItems", ()))
    items = here.inner(reading, here.value)
    fails = Array(holding=(Holding(start, opposite(items), 1),))
    return reading.limit(Array((TRUE,) * start, items, seen=Seen(everything=True)), *([] if items == TRUE else [fails]))


def _contains(reading: Claims, here: Keyword) -> Formula:
    content = here.schema.content
    what, fewest = here.inner(reading, here.value), here.beside("minContains").count() if "minContains" in content else 1
    most = here.beside("maxContains").count() if "maxContains" in content else None
    fails = [Array(holding=(Holding(0, what, 0, fewest - 1),))] if fewest else []
    fails += [] if most is None else [Array(holding=(Holding(0, what, most + 1),))]
    if most is not None and most < fewest:
        return _none_of(reading, "array")
    holding = (Holding(0, what, fewest, most),) if fewest or most is not None else ()
    return reading.limit(Array(holding=holding, seen=Seen(items=(what,))), *fails)


def _properties(reading: Claims, here: Keyword) -> Formula:
    names = {name: here.inner(reading, schema, name) for name, schema in here.value.items()}
    fails = (Object(((name, opposite(formula)),), required=(name,)) for name, formula in names.items() if formula != TRUE)
    return reading.limit(Object(tuple(names.items()), seen=Seen(names=tuple(names))), *fails)


def _pattern_properties(reading: Claims, here: Keyword) -> Formula:
    rules = {_matching(reading, p, f"{here.path}.{p}"): here.inner(reading, schema, p) for p, schema in here.value.items()}
    fails = (_some_key(reading, key, value, here) for key, value in rules.items() if value != TRUE)
    kept = tuple((key, value) for key, value in rules.items() if value != TRUE)
    return reading.limit(Object(rules=kept, seen=Seen(patterns=tuple(rules))), *fails)


def _additional_properties(reading: Claims, here: Keyword) -> Formula:
    content = here.schema.content
    patterns = [_matching(reading, p, here.path) for p in content.get("patternProperties", ())]
    others = other_keys(reading, tuple(content.get("properties", ())), patterns)
    value = here.inner(reading, here.value)
    if value == TRUE:
        return reading.limit(Object(seen=Seen(everything=True)))
    return reading.limit(Object(rules=((others, value),), seen=Seen(everything=True)), _some_key(reading, others, value, here))


def other_keys(reading: Claims, names: tuple[str, ...], patterns: Iterable[Formula]) -> Formula:
    named = reading.limit(String(never=names), String(only=names)) if names else TRUE
    return both([named, *map(opposite, patterns)])


def _some_key(reading: Claims, key: Formula, value: Formula, here: Keyword) -> Shape:
    return Object(some=(key,)) if reading.shapes(value) == () else Object(refused=here.opposite())


def _property_names(reading: Claims, here: Keyword) -> Formula:
    wrong = opposite(here.inner(reading, here.value))
    return TRUE if wrong == FALSE else reading.limit(Object(rules=((wrong, FALSE),)), Object(some=(wrong,)))


def _required(reading: Claims, here: Keyword) -> Formula:
    return both(_has(reading, name) for name in here.value)


def _has(reading: Claims, name: str) -> Formula:
    return reading.limit(Object(required=(name,)), Object(((name, FALSE),)))


def _min_properties(reading: Claims, here: Keyword) -> Formula:
    least = here.count()
    return reading.limit(Object(fewest=least, min_path=here.path), *([Object(most=least - 1)] if least else []))


def _max_properties(reading: Claims, here: Keyword) -> Formula:
    return reading.limit(Object(most=here.count()), Object(fewest=here.count() + 1, min_path=here.path))


def _dependent_required(reading: Claims, here: Keyword) -> Formula:
    return both(
        either((opposite(_has(reading, name)), both(_has(reading, other) for other in others))) for name, others in here.value.items()
    )


def _dependent_schemas(reading: Claims, here: Keyword) -> Formula:
    return both(
        either((opposite(_has(reading, name)), both((_has(reading, name), here.inner(reading, schema, name))), _none_of(reading, "object")))
        for name, schema in here.value.items()
    )


def _none_of(reading: Claims, kind: Kind) -> Formula:
    return reading.ground([shape for shape in UNIVERSE if shape.kind != kind], [shape for shape in UNIVERSE if shape.kind == kind])


def _all_of(reading: Claims, here: Keyword) -> Formula:
    return both(here.every(reading))


def _any_of(reading: Claims, here: Keyword) -> Formula:
    return either(here.every(reading))


def _one_of(reading: Claims, here: Keyword) -> Formula:
    options = here.every(reading)
    clashes = {(i, j) for i, j in itertools.combinations(range(len(options)), 2) if not reading.is_empty(both((options[i], options[j])))}
    return either(
        both([option, *(opposite(other) for j, other in enumerate(options) if (min(i, j), max(i, j)) in clashes)])
        for i, option in enumerate(options)
    )


def _not(reading: Claims, here: Keyword) -> Formula:
    return opposite(here.inner(reading, here.value))


def _if(reading: Claims, here: Keyword) -> Formula:
    test = here.inner(reading, here.value)
    content = here.schema.content
    then, otherwise = (reading.schema(content.get(key, True), here.schema, key) for key in ("then", "else"))
    return either((both((test, then)), both((opposite(test), otherwise))))


def _ref(reading: Claims, here: Keyword) -> Formula:
    try:
        found = here.schema.resolver.lookup(here.value)
    except (Unresolvable, ValueError) as error:
        raise BackendUnsupported(
            f"`{here.keyword}` at {here.path} leads to {here.value!r}, which is not in the schema ({type(error).__name__})",
            hint="nothing is fetched: put it under $defs",
        ) from None
    inner = here.value.partition("#")[2].strip("/").replace("/", ".")
    return reading.located(found.contents, found.resolver, inner or here.path)


KEYWORDS: dict[str, Callable[[Claims, Keyword], Formula]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "minimum": _minimum,
    "maximum": _maximum,
    "exclusiveMinimum": _exclusive_minimum,
    "exclusiveMaximum": _exclusive_maximum,
    "multipleOf": _multiple_of,
    "minLength": _min_length,
    "maxLength": _max_length,
    "pattern": _pattern,
    "format": _format,
    "x-json": _json_text,
    "minItems": _min_items,
    "maxItems": _max_items,
    "uniqueItems": _unique_items,
    "prefixItems": _prefix_items,
    "items": _items,
    "contains": _contains,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "propertyNames": _property_names,
    "required": _required,
    "minProperties": _min_properties,
    "maxProperties": _max_properties,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "$ref": _ref,
    "$dynamicRef": _ref,
}
