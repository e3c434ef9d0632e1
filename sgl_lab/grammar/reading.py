"""JSON schemas to shapes: the numbered schemas of one document, and the values for which a formula
of them holds.

A value without an exact shape carries the reason in `refused`, and is refused when it is to be
spelled. Knows no grammars.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from referencing.jsonschema import DRAFT202012, SchemaRegistry

from ..contracts.errors import BackendUnsupported
from ..contracts.json_values import Json
from ..contracts.patterns import ecma
from .keywords import KEYWORDS, Keyword, Schema, SchemaResolver, other_keys, refusal
from .shapes import (
    FALSE,
    TRUE,
    UNIVERSE,
    All,
    Array,
    Claim,
    Either,
    Formula,
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

MAX_WORK = 50_000  # shapes met with one another
MAX_TRACKED = 6  # alternatives of one `anyOf` that `unevaluated...` has to tell apart


@dataclass(frozen=True)
class _Ground:
    """A claim that is known outright."""

    holds: tuple[Shape, ...]
    fails: tuple[Shape, ...]


class Endless(BackendUnsupported):
    """A schema that is nothing but itself."""


class Reading:
    """One document."""

    def __init__(self, document: Json) -> None:
        self._claims: list[Schema | _Ground] = []
        self._numbers: dict[object, int] = {}
        self._known: dict[tuple[Formula, bool], tuple[Shape, ...]] = {}
        self._open: list[Claim] = []
        self._work = 0
        resource = DRAFT202012.create_resource(document)
        uri = resource.id() or ""
        resolver = _metaschemas().with_resource(uri, resource).resolver(uri)
        self.root = self.schema(document, Schema(None, resolver, ""))

    def shapes(self, formula: Formula, tracked: bool = False) -> tuple[Shape, ...]:
        """Shapes that cover every value for which the formula holds; they may overlap. `tracked`:
        with what was `seen`.
        """
        key = formula, tracked
        if key not in self._known:
            found = self._found(formula, tracked)
            self._known[key] = tuple(dict.fromkeys(found if tracked else map(without_notes, found)))
        return self._known[key]

    def path(self, formula: Formula) -> str:
        """The path of the formula's first schema."""
        if isinstance(formula, Claim):
            claim = self._claims[formula.number]
            return claim.path or "(root)" if isinstance(claim, Schema) else ""
        return next(filter(None, map(self.path, formula.of)), "")

    def is_empty(self, formula: Formula) -> bool:
        """Whether it is easy to see that nothing fits."""
        try:
            return all(self._is_empty(shape) for shape in self.shapes(formula))
        except Endless:
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
                self.spend(1)
                common = meet(left, right)
                if isinstance(common, String) and common.only is not None:
                    common = self._listed(common)
                if common is not None:
                    met.append(common)
        return met

    def spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise BackendUnsupported(
                f"the schema has more than {MAX_WORK} combinations of alternatives", hint="fewer or simpler anyOf, oneOf, not and if"
            )

    def _listed(self, shape: String) -> String | None:
        """The same without the values that the other limits exclude."""
        only = tuple(text for text in shape.only or () if text not in shape.never and self._fits(text, shape))
        return String(only=only, refused=shape.refused) if only else None

    def _fits(self, text: str, shape: String) -> bool:
        if not shape.shortest <= len(text) <= (len(text) if shape.longest is None else shape.longest):
            return False
        return all(ecma.matches(p, text) for p in shape.patterns) and not any(ecma.matches(p, text) for p in shape.not_patterns)

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
            raise Endless(
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

    def _held(self, schema: Schema, tracked: bool) -> Iterable[Shape]:
        content = schema.content
        late = [] if isinstance(content, bool) else [key for key in ("unevaluatedProperties", "unevaluatedItems") if key in content]
        met: Iterable[Shape] = UNIVERSE
        for formula in self._read(schema):
            met = self.meets(met, self.shapes(formula, tracked or bool(late)))
        for key in late:
            rest = self.schema(content[key], schema, key)
            met = [self._unevaluated(shape, key, rest) for shape in met]
        return met

    def _failed(self, schema: Schema) -> Iterable[Shape]:
        found: list[Shape] = []
        for formula in self._read(schema):
            found += self.shapes(opposite(formula))
        for key, shape in ("unevaluatedProperties", Object()), ("unevaluatedItems", Array()):
            if not isinstance(schema.content, bool) and schema.content.get(key, True) is not True:
                found.append(replace(shape, refused=refusal(f"the opposite of `{key}`", schema.path)))
        return found

    def _unevaluated(self, shape: Shape, key: str, rest: Formula) -> Shape:
        if isinstance(shape, Object) and key == "unevaluatedProperties" and not shape.seen.everything:
            others = other_keys(self, shape.seen.names, shape.seen.patterns)
            return replace(shape, rules=(*shape.rules, (others, rest)), seen=replace(shape.seen, everything=True))
        if isinstance(shape, Array) and key == "unevaluatedItems" and not shape.seen.everything:
            later = either((rest, *shape.seen.items))
            limit = Array((TRUE,) * shape.seen.n_items, later, seen=Seen(everything=True))
            return next(iter(self.meets([shape], [limit])))
        return shape

    @property
    def any_text(self) -> Formula:
        return self.ground([String()], [shape for shape in UNIVERSE if shape.kind != "string"])

    def is_text(self, text: str) -> Formula:
        return both((self.any_text, self.limit(String(only=(text,)), String(never=(text,)))))

    def _read(self, schema: Schema) -> Iterator[Formula]:
        """The formulas that a schema is the conjunction of, in the order of its keywords."""
        content = schema.content
        if isinstance(content, bool):
            if not content:
                yield FALSE
            return
        for keyword, value in content.items():
            read = KEYWORDS.get(keyword)
            if read is not None:
                yield read(self, Keyword(keyword, value, schema))

    def schema(self, content: Any, above: Schema, *path: object) -> Formula:
        resolver = above.resolver.in_subresource(DRAFT202012.create_resource(content))
        return self.located(content, resolver, ".".join(filter(None, [above.path, *map(str, path)])))

    def located(self, content: Any, resolver: SchemaResolver, path: str) -> Formula:
        if content is True or content == {}:
            return TRUE
        if content is False:
            return FALSE
        scope = (uri for uri, _ in resolver.dynamic_scope())
        key = id(content), resolver._base_uri, tuple(dict.fromkeys(reversed(list(scope))))
        return self._claim(key, Schema(content, resolver, path))

    def _claim(self, key: object, claim: Schema | _Ground) -> Claim:
        if key not in self._numbers:
            self._numbers[key] = len(self._claims)
            self._claims.append(claim)
        return Claim(self._numbers[key])

    def ground(self, holds: Iterable[Shape], fails: Iterable[Shape]) -> Claim:
        ground = _Ground(tuple(holds), tuple(fails))
        return self._claim(ground, ground)

    def limit(self, holds: Shape, *fails: Shape) -> Claim:
        return self.ground([shape for shape in UNIVERSE if shape.kind != holds.kind] + [holds], fails)


def _metaschemas() -> SchemaRegistry:
    from jsonschema_specifications import REGISTRY

    return cast("SchemaRegistry", REGISTRY)
