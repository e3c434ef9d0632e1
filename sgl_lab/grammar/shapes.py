"""The meaning of a JSON schema as unions of shapes: sets of JSON values that a grammar can spell.

A formula combines schemas; its atoms are numbers that `reading.py` resolves. A shape is the set of
values of one kind within some limits; the intersection of two shapes is one shape or empty. The
content of an array or an object remains a formula, so that a schema may be recursive. Knows neither
keywords nor grammars.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

from ..contracts.json_schema import is_multiple

T = TypeVar("T")
Kind = Literal["null", "false", "true", "number", "string", "array", "object"]


@dataclass(frozen=True)
class Claim:
    """The schema of that number holds, or fails."""

    number: int
    holds: bool = True


@dataclass(frozen=True)
class All:
    of: tuple[Formula, ...] = ()


@dataclass(frozen=True)
class Either:
    of: tuple[Formula, ...] = ()


Formula: TypeAlias = Claim | All | Either
TRUE = All()
FALSE = Either()


def both(formulas: Iterable[Formula]) -> Formula:
    flat = dict.fromkeys(part for formula in formulas for part in (formula.of if isinstance(formula, All) else (formula,)))
    if FALSE in flat or any(isinstance(part, Claim) and Claim(part.number, not part.holds) in flat for part in flat):
        return FALSE
    return next(iter(flat)) if len(flat) == 1 else All(tuple(flat))


def either(formulas: Iterable[Formula]) -> Formula:
    flat = dict.fromkeys(part for formula in formulas for part in (formula.of if isinstance(formula, Either) else (formula,)))
    return next(iter(flat)) if len(flat) == 1 else Either(tuple(flat))


def opposite(formula: Formula) -> Formula:
    if isinstance(formula, Claim):
        return Claim(formula.number, not formula.holds)
    parts = [opposite(part) for part in formula.of]
    return either(parts) if isinstance(formula, All) else both(parts)


@dataclass(frozen=True)
class Seen:
    """Properties and items that keywords have evaluated, for `unevaluatedProperties` and
    `unevaluatedItems`.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[Formula, ...] = ()
    n_items: int = 0
    items: tuple[Formula, ...] = ()
    everything: bool = False

    def and_also(self, other: Seen) -> Seen:
        return Seen(
            _union(self.names, other.names),
            _union(self.patterns, other.patterns),
            max(self.n_items, other.n_items),
            _union(self.items, other.items),
            self.everything or other.everything,
        )


@dataclass(frozen=True)
class Fixed:
    kind: Kind
    refused: str = ""


@dataclass(frozen=True)
class Number:
    low: float | None = None
    above: bool = False  # low itself is out
    high: float | None = None
    below: bool = False
    whole: bool | None = None  # None: either
    multiples: tuple[float, ...] = ()
    refused: str = ""
    kind: Kind = "number"


@dataclass(frozen=True)
class String:
    shortest: int = 0
    longest: int | None = None
    patterns: tuple[str, ...] = ()
    not_patterns: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()
    spelling: tuple[Formula, ...] = ()  # it is the JSON text of a value that is this
    refused: str = ""
    kind: Kind = "string"


@dataclass(frozen=True)
class Holding:
    """From item `start` on, at least `fewest` and at most `most` items are `what`."""

    start: int
    what: Formula
    fewest: int
    most: int | None = None


@dataclass(frozen=True)
class Array:
    prefix: tuple[Formula, ...] = ()
    items: Formula = TRUE
    shortest: int = 0
    longest: int | None = None
    holding: tuple[Holding, ...] = ()
    distinct: str = ""  # the path of the keyword that says so
    seen: Seen = Seen()
    refused: str = ""
    kind: Kind = "array"

    def at(self, index: int) -> Formula:
        return self.prefix[index] if index < len(self.prefix) else self.items


@dataclass(frozen=True)
class Object:
    names: tuple[tuple[str, Formula], ...] = ()
    rules: tuple[tuple[Formula, Formula], ...] = ()  # a key that is this has a value that is that
    required: tuple[str, ...] = ()
    fewest: int = 0
    most: int | None = None
    some: tuple[Formula, ...] = ()  # for each of them, there is a key that is it
    min_path: str = ""  # of the keyword that says `fewest`
    seen: Seen = Seen()
    refused: str = ""
    kind: Kind = "object"


