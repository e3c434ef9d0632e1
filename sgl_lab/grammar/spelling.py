"""Shapes to a Lark grammar: the texts that `json.dumps` writes for them, with keys in the order of
the schema.

The same is also returned as trees, so that the shortest completion of a text is known.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.patterns import ecma
from ..contracts.patterns.formats import of_format
from ..contracts.patterns.tree import Chain, Chars, Choice, Many, Named, Node, Such, Text, chain, choice, for_library, has_limits
from .limits import MAX_RULES
from .numbers import ANY_INTEGER, ANY_NUMBER, between
from .reading import Reading
from .search import is_possible
from .shapes import FALSE, TRUE, UNIVERSE, Array, Fixed, Formula, Holding, Number, Object, Shape, String, both, opposite
from .strings import CHARACTER, QUOTE, quoted, string

MAX_LEAVES = 500  # kinds of numbers and strings
MAX_MULTIPLE = 10**6
_EXACT = 1 << 53  # beyond it, neighbouring whole numbers are the same float
_MAX_DISTINCT = 8  # values that items may have under `uniqueItems`
_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_BROKEN = chain([ANY_INTEGER, Text("."), Many(Chars(((48, 57),))), Chars(((49, 57),)), Many(Chars(((48, 57),)))])
"""a number that is not whole"""
_SCALAR = choice([Text("null"), Text("true"), Text("false"), ANY_NUMBER, string()])
_MAX_INLINE = 24  # rules within one another in JSON that is text


@dataclass(frozen=True)
class _Use:
    """A rule, so many times."""

    rule: str
    fewest: int = 1
    most: int | None = 1

    def __str__(self) -> str:
        return self.rule if self.fewest == self.most == 1 else f"{self.rule}{{{self.fewest},{'' if self.most is None else self.most}}}"


_Line = tuple[str | _Use, ...]


class Spelled(NamedTuple):
    """A grammar of the library, and the same as trees."""

    grammar: str
    tree: Node
    rules: Mapping[str, Node]


class Speller:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._rules: dict[str, list[_Line]] = {}
        self._terminals: dict[str, str] = {}
        self._trees: dict[str, Node] = {}
        """of terminals, by name, and of the library's own spellings, by their text"""
        self._named: dict[object, str] = {}
        self._n_leaves = 0
        self._path = ""  # of what is being spelled
        self._unwritten: list[tuple[str, Callable[[], Iterable[_Line]]]] = []

    def grammar(self) -> Spelled:
        return self.spell(self._reading.root)

    def spell(self, formula: Formula) -> Spelled:
        start = self._value(formula)
        while self._unwritten:
            name, lines = self._unwritten.pop()
            self._rules[name] = list(lines())
        made = self._productive()
        if start not in made:
            raise BadArgument("nothing can satisfy the schema", hint="no text of finite length fits it")
        reached, waiting = {start}, [start]
        while waiting:
            for use in (symbol for line in made[waiting.pop()] for symbol in line if isinstance(symbol, _Use)):
                if use.rule not in reached:
                    reached.add(use.rule)
                    waiting.append(use.rule)
        text = [f"start: {start}"]
        text += [f"{name}: " + " | ".join(" ".join(map(str, line)) or '""' for line in made[name]) for name in made if name in reached]
        text += [f"{name}: {terminal}" for terminal, name in self._terminals.items()]
        rules = {name: choice(chain(map(self._tree, line)) for line in made[name]) for name in made if name in reached}
        return Spelled("%llguidance {}\n" + "\n".join(text) + "\n", Named(start), rules)

    def _tree(self, symbol: str | _Use) -> Node:
        if isinstance(symbol, str):
            return Text(json.loads(symbol)) if symbol.startswith('"') else self._trees[symbol]
        rule = Named(symbol.rule)
        return rule if symbol.fewest == symbol.most == 1 else Many(rule, symbol.fewest, symbol.most)

    def _productive(self) -> dict[str, list[_Line]]:
        """The rules that end, without the alternatives that do not."""
        ends: set[str] = set()
        n_before = -1
        while n_before < len(ends):
            n_before = len(ends)
            for name in reversed(self._rules):  # what follows was named later: most of it takes one round
                if any(all(isinstance(s, str) or s.fewest == 0 or s.rule in ends for s in line) for line in self._rules[name]):
                    ends.add(name)
        made = {}
        for name in self._rules:
            if name in ends:
                lines = [tuple(s for s in line if isinstance(s, str) or s.fewest or s.rule in ends) for line in self._rules[name]]
                made[name] = [line for line in dict.fromkeys(lines) if all(isinstance(s, str) or s.rule in ends for s in line)]
        return made

    def _rule(self, key: object, lines: Callable[[], Iterable[_Line]]) -> str:
        """The rule of that meaning. It is named here and written later, because it may be
        recursive.
        """
        if key not in self._named:
            if len(self._named) >= MAX_RULES:
                raise BackendUnsupported(
                    f"the schema needs more than {MAX_RULES} rules of grammar", hint="fewer properties, or smaller counts"
                )
            name = self._named[key] = f"r{len(self._named)}"
            self._unwritten.append((name, lines))
        return self._named[key]

    def _leaf(self, schema: dict[str, object], tree: Node) -> str:
        """Spelled by the library itself."""
        text = "%json " + json.dumps({**schema, "x-guidance": _OPTIONS}, ensure_ascii=False)
        self._trees[text] = tree
        possible = text in self._named or self._is_possible(text)
        return self._rule(text, lambda: [(text,)] if possible else [])

    def _count_leaf(self) -> None:
        self._n_leaves += 1
        if self._n_leaves > MAX_LEAVES:
            raise BackendUnsupported(f"the schema has more than {MAX_LEAVES} kinds of strings and numbers", hint="make more of them alike")

    def _is_possible(self, terminal: str) -> bool:
        self._count_leaf()
        return is_possible(terminal, self._path)

    def _terminal(self, text: str, tree: Node) -> str:
        if text not in self._terminals:
            self._terminals[text] = f"T{len(self._terminals)}"
            self._trees[self._terminals[text]] = tree
        return self._terminals[text]

    def _limited(self, tree: Node, is_wide: bool = True) -> Iterable[_Line]:
        """A number. `is_wide`: there surely is one."""
        self._count_leaf()
        limits = tree.all_of if isinstance(tree, Such) else (tree,)
        text = " & ".join(f"/{for_library(limit)}/" for limit in limits)
        return [(self._terminal(text, tree),)] if text in self._terminals or is_wide or self._is_possible(text) else []

    def _value(self, formula: Formula) -> str:
        shapes = self._reading.shapes(formula)
        if set(shapes) >= set(UNIVERSE):
            formula, shapes = TRUE, UNIVERSE

        def lines() -> Iterable[_Line]:
            self._path = self._reading.path(formula)
            return itertools.chain(*map(self._lines, shapes))

        return self._rule(formula, lines)

    def _lines(self, shape: Shape) -> Iterable[_Line]:
        if shape.refused:
            raise BackendUnsupported(shape.refused, hint="say it without `not`, `oneOf` or `if`")
        if isinstance(shape, Fixed):
            return [(_quoted(shape.kind),)]
        if isinstance(shape, Number):
            return self._number(shape)
        if isinstance(shape, String):
            return self._string(shape)
        if isinstance(shape, Array):
            return self._array(shape)
        return self._object(shape)

    # -- numbers and strings

    def _number(self, number: Number) -> Iterable[_Line]:
        low, high = number.low, number.high
        if low is not None and low == high:
            return [(_quoted(json.dumps(int(low) if low == int(low) and abs(low) < _EXACT else low)),)]
        if number.whole is False:
            if low is not None or high is not None or number.multiples:
                raise BackendUnsupported(f"`not` of type integer at {self._path} beside limits is not supported", hint="limits alone")
            return [(self._terminal(f"/{for_library(_BROKEN)}/", _BROKEN),)]
        if number.whole:
            if any(bound is not None and abs(bound) > _EXACT for bound in (low, high)):
                raise BackendUnsupported(f"`minimum` or `maximum` at {self._path} beyond 2**53 is not supported", hint="leave it out")
            low = None if low is None else math.floor(low) + 1 if number.above else math.ceil(low)
            high = None if high is None else math.ceil(high) - 1 if number.below else math.floor(high)
            if low is not None and high is not None and low > high:
                return []
            number = replace(number, low=low, high=high, above=False, below=False)
        if not number.multiples:
            if low is None and high is None:
                return self._limited(ANY_INTEGER if number.whole else ANY_NUMBER)
            bounds = [None if bound is None else Decimal(str(bound)) for bound in (low, high)]
            is_wide = bool(number.whole) or low is None or high is None or high - low > 1e-6 * max(abs(low), abs(high))
            return self._limited(between(bounds[0], number.above, bounds[1], number.below, bool(number.whole)), is_wide)
        schema: dict[str, object] = {"type": "integer" if number.whole else "number"}
        if low is not None:
            schema["exclusiveMinimum" if number.above else "minimum"] = low
        if high is not None:
            schema["exclusiveMaximum" if number.below else "maximum"] = high
        schema["multipleOf"] = _common_multiple(number.multiples, self._path)
        return [(_Use(self._leaf(schema, ANY_INTEGER if number.whole else ANY_NUMBER)),)]

    def _string(self, text: String) -> Iterable[_Line]:
        if text.only is not None:
            return [(self._terminal(" | ".join(map(_quoted_json, text.only)), choice(Text(_json(each)) for each in text.only)),)]
        limits = [quoted(ecma.read(pattern)) for pattern in text.patterns] + [quoted(of_format(name)) for name in text.formats]
        for formula in text.spelling:
            inner = self._spelled(formula)
            limits += map(quoted, inner.all_of if isinstance(inner, Such) else [inner])
        never = [quoted(ecma.read(pattern)) for pattern in text.not_patterns]
        if not (limits or never or text.never):
            schema: dict[str, object] = {"type": "string"}
            if text.shortest:
                schema["minLength"] = text.shortest
            if text.longest is not None:
                schema["maxLength"] = text.longest
            return [(_Use(self._leaf(schema, string(text.shortest, text.longest))),)]
        if text.shortest or text.longest is not None or not limits:
            limits.append(Many(CHARACTER, text.shortest, text.longest))
        parts = [f"/{for_library(limit)}/" for limit in limits] + [f"~/{for_library(limit)}/" for limit in never]
        parts += [f"~({' | '.join(_quoted(_json(each)[1:-1]) for each in text.never)})"] if text.never else []
        never += [choice(Text(_json(each)[1:-1]) for each in text.never)] if text.never else []
        spelled = f'"\\"" ({" & ".join(parts)}) "\\""'
        tree = chain([QUOTE, limits[0] if len(limits) == 1 and not never else Such(tuple(limits), tuple(never)), QUOTE])
        return [(self._terminal(spelled, tree),)] if spelled in self._terminals or self._is_possible(spelled) else []

    def _spelled(self, formula: Formula) -> Node:
        """The JSON texts of a value, as one tree without rules."""
        inner = Speller(self._reading)
        path = self._path
        spelled = inner.spell(formula)
        anything = inner._named.get(TRUE)

        def whole(node: Node, within: frozenset[str]) -> Node:
            match node:
                case Named(rule) if rule == anything:
                    return _SCALAR
                case Named(rule) if rule in within or len(within) > _MAX_INLINE:
                    raise BackendUnsupported(f"JSON as text at {path} that contains itself is not supported", hint="a simpler type")
                case Named(rule):
                    return whole(spelled.rules[rule], within | {rule})
                case Chain(of):
                    return chain(whole(part, within) for part in of)
                case Choice(of):
                    return choice(whole(part, within) for part in of)
                case Many(what, fewest, most):
                    return Many(whole(what, within), fewest, most)
            return node

        found = whole(spelled.tree, frozenset())
        limits = found.all_of if isinstance(found, Such) and not found.none_of else (found,)
        if "multipleOf" in spelled.grammar or any(map(has_limits, limits)):
            raise BackendUnsupported(f"JSON as text at {path} with limits inside is not supported", hint="limits of one number, or none")
        return found

    # -- arrays

    def _array(self, array: Array) -> Iterable[_Line]:
        if array.distinct and (array.longest is None or array.longest > 1):
            return [(_quoted("["), _Use(self._distinct(array, 0, frozenset())))]
        if array.holding:
            return [(_quoted("["), _Use(self._counted(array, 0, (0,) * len(array.holding))))]
        return [(_quoted("["), _Use(self._rest(array, 0)))]

    def _rest(self, array: Array, index: int) -> str:
        def lines() -> Iterable[_Line]:
            if index >= array.shortest:
                yield (_quoted("]"),)
            if array.longest is not None and index >= array.longest:
                return
            if index < len(array.prefix) or index == 0:
                yield self._item(array, index, array.at(index), self._rest(array, index + 1))
            elif array.items != FALSE:
                more = self._rule(("more", array.items), lambda: [self._separated(", ", self._value(array.items))])
                most = None if array.longest is None else array.longest - index
                yield _Use(more, max(array.shortest - index, 1), most), _quoted("]")

        return self._rule(("rest", array, index), lines)

    def _separated(self, *symbols: str) -> _Line:
        return tuple(_quoted(s) if not s.startswith("r") else _Use(s) for s in symbols)

    def _item(self, array: Array, index: int, what: Formula, then: str) -> _Line:
        item = (_Use(self._value(what)), _Use(then))
        return item if index == 0 else (_quoted(", "), *item)

    def _counted(self, array: Array, index: int, counts: tuple[int, ...]) -> str:
        """What may follow `index` items, of which so many satisfied each `contains`."""
        last = max(len(array.prefix), array.shortest, array.longest or 0, 1, *(h.start for h in array.holding))

        def lines() -> Iterable[_Line]:
            if index >= array.shortest and all(count >= h.fewest for count, h in zip(counts, array.holding, strict=True)):
                yield (_quoted("]"),)
            if array.longest is not None and index >= array.longest:
                return
            choices = [self._choices(h, index, count) for h, count in zip(array.holding, counts, strict=True)]
            for chosen in itertools.product(*choices):
                what = both([array.at(index), *(formula for formula, _ in chosen)])
                yield self._item(array, index, what, self._counted(array, min(index + 1, last), tuple(count for _, count in chosen)))

        return self._rule(("counted", array, index, counts), lines)

    def _choices(self, holding: Holding, index: int, count: int) -> list[tuple[Formula, int]]:
        """An item that is counted, or not. An item that satisfies the schema and is not counted
        does no harm if only the minimum matters.
        """
        if index < holding.start:
            return [(TRUE, count)]
        if holding.most is None:
            return [(TRUE, count)] + ([(holding.what, count + 1)] if count < holding.fewest else [])
        counted = [(holding.what if holding.fewest else TRUE, count + 1)] if count < holding.most else []
        return [(opposite(holding.what), count), *counted]

    def _distinct(self, array: Array, index: int, used: frozenset[str]) -> str:
        """What may follow these `index` items: each is one of a few values, and none repeats."""

        def lines() -> Iterable[_Line]:
            if index >= array.shortest:
                yield (_quoted("]"),)
            if array.longest is not None and index >= array.longest:
                return
            for text in self._values(array, index):
                if text not in used:
                    then = _Use(self._distinct(array, index + 1, used | {text}))
                    yield (_quoted(text), then) if index == 0 else (_quoted(", "), _quoted(text), then)

        if array.holding:
            raise BackendUnsupported(f"`contains` beside `uniqueItems` at {array.distinct} is not supported")
        return self._rule(("distinct", array, index, used), lines)

    def _values(self, array: Array, index: int) -> list[str]:
        texts: list[str] = []
        for shape in self._reading.shapes(array.at(index)):
            values = _values_of(shape)
            if values is None or len(texts) > _MAX_DISTINCT:
                raise BackendUnsupported(
                    f"`uniqueItems` at {array.distinct} is not supported unless items are one of at most {_MAX_DISTINCT} values",
                    hint="use an enum, or maxItems 1",
                )
            texts += values
        return list(dict.fromkeys(texts))

    # -- objects

    def _object(self, shape: Object) -> Iterable[_Line]:
        named = _Named(self._reading, shape)
        if named.open_keys and shape.fewest > len(shape.required) + 1:
            raise BackendUnsupported(
                f"`minProperties` at {shape.min_path} over keys of any name is not supported: a key that comes twice would count twice",
                hint="name the properties and set additionalProperties to false",
            )
        return [(_quoted("{"), _Use(self._pairs(shape, named, 0, 0, frozenset(range(len(shape.some))))))]

    def _pairs(self, shape: Object, named: _Named, index: int, count: int, missing: frozenset[int]) -> str:
        """What may follow `count` pairs, with names from `index` on still to come and these `some`
        still to be satisfied.
        """
        cap = max(1, shape.fewest, 0 if shape.most is None else shape.most)

        def after(key: str | _Use, value: Formula, then: str) -> _Line:
            pair = key, _quoted(": "), _Use(self._value(value)), _Use(then)
            return pair if count == 0 else (_quoted(", "), *pair)

        def lines() -> Iterable[_Line]:
            full = shape.most is not None and count >= shape.most
            if index < len(named.names):
                name, value, met = named.names[index]
                if value != FALSE and not full:
                    then = self._pairs(shape, named, index + 1, min(count + 1, cap), missing - met)
                    yield after(_quoted_json(name), value, then)
                if name not in named.required:
                    yield (_Use(self._pairs(shape, named, index + 1, count, missing)),)
                return
            if count >= shape.fewest and not missing:
                yield (_quoted("}"),)
            if not full:
                for keys, value, met in named.open_keys:
                    then = self._pairs(shape, named, index, min(count + 1, cap), missing - met)
                    for line in itertools.chain(*(self._string(key) for key in keys)):
                        yield after(line[0], value, then)

        return self._rule((named, index, count, missing), lines)


