"""JSON schemas for types, complete enough that every generated text is a value of the type.

pydantic provides most of a schema. The rest (the scheme of a URL, a date in the past, keys that an
int may be read from) is added here. Types that no text alone can satisfy (a file that exists) are
refused. pydantic is loaded by the first type.
"""

from __future__ import annotations

import calendar
import datetime
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.patterns import ecma
from ..contracts.patterns.formats import BASE64, BASE64_TEXT, CLOCK, DATE, DAYS, HOST, TAIL, ZONE

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
    from pydantic_core import core_schema

Core: TypeAlias = Mapping[str, Any]
"""a schema of pydantic's core: the values of its keywords have many types"""
_TEXT: dict[str, Json] = {"type": "string"}
_IPV4, _IPV6 = _TEXT | {"format": "ipv4"}, _TEXT | {"format": "ipv6"}
_NEAR = 150
"""years before or after a limit that a date with one limit may have"""
_MOST_SECONDS = 10**9
_FORMS: dict[str, dict[str, Json]] = {
    "ipvanyaddress": {"anyOf": [_IPV4, _IPV6]},
    "ipvanynetwork": {"anyOf": [_IPV4, _IPV6]},
    "ipvanyinterface": {"anyOf": [_IPV4, _IPV6]},
    "ipv4network": _IPV4,
    "ipv4interface": _IPV4,
    "ipv6network": _IPV6,
    "ipv6interface": _IPV6,
    "base64": {"type": "string", "pattern": f"^{BASE64}$"},
    "base64url": {"type": "string", "pattern": f"^{BASE64.replace('+/', '_-')}$"},
    "regex": {"type": "string", "pattern": "^[A-Za-z0-9 _]*$"},
    "path": _TEXT,
    "password": _TEXT,
    "binary": _TEXT,
}
"""pydantic's formats that are enforced"""
_MUST_EXIST = {"file-path": "a file that exists", "directory-path": "a folder that exists"}


def adapter(type_: object) -> TypeAdapter[object]:
    """The pydantic adapter of a type; BadArgument if it has none. Equal types share one."""
    try:
        hash(type_)
    except TypeError:
        return _new.__wrapped__(type_)
    return _new(type_)


@lru_cache(256)
def _new(type_: Any) -> TypeAdapter[object]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        made: TypeAdapter[object] = TypeAdapter(type_)
        made.json_schema()
    except (PydanticUserError, NameError, ImportError) as error:
        hint = "give a JSON schema, or a type that pydantic knows: a model, a dataclass, list[int], Literal[...]"
        raise BadArgument(f"{type_!r:.80} is not a type with a JSON schema: {str(error).splitlines()[0]}", hint=hint) from None
    return made


def schema(of: TypeAdapter[object]) -> Json:
    """The schema of an adapter, as enforced. BackendUnsupported for what no text alone can satisfy."""
    given: dict[str, Json] = of.json_schema(schema_generator=generator())
    return fitted(given)