Shape: TypeAlias = Fixed | Number | String | Array | Object
UNIVERSE: tuple[Shape, ...] = (Fixed("null"), Fixed("false"), Fixed("true"), Number(), String(), Array(), Object())


def meet(one: Shape, two: Shape) -> Shape | None:
    """The intersection; None if it is visibly empty. Whether a listed string matches a pattern is
    checked elsewhere.
    """
    if one.kind != two.kind:
        return None
    refused = one.refused or two.refused
    if isinstance(one, Number) and isinstance(two, Number):
        return _numbers(one, two, refused)
    if isinstance(one, String) and isinstance(two, String):
        return _strings(one, two, refused)
    if isinstance(one, Array) and isinstance(two, Array):
        return _arrays(one, two, refused)
    if isinstance(one, Object) and isinstance(two, Object):
        return _objects(one, two, refused)
    return Fixed(one.kind, refused)


def without_notes(shape: Shape) -> Shape:
    return replace(shape, seen=Seen()) if isinstance(shape, Array | Object) else shape


def _numbers(one: Number, two: Number, refused: str) -> Number | None:
    if one.whole is not None and two.whole is not None and one.whole != two.whole:
        return None
    low, above = max(((n.low, n.above) for n in (one, two) if n.low is not None), default=(None, False))
    high, below = min(((n.high, not n.below) for n in (one, two) if n.high is not None), default=(None, True))
    whole = two.whole if one.whole is None else one.whole
    number = Number(low, above, high, not below, whole, _union(one.multiples, two.multiples), refused)
    if low is None or high is None:
        return number
    if low > high or (low == high and (above or number.below or not _fits(low, number))):
        return None
    return number


def _fits(value: float, number: Number) -> bool:
    if number.whole is not None and number.whole != (value == int(value)):
        return False
    return all(is_multiple(value, multiple) for multiple in number.multiples)


def _strings(one: String, two: String, refused: str) -> String | None:
    only = one.only if two.only is None else two.only if one.only is None else tuple(text for text in one.only if text in set(two.only))
    string = String(
        max(one.shortest, two.shortest),
        _least(one.longest, two.longest),
        _union(one.patterns, two.patterns),
        _union(one.not_patterns, two.not_patterns),
        _union(one.formats, two.formats),
        only,
        _union(one.never, two.never),
        _union(one.spelling, two.spelling),
        refused,
    )
    if only == () or set(string.patterns) & set(string.not_patterns) or _crossed(string.shortest, string.longest):
        return None
    return string


def _arrays(one: Array, two: Array, refused: str) -> Array | None:
    array = Array(
        tuple(both((one.at(index), two.at(index))) for index in range(max(len(one.prefix), len(two.prefix)))),
        both((one.items, two.items)),
        max(one.shortest, two.shortest),
        _least(one.longest, two.longest),
        _union(one.holding, two.holding),
        one.distinct or two.distinct,
        one.seen.and_also(two.seen),
        refused,
    )
    return None if _crossed(array.shortest, array.longest) else array


def _objects(one: Object, two: Object, refused: str) -> Object | None:
    names = dict(one.names)
    for name, formula in two.names:
        names[name] = both((names.get(name, TRUE), formula))
    required = _union(one.required, two.required)
    fewest, most = max(one.fewest, two.fewest), _least(one.most, two.most)
    if any(names.get(name) == FALSE for name in required) or _crossed(max(fewest, len(required)), most):
        return None
    return Object(
        tuple(names.items()),
        _union(one.rules, two.rules),
        required,
        fewest,
        most,
        _union(one.some, two.some),
        one.min_path or two.min_path,
        one.seen.and_also(two.seen),
        refused,
    )


def _union(one: tuple[T, ...], two: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(one + two)) if one and two else one or two


def _least(one: int | None, two: int | None) -> int | None:
    return two if one is None else one if two is None else min(one, two)


def _crossed(least: int, most: int | None) -> bool:
    return most is not None and least > most