class _Named:
    """The possible keys of an object: the named ones, in order, and kinds of other keys, with the
    shapes of their values.
    """

    def __init__(self, reading: Reading, shape: Object) -> None:
        by_name = dict(shape.names)
        self.required = frozenset(shape.required)
        names = list(dict.fromkeys((*by_name, *shape.required)))
        kinds = self._kinds(reading, shape, (*shape.rules, *((key, TRUE) for key in shape.some)))
        names += [text for keys, _, _ in kinds for key in keys for text in key.only or () if text not in names]
        # The text of a key is its name here, so requirements on a key apply to that text.
        self.names: list[tuple[str, Formula, frozenset[int]]] = []
        for name in dict.fromkeys(names):
            is_name = reading.is_text(name) if shape.rules or shape.some else TRUE
            value = both([by_name.get(name, TRUE), *(v for k, v in shape.rules if reading.shapes(both((is_name, k))))])
            met = frozenset(i for i, key in enumerate(shape.some) if reading.shapes(both((is_name, key))))
            self.names.append((name, value, met))
        listed = tuple(dict.fromkeys(names))
        self.open_keys: list[tuple[list[String], Formula, frozenset[int]]] = []
        for keys, value, met in kinds:
            rest = [replace(key, never=tuple(dict.fromkeys(key.never + listed))) for key in keys if key.only is None]
            if rest and not reading.is_empty(value):
                self.open_keys.append((rest, value, met))

    def _kinds(
        self, reading: Reading, shape: Object, rules: Sequence[tuple[Formula, Formula]]
    ) -> list[tuple[list[String], Formula, frozenset[int]]]:
        found: list[tuple[list[String], Formula, frozenset[int]]] = []
        waiting: list[tuple[int, Formula, tuple[Formula, ...], frozenset[int]]] = [(0, reading.any_text, (), frozenset())]
        while waiting:
            depth, key, values, met = waiting.pop()
            texts = [text for text in reading.shapes(key) if isinstance(text, String)]
            if not texts:
                continue
            if depth == len(rules):
                found.append((texts, both(values), met))
                continue
            test, value = rules[depth]
            some = frozenset({depth - len(shape.rules)}) if depth >= len(shape.rules) else frozenset()
            waiting.append((depth + 1, both((key, opposite(test))), values, met))
            waiting.append((depth + 1, both((key, test)), (*values, value), met | some))
        return found


def _common_multiple(multiples: Iterable[float], path: str) -> float:
    every = [Decimal(str(multiple)) for multiple in multiples]
    unit = Decimal(1).scaleb(min(0, *(int(multiple.as_tuple().exponent) for multiple in every)))
    common = math.lcm(*(int(multiple / unit) for multiple in every))
    if common > MAX_MULTIPLE:
        raise BackendUnsupported(f"`multipleOf` at {path} is {common} units of {unit}, more than {MAX_MULTIPLE}", hint="fewer digits")
    return float(common * unit) if unit < 1 else common


def _values_of(shape: Shape) -> list[str] | None:
    """The texts of its values, if they are few."""
    if isinstance(shape, Fixed):
        return [shape.kind]
    if isinstance(shape, String) and shape.only is not None:
        return [json.dumps(text, ensure_ascii=False) for text in shape.only]
    if isinstance(shape, Number) and shape.low is not None and shape.low == shape.high:
        return [json.dumps(shape.low)]
    return None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quoted_json(text: str) -> str:
    return _quoted(_json(text))
