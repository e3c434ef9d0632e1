"""JSON schemas to shapes: what each keyword says, and what its failing says.

Unknown keywords say nothing, and neither do `format`s that the grammar library does not know, as the standard has it.
The ones it knows hold. What has no exact shape carries the reason in `refused`, and is refused when it is to be spelled.
Knows no grammars.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ...contracts.errors import BackendUnsupported
from .shapes import (
    FALSE,
    TRUE,
    UNIVERSE,
    All,
    Array,
    Claim,
    Either,
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
    meet,
    opposite,
    without_notes,
)

FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
MAX_WORK = 50_000  # shapes met with one another
MAX_COUNT = 1_000_000  # of characters, items and pairs
MAX_REPEAT = 1_000  # in a pattern
MAX_TRACKED = 6  # alternatives of one `anyOf` that `unevaluated...` has to tell apart


@dataclass(frozen=True)
class _Schema:
    """A schema of the document, and where it stands."""

    content: Any
    resolver: Any
    path: str


@dataclass(frozen=True)
class _Ground:
    """A claim that is known outright."""

    holds: tuple[Shape, ...]
    fails: tuple[Shape, ...]


class _Endless(BackendUnsupported):
    pass


class Reading:
    """One document. `matches(pattern, text)` tells whether a text holds a pattern."""

    def __init__(self, document: Any, matches: Callable[[str, str], bool]) -> None:
        self._matches = matches
        self._claims: list[_Schema | _Ground] = []
        self._numbers: dict[Any, int] = {}
        self._known: dict[tuple[Formula, bool], tuple[Shape, ...]] = {}
        self._open: list[Claim] = []
        self._work = 0
        resource = DRAFT202012.create_resource(document)
        uri = resource.id() or ""
        resolver = _metaschemas().with_resource(uri, resource).resolver(uri)
        self.root = self._schema(document, _Schema(None, resolver, ""))

    def shapes(self, formula: Formula, tracked: bool = False) -> tuple[Shape, ...]:
        """Every value for which the formula holds is in one of them; they may overlap. `tracked`: with what was `seen`."""
        key = formula, tracked
        if key not in self._known:
            found = self._found(formula, tracked)
            self._known[key] = tuple(dict.fromkeys(found if tracked else map(without_notes, found)))
        return self._known[key]

    def path(self, formula: Formula) -> str:
        """Where the first schema of the formula stands."""
        if isinstance(formula, Claim):
            claim = self._claims[formula.number]
            return claim.path or "(root)" if isinstance(claim, _Schema) else ""
        return next(filter(None, map(self.path, formula.of)), "")

    def is_empty(self, formula: Formula) -> bool:
        """Whether it is easy to see that nothing fits."""
        try:
            return all(self._is_empty(shape) for shape in self.shapes(formula))
        except _Endless:
            return False

    def _is_empty(self, shape: Shape) -> bool:
        if not isinstance(shape, Object):
            return False
        names = dict(shape.names)
        nested = (names[name] for name in shape.required if name in names and isinstance(names[name], All))
        return any(self.shapes(formula) == () for formula in nested)

    def meets(self, one: Iterable[Shape], two: Iterable[Shape]) -> list[Shape]:
        met = []
        others: dict[str, list[Shape]] = {}
        for shape in two:
            others.setdefault(shape.kind, []).append(shape)
        for left in one:
            for right in others.get(left.kind, ()):
                self._spend(1)
                common = meet(left, right)
                if isinstance(common, String) and common.only is not None:
                    common = self._listed(common)
                if common is not None:
                    met.append(common)
        return met

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise BackendUnsupported(
                f"the schema has more than {MAX_WORK} combinations of alternatives", hint="fewer or simpler anyOf, oneOf, not and if"
            )

    def _listed(self, shape: String) -> String | None:
        """The same without what the other limits leave out."""
        only = tuple(text for text in shape.only or () if text not in shape.never and self._fits(text, shape))
        return String(only=only, refused=shape.refused) if only else None

    def _fits(self, text: str, shape: String) -> bool:
        if not shape.shortest <= len(text) <= (len(text) if shape.longest is None else shape.longest):
            return False
        return all(self._matches(p, text) for p in shape.patterns) and not any(self._matches(p, text) for p in shape.not_patterns)

    def _found(self, formula: Formula, tracked: bool) -> Iterable[Shape]:
        if isinstance(formula, All):
            met: Iterable[Shape] = UNIVERSE
            for part in formula.of:
                met = self.meets(met, self.shapes(part, tracked))
            return met
        if isinstance(formula, Either):
            return self._alternatives(formula, tracked)
        claim = self._claims[formula.number]
        if isinstance(claim, _Ground):
            return claim.holds if formula.holds else claim.fails
        if formula in self._open:
            raise _Endless(
                f"`$ref` at {claim.path or '(root)'} leads back to itself",
                hint="a schema may contain itself only inside properties or items",
            )
        self._open.append(formula)
        try:
            return self._held(claim, tracked) if formula.holds else self._failed(claim)
        finally:
            self._open.pop()

    def _alternatives(self, formula: Either, tracked: bool) -> Iterable[Shape]:
        every = [self.shapes(part, tracked) for part in formula.of]
        notes = {getattr(shape, "seen", Seen()) for shapes in every for shape in shapes}
        if not tracked or len(every) < 2 or notes <= {Seen()}:
            return itertools.chain(*every)
        if len(every) > MAX_TRACKED:
            raise BackendUnsupported(
                f"`unevaluated...` over more than {MAX_TRACKED} alternatives is not supported", hint="use additionalProperties or items"
            )
        found: list[Shape] = []
        for chosen in itertools.product((True, False), repeat=len(every)):
            met: Iterable[Shape] = UNIVERSE if any(chosen) else ()
            for part, shapes, chose in zip(formula.of, every, chosen, strict=True):
                met = self.meets(met, shapes if chose else self.shapes(opposite(part)))
            found += met
        return found

    def _held(self, schema: _Schema, tracked: bool) -> Iterable[Shape]:
        content = schema.content
        late = [] if isinstance(content, bool) else [key for key in ("unevaluatedProperties", "unevaluatedItems") if key in content]
        met: Iterable[Shape] = UNIVERSE
        for formula in self._read(schema):
            met = self.meets(met, self.shapes(formula, tracked or bool(late)))
        for key in late:
            rest = self._schema(content[key], schema, key)
            met = [self._unevaluated(shape, key, rest) for shape in met]
        return met

    def _failed(self, schema: _Schema) -> Iterable[Shape]:
        found: list[Shape] = []
        for formula in self._read(schema):
            found += self.shapes(opposite(formula))
        for key, shape in ("unevaluatedProperties", Object()), ("unevaluatedItems", Array()):
            if not isinstance(schema.content, bool) and schema.content.get(key, True) is not True:
                found.append(replace(shape, refused=_refusal(f"the opposite of `{key}`", schema.path)))
        return found

    def _unevaluated(self, shape: Shape, key: str, rest: Formula) -> Shape:
        if isinstance(shape, Object) and key == "unevaluatedProperties" and not shape.seen.everything:
            others = self._others(shape.seen.names, shape.seen.patterns)
            return replace(shape, rules=(*shape.rules, (others, rest)), seen=replace(shape.seen, everything=True))
        if isinstance(shape, Array) and key == "unevaluatedItems" and not shape.seen.everything:
            later = either((rest, *shape.seen.items))
            limit = Array((TRUE,) * shape.seen.n_items, later, seen=Seen(everything=True))
            return next(iter(self.meets([shape], [limit])))
        return shape

    @property
    def any_text(self) -> Formula:
        return self._ground([String()], [shape for shape in UNIVERSE if shape.kind != "string"])

    def is_text(self, text: str) -> Formula:
        return both((self.any_text, self._limit(String(only=(text,)), String(never=(text,)))))

    # -- keywords

    def _read(self, schema: _Schema) -> Iterator[Formula]:
        """The formulas that a schema is the conjunction of, in the order of its keywords."""
        content = schema.content
        if isinstance(content, bool):
            if not content:
                yield FALSE
            return
        for keyword, value in content.items():
            read = _KEYWORDS.get(keyword)
            if read is not None:
                yield read(self, _Keyword(keyword, value, schema))

    def _schema(self, content: Any, above: _Schema, *path: object) -> Formula:
        if content is True or content == {}:
            return TRUE
        if content is False:
            return FALSE
        where = ".".join(filter(None, [above.path, *map(str, path)]))
        return self._located(_Schema(content, above.resolver.in_subresource(DRAFT202012.create_resource(content)), where))

    def _located(self, schema: _Schema) -> Formula:
        resolver = schema.resolver
        scope = tuple(uri for uri, _ in resolver.dynamic_scope())
        return self._claim((id(schema.content), resolver._base_uri, tuple(dict.fromkeys(reversed(scope)))), schema)

    def _claim(self, key: Any, claim: _Schema | _Ground) -> Claim:
        if key not in self._numbers:
            self._numbers[key] = len(self._claims)
            self._claims.append(claim)
        return Claim(self._numbers[key])

    def _ground(self, holds: Iterable[Shape], fails: Iterable[Shape]) -> Claim:
        ground = _Ground(tuple(holds), tuple(fails))
        return self._claim(ground, ground)

    def _limit(self, holds: Shape, *fails: Shape) -> Claim:
        """It speaks of values of one kind and lets all others be."""
        return self._ground([shape for shape in UNIVERSE if shape.kind != holds.kind] + [holds], fails)

    def _type(self, here: _Keyword) -> Formula:
        named = {here.value} if isinstance(here.value, str) else set(here.value)
        kinds = named | ({"true", "false"} if "boolean" in named else set())
        holds: list[Shape] = [shape for shape in UNIVERSE if shape.kind in kinds]
        fails: list[Shape] = [shape for shape in UNIVERSE if shape.kind not in kinds]
        if "integer" in named and "number" not in named:
            holds.append(Number(whole=True))
            fails = [Number(whole=False) if shape.kind == "number" else shape for shape in fails]
        return self._ground(holds, fails)

    def _enum(self, here: _Keyword) -> Formula:
        return self._one_of_values(here.value, here.schema)

    def _const(self, here: _Keyword) -> Formula:
        return self._one_of_values([here.value], here.schema)

    def _one_of_values(self, values: list[Any], schema: _Schema) -> Formula:
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
        return either([self._ground(holds, fails), *(self._value(value, schema) for value in values if isinstance(value, list | dict))])

    def _value(self, value: Any, schema: _Schema) -> Formula:
        """An array or an object as a schema of its own."""
        parts = value if isinstance(value, list) else value.values()
        self._spend(len(value) ** 2)
        said = [self._one_of_values([part], schema) for part in parts]
        if isinstance(value, list):
            exact: Shape = Array(tuple(said), FALSE, len(value), len(value))
            bits: list[Shape] = [Array((TRUE,) * i + (opposite(part),), shortest=i + 1) for i, part in enumerate(said)]
            bits += [Array(longest=len(value) - 1)] if value else []
            bits += [Array(shortest=len(value) + 1)]
        else:
            names = tuple(value)
            others = self._others(names, ())
            exact = Object(tuple(zip(names, said, strict=True)), ((others, FALSE),), names)
            bits = [Object(((name, opposite(part)),)) for name, part in zip(names, said, strict=True)]
            bits += [Object(some=(others,))]
        rest = [shape for shape in UNIVERSE if shape.kind != exact.kind]
        return self._ground([exact], rest + bits)

    def _minimum(self, here: _Keyword) -> Formula:
        return self._limit(Number(low=here.value), Number(high=here.value, below=True))

    def _maximum(self, here: _Keyword) -> Formula:
        return self._limit(Number(high=here.value), Number(low=here.value, above=True))

    def _exclusive_minimum(self, here: _Keyword) -> Formula:
        return self._limit(Number(low=here.value, above=True), Number(high=here.value))

    def _exclusive_maximum(self, here: _Keyword) -> Formula:
        return self._limit(Number(high=here.value, below=True), Number(low=here.value))

    def _multiple_of(self, here: _Keyword) -> Formula:
        if here.value == 1:
            return self._limit(Number(whole=True), Number(whole=False))
        return self._limit(Number(multiples=(here.value,)), Number(refused=here.opposite()))

    def _min_length(self, here: _Keyword) -> Formula:
        return self._limit(String(here.count()), *([String(longest=here.count() - 1)] if here.value else []))

    def _max_length(self, here: _Keyword) -> Formula:
        return self._limit(String(longest=here.count()), String(here.count() + 1))

    def _pattern(self, here: _Keyword) -> Formula:
        return self._matching(here.value, here.path)

    def _matching(self, pattern: str, path: str) -> Formula:
        if any(int(number) > MAX_REPEAT for repeat in re.findall(r"\{[0-9,]+\}", pattern) for number in re.findall("[0-9]+", repeat)):
            raise BackendUnsupported(f"the pattern at {path} repeats more than {MAX_REPEAT} times", hint="use maxLength")
        try:
            self._matches(pattern, "")
        except ValueError as error:
            raise BackendUnsupported(
                f"the pattern at {path} is not supported: {error}", hint="regular expressions without look-around and back references"
            ) from None
        return self._limit(String(patterns=(pattern,)), String(not_patterns=(pattern,)))

    def _format(self, here: _Keyword) -> Formula:
        # To the standard a format is a remark. Obeying it keeps within what is valid, so its failing must mean nothing at all.
        return self._limit(String(formats=(here.value,))) if here.value in FORMATS else TRUE

    def _min_items(self, here: _Keyword) -> Formula:
        return self._limit(Array(shortest=here.count()), *([Array(longest=here.count() - 1)] if here.value else []))

    def _max_items(self, here: _Keyword) -> Formula:
        return self._limit(Array(longest=here.count()), Array(shortest=here.count() + 1))

    def _unique_items(self, here: _Keyword) -> Formula:
        return self._limit(Array(distinct=here.path), Array(refused=here.opposite())) if here.value else TRUE

    def _prefix_items(self, here: _Keyword) -> Formula:
        self._spend(len(here.value) ** 2)
        items = [here.inner(self, item, index) for index, item in enumerate(here.value)]
        fails = (Array((TRUE,) * index + (opposite(item),), shortest=index + 1) for index, item in enumerate(items))
        return self._limit(Array(tuple(items), seen=Seen(n_items=len(items))), *fails)

    def _items(self, here: _Keyword) -> Formula:
        start = len(here.schema.content.get("prefixItems", ()))
        items = here.inner(self, here.value)
        fails = Array(holding=(Holding(start, opposite(items), 1),))
        return self._limit(Array((TRUE,) * start, items, seen=Seen(everything=True)), *([] if items == TRUE else [fails]))

    def _contains(self, here: _Keyword) -> Formula:
        content = here.schema.content
        what, fewest = here.inner(self, here.value), here.beside("minContains").count() if "minContains" in content else 1
        most = here.beside("maxContains").count() if "maxContains" in content else None
        fails = [Array(holding=(Holding(0, what, 0, fewest - 1),))] if fewest else []
        fails += [] if most is None else [Array(holding=(Holding(0, what, most + 1),))]
        if most is not None and most < fewest:
            return self._none_of("array")
        holding = (Holding(0, what, fewest, most),) if fewest or most is not None else ()
        return self._limit(Array(holding=holding, seen=Seen(items=(what,))), *fails)

    def _properties(self, here: _Keyword) -> Formula:
        names = {name: here.inner(self, schema, name) for name, schema in here.value.items()}
        fails = (Object(((name, opposite(formula)),), required=(name,)) for name, formula in names.items() if formula != TRUE)
        return self._limit(Object(tuple(names.items()), seen=Seen(names=tuple(names))), *fails)

    def _pattern_properties(self, here: _Keyword) -> Formula:
        rules = {self._matching(p, f"{here.path}.{p}"): here.inner(self, schema, p) for p, schema in here.value.items()}
        fails = (self._some_key(key, value, here) for key, value in rules.items() if value != TRUE)
        kept = tuple((key, value) for key, value in rules.items() if value != TRUE)
        return self._limit(Object(rules=kept, seen=Seen(patterns=tuple(rules))), *fails)

    def _additional_properties(self, here: _Keyword) -> Formula:
        content = here.schema.content
        patterns = [self._matching(p, here.path) for p in content.get("patternProperties", ())]
        others = self._others(tuple(content.get("properties", ())), patterns)
        value = here.inner(self, here.value)
        if value == TRUE:
            return self._limit(Object(seen=Seen(everything=True)))
        return self._limit(Object(rules=((others, value),), seen=Seen(everything=True)), self._some_key(others, value, here))

    def _others(self, names: tuple[str, ...], patterns: Iterable[Formula]) -> Formula:
        named = self._limit(String(never=names), String(only=names)) if names else TRUE
        return both([named, *map(opposite, patterns)])

    def _some_key(self, key: Formula, value: Formula, here: _Keyword) -> Shape:
        return Object(some=(key,)) if self.shapes(value) == () else Object(refused=here.opposite())

    def _property_names(self, here: _Keyword) -> Formula:
        wrong = opposite(here.inner(self, here.value))
        return TRUE if wrong == FALSE else self._limit(Object(rules=((wrong, FALSE),)), Object(some=(wrong,)))

    def _required(self, here: _Keyword) -> Formula:
        return both(self._has(name) for name in here.value)

    def _has(self, name: str) -> Formula:
        return self._limit(Object(required=(name,)), Object(((name, FALSE),)))

    def _min_properties(self, here: _Keyword) -> Formula:
        least = here.count()
        return self._limit(Object(fewest=least, min_path=here.path), *([Object(most=least - 1)] if least else []))

    def _max_properties(self, here: _Keyword) -> Formula:
        return self._limit(Object(most=here.count()), Object(fewest=here.count() + 1, min_path=here.path))

    def _dependent_required(self, here: _Keyword) -> Formula:
        return both(either((opposite(self._has(name)), both(map(self._has, others)))) for name, others in here.value.items())

    def _dependent_schemas(self, here: _Keyword) -> Formula:
        return both(
            either((opposite(self._has(name)), both((self._has(name), here.inner(self, schema, name))), self._none_of("object")))
            for name, schema in here.value.items()
        )

    def _none_of(self, kind: Kind) -> Formula:
        return self._ground([shape for shape in UNIVERSE if shape.kind != kind], [shape for shape in UNIVERSE if shape.kind == kind])

    def _all_of(self, here: _Keyword) -> Formula:
        return both(here.every(self))

    def _any_of(self, here: _Keyword) -> Formula:
        return either(here.every(self))

    def _one_of(self, here: _Keyword) -> Formula:
        options = here.every(self)
        clashes = {
            (i, j) for i, j in itertools.combinations(range(len(options)), 2) if not self.is_empty(both((options[i], options[j])))
        }
        return either(
            both([option, *(opposite(other) for j, other in enumerate(options) if (min(i, j), max(i, j)) in clashes)])
            for i, option in enumerate(options)
        )

    def _not(self, here: _Keyword) -> Formula:
        return opposite(here.inner(self, here.value))

    def _if(self, here: _Keyword) -> Formula:
        test = here.inner(self, here.value)
        content = here.schema.content
        then, otherwise = (self._schema(content.get(key, True), here.schema, key) for key in ("then", "else"))
        return either((both((test, then)), both((opposite(test), otherwise))))

    def _ref(self, here: _Keyword) -> Formula:
        try:
            found = here.schema.resolver.lookup(here.value)
        except (Unresolvable, ValueError) as error:
            raise BackendUnsupported(
                f"`{here.keyword}` at {here.path} leads to {here.value!r}, which is not in the schema ({type(error).__name__})",
                hint="nothing is fetched: put it under $defs",
            ) from None
        if found.contents is True or found.contents == {}:
            return TRUE
        if found.contents is False:
            return FALSE
        inner = here.value.partition("#")[2].strip("/").replace("/", ".")
        return self._located(_Schema(found.contents, found.resolver, inner or here.path))


@dataclass(frozen=True)
class _Keyword:
    keyword: str
    value: Any
    schema: _Schema

    @property
    def path(self) -> str:
        return ".".join(filter(None, [self.schema.path, self.keyword]))

    def count(self) -> int:
        if self.value > MAX_COUNT:
            raise BackendUnsupported(f"{self.path} is {self.value}, more than {MAX_COUNT}", hint="a smaller count, or none")
        return int(self.value)

    def beside(self, keyword: str) -> _Keyword:
        return _Keyword(keyword, self.schema.content[keyword], self.schema)

    def inner(self, reading: Reading, content: Any, *path: object) -> Formula:
        return reading._schema(content, self.schema, self.keyword, *path)

    def every(self, reading: Reading) -> list[Formula]:
        return [self.inner(reading, content, index) for index, content in enumerate(self.value)]

    def opposite(self) -> str:
        return _refusal(f"the opposite of `{self.keyword}`", self.schema.path)


def _refusal(what: str, path: str) -> str:
    return f"{what} at {path or '(root)'} is not supported"


def _metaschemas() -> Registry[Any]:
    from jsonschema_specifications import REGISTRY

    return cast("Registry[Any]", REGISTRY)


_KEYWORDS: dict[str, Callable[[Reading, _Keyword], Formula]] = {
    "type": Reading._type,
    "enum": Reading._enum,
    "const": Reading._const,
    "minimum": Reading._minimum,
    "maximum": Reading._maximum,
    "exclusiveMinimum": Reading._exclusive_minimum,
    "exclusiveMaximum": Reading._exclusive_maximum,
    "multipleOf": Reading._multiple_of,
    "minLength": Reading._min_length,
    "maxLength": Reading._max_length,
    "pattern": Reading._pattern,
    "format": Reading._format,
    "minItems": Reading._min_items,
    "maxItems": Reading._max_items,
    "uniqueItems": Reading._unique_items,
    "prefixItems": Reading._prefix_items,
    "items": Reading._items,
    "contains": Reading._contains,
    "properties": Reading._properties,
    "patternProperties": Reading._pattern_properties,
    "additionalProperties": Reading._additional_properties,
    "propertyNames": Reading._property_names,
    "required": Reading._required,
    "minProperties": Reading._min_properties,
    "maxProperties": Reading._max_properties,
    "dependentRequired": Reading._dependent_required,
    "dependentSchemas": Reading._dependent_schemas,
    "allOf": Reading._all_of,
    "anyOf": Reading._any_of,
    "oneOf": Reading._one_of,
    "not": Reading._not,
    "if": Reading._if,
    "$ref": Reading._ref,
    "$dynamicRef": Reading._ref,
}