@overload
def fitted(schema: dict[str, Json]) -> dict[str, Json]: ...
@overload
def fitted(schema: Json) -> Json: ...
def fitted(schema: Json) -> Json:
    """A schema of types, as enforced.

    Properties that the types do not know are forbidden, because a model could add them for ever.
    Items need not be different, unless several are required.
    """
    if isinstance(schema, list):
        return [fitted(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    ends: dict[str, Json] = {"additionalProperties": False} if "properties" in schema and schema.get("type") == "object" else {}
    found = ends | {key: fitted(value) if key not in ("const", "default", "enum", "examples") else value for key, value in schema.items()}
    if found.get("uniqueItems") is True and not (isinstance(least := found.get("minItems"), int) and least > 1):
        del found["uniqueItems"]
    if found.get("type") == "string":
        found = _enforced(found)
    return found


def _enforced(schema: dict[str, Json]) -> dict[str, Json]:
    """A string with its enforced keywords, and with a pattern that is equivalent in every dialect."""
    form = str(schema.get("format", ""))
    if form in _MUST_EXIST:
        raise BackendUnsupported(f"a type requires {_MUST_EXIST[form]}, which text alone cannot guarantee", hint="use str or pathlib.Path")
    if form in _FORMS:
        kept = {key: value for key, value in schema.items() if key not in ("format", "type")}
        schema = _FORMS[form] | kept
        if form == "base64url" and isinstance(pattern := kept.get("pattern"), str):
            schema["pattern"] = pattern.replace("+/", "_-").replace("+", "-")
        if form == "binary" and schema.keys() & {"minLength", "maxLength"}:
            schema["pattern"] = "^[ -~]*$"  # where a character is a byte
    if isinstance(pattern := schema.get("pattern"), str):
        try:
            schema["pattern"] = ecma.in_every_dialect(pattern)
        except ValueError as error:
            raise BackendUnsupported(f"the pattern of a type is not supported: {error}") from None
    return schema


@lru_cache(1)
def generator() -> type[GenerateJsonSchema]:
    """pydantic's own, with more details."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def decimal_schema(self, schema: Core) -> JsonSchemaValue:
            return _decimal(schema)

        def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
            found = super().dict_schema(schema)
            if "propertyNames" not in found and (keys := schema.get("keys_schema")):
                names = self.generate_inner(keys)
                if names.get("type") in ("integer", "number", "boolean"):
                    found["propertyNames"] = {"type": "string", "x-json": names}
            return found

        def json_schema(self, schema: Core) -> JsonSchemaValue:
            inner = schema.get("schema")
            return {"type": "string", "x-json": {} if inner is None else self.generate_inner(inner)}

        def url_schema(self, schema: Core) -> JsonSchemaValue:
            return {"type": "string", "pattern": _url(schema, needs_host=True)}

        def multi_host_url_schema(self, schema: Core) -> JsonSchemaValue:
            return {"type": "string", "pattern": _url(schema, needs_host=True)}

        def date_schema(self, schema: Core) -> JsonSchemaValue:
            return _dates(schema, "", "")

        def datetime_schema(self, schema: Core) -> JsonSchemaValue:
            bounds = [schema[key] for key in ("ge", "gt", "le", "lt") if schema.get(key) is not None]
            zone = schema.get("tz_constraint")
            is_naive = zone == "naive" or (zone is None and any(bound.tzinfo is None for bound in bounds))
            is_free = zone is None and not bounds and not schema.get("now_op")
            return _dates(schema, f"T{CLOCK}", "" if is_naive else ZONE if is_free or (zone == "aware" and not bounds) else "Z")

        def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
            given: Core = schema
            if any(given.get(key) is not None for key in ("ge", "gt", "le", "lt")):
                raise BackendUnsupported("a time between limits is not supported", hint="use a time without limits, or a datetime")
            return super().time_schema(schema)

        def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
            given: Core = schema
            limits = {key: given[key].total_seconds() for key in ("ge", "gt", "le", "lt") if given.get(key) is not None}
            if not limits:
                return super().timedelta_schema(schema)
            low = max([limits[key] for key in ("ge", "gt") if key in limits], default=-_MOST_SECONDS)
            high = min([limits[key] for key in ("le", "lt") if key in limits], default=_MOST_SECONDS)
            least = math.floor(low) + 1 if low == limits.get("gt") else math.ceil(low)
            most = math.ceil(high) - 1 if high == limits.get("lt") else math.floor(high)
            return {"type": "integer", "minimum": least, "maximum": most}  # seconds

        def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
            found = super().str_schema(schema)
            if schema.get("strip_whitespace") and (schema.get("min_length") or "pattern" in found):
                found = {"allOf": [found, {"type": "string", "pattern": r"^\S([\s\S]*\S)?$"}]}
            return found

        def complex_schema(self, schema: Core) -> JsonSchemaValue:
            return {"type": "string", "pattern": "^-?[0-9]{1,9}(\\.[0-9]{1,9})?([+-][0-9]{1,9}(\\.[0-9]{1,9})?j)?$"}

        def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> JsonSchemaValue:
            name = _check(schema)
            if name.startswith("EncodedStr."):
                return {"type": "string", "pattern": f"^{BASE64_TEXT}$"}
            if name == "ByteSize._validate":
                return {"type": "integer", "minimum": 0, "maximum": 10**15}
            return super().function_after_schema(schema)

        def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> JsonSchemaValue:
            _check(schema)
            return super().function_plain_schema(schema)

    return Generator


_REFUSED = {"PathType.validate_file": "a file that exists", "PathType.validate_directory": "a folder that exists"}
_REFUSED |= {"PathType.validate_new": "a file that does not exist yet"}


def _check(schema: Core) -> str:
    """The name of its function."""
    name = getattr(schema["function"]["function"], "__qualname__", "")
    if name in _REFUSED:
        raise BackendUnsupported(f"a type requires {_REFUSED[name]}, which text alone cannot guarantee", hint="use str")
    return str(name)


def _decimal(schema: Core) -> dict[str, Json]:
    """A number in digits, counted as the type does."""
    found: dict[str, Json] = {"type": "number"}
    for key, keyword in ("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum"), ("lt", "exclusiveMaximum"):
        if schema.get(key) is not None:
            found[keyword] = _number(schema[key])
    every = [] if schema.get("multiple_of") is None else [_number(schema["multiple_of"])]
    most, places = schema.get("max_digits"), schema.get("decimal_places")
    if most is not None and places is None:
        places = min(2, most - 1)
    if places is not None:
        every.append(_number(Decimal(1).scaleb(-places)))
    limits: list[Json] = [{"multipleOf": each} for each in every]
    if most is not None:
        size = _number(Decimal(10) ** (most - (places or 0)))
        limits.append({"exclusiveMinimum": -size, "exclusiveMaximum": size})
    return found | ({"allOf": limits} if limits else {})


def _number(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)


def _url(schema: Core, *, needs_host: bool) -> str:
    names = schema.get("allowed_schemes") or ["http", "https"]
    scheme = "|".join(name.replace("+", "\\+").replace(".", "\\.") for name in names)
    if set(names) == {"file"}:
        return "^file:///[a-z0-9_.]{1,30}(/[a-z0-9_.]{1,30}){0,5}$"
    if set(names) & {"http", "https", "ws", "wss", "ftp"}:
        return rf"^({scheme})://{HOST}\.[A-Za-z]{{2,8}}(:[1-9][0-9]{{0,3}})?{TAIL}$"
    return rf"^({scheme})://([a-z][a-z0-9_]{{0,20}}@)?{HOST}\.[A-Za-z]{{2,8}}(:[1-9][0-9]{{0,3}})?/[a-z0-9]{{1,30}}$"


def _dates(schema: Core, clock: str, zone: str) -> dict[str, Json]:
    """Dates and times between limits: complete days between them, and complete years if there are
    any.
    """
    today = datetime.datetime.now(datetime.UTC).date()
    low = [_day(schema[key]) for key in ("ge", "gt") if schema.get(key) is not None]
    high = [_day(schema[key]) for key in ("le", "lt") if schema.get(key) is not None]
    if schema.get("now_op") == "past":
        high.append(today)
    elif schema.get("now_op") == "future":
        low.append(today)
    if not low and not high:
        if clock and zone != ZONE:
            return _matched(DATE + clock + zone)
        return {"type": "string", "format": "date-time" if clock else "date"}
    if clock or schema.get("gt") is not None or schema.get("now_op"):
        low = [day + datetime.timedelta(1) for day in low]
    if clock or schema.get("lt") is not None or schema.get("now_op"):
        high = [day - datetime.timedelta(1) for day in high]
    first = max(low) if low else datetime.date(max(1, min(high).year - _NEAR), 1, 1)
    last = min(high) if high else datetime.date(min(9999, first.year + _NEAR), 12, 31)
    if first > last:
        raise BadArgument("no date is between the limits of a type")
    if clock:
        return _matched(f"({'|'.join(_between(first, last))}){clock}{zone}")
    return _matched("|".join(_between(first, last)))


def _matched(pattern: str) -> dict[str, Json]:
    return {"type": "string", "pattern": f"^({pattern})$"}


def _between(first: datetime.date, last: datetime.date) -> Iterable[str]:
    """Patterns for the days from one to the other, grouped into complete years, months or days."""
    day, after = first, datetime.timedelta(1)
    years: list[int] = []
    while day <= last:
        december = datetime.date(day.year, 12, 31)
        month_end = december if day.month == 12 else datetime.date(day.year, day.month + 1, 1) - after
        if (day.month, day.day) == (1, 1) and december <= last:
            years.append(day.year)
            end = december
        elif day.day == 1 and month_end <= last:
            thirty = f"|3[0-{month_end.day - 30}]" if month_end.day >= 30 else ""
            yield f"{day.year:04}-{day.month:02}-(0[1-9]|1[0-9]|2[0-{min(9, month_end.day - 20)}]{thirty})"
            end = month_end
        else:
            yield day.isoformat()
            end = day
        if end == datetime.date.max:
            break
        day = end + after
    if years:
        yield f"({'|'.join(f'{year:04}' for year in years)})-({DAYS})"
    if leap := [f"{year:04}" for year in years if calendar.isleap(year)]:
        yield f"({'|'.join(leap)})-02-29"


def _day(bound: datetime.date) -> datetime.date:
    return bound.date() if isinstance(bound, datetime.datetime) else bound
