"""The form of a gen's text: its constraint, and the meaning of a complete text.

A form is created, and refused, when `gen(...)` is called. The first form that needs pydantic loads
it. jsonschema is loaded by the first schema that is not plainly valid, or by the first value that
is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ..contracts.errors import BackendUnsupported, BadArgument, InvalidValue, UnfinishedValue
from ..contracts.json_schema import plainly_valid
from ..contracts.near import did_you_mean
from ..contracts.params import MAX_SOURCE, Constraint
from ..contracts.patterns import python
from ..contracts.tools import ToolSpec
from . import schemas, types

Meaning = Callable[[str], object]
"""the value of a complete text; ValueError if it is invalid"""


@dataclass(frozen=True)
class Form:
    """`stop_regex` ends a text that ends where something else begins, such as a number. `exact` is
    the constraint without that remainder.
    """

    constraint: Constraint
    meaning: Meaning = field(compare=False)
    stop_regex: tuple[str, ...] = ()
    exact: Constraint | None = None
    tools: tuple[ToolSpec, ...] = ()
    """tools of which the text is a call"""
    stated: tuple[str, str] | None = None
    """the argument of `gen` and its text that create an equal form; None if Python objects are part
    of it
    """

    def after(self, lead: str) -> Form:
        """The form of a text that follows a match of `lead`."""
        return Form(replace(self.exact or self.constraint, lead=lead), self.meaning, tools=self.tools, stated=self.stated)


def _limited(kind: str, source: str) -> str:
    if len(source) > MAX_SOURCE:
        raise BadArgument(f"the {kind} has {len(source)} characters, the limit is {MAX_SOURCE}")
    return source


def read(name: object, form: Form, text: str, meta: Mapping[str, object]) -> object:
    """The checked value of one sample. UnfinishedValue if the text ended before it was complete."""
    stop = meta["matched_stop"]
    if meta["is_complete"]:
        try:
            return form.meaning(text)
        except (ValueError, RecursionError) as error:
            if not isinstance(stop, str):
                satisfied = f"{name!r} is {text!r:.80}, which satisfies its {form.constraint.kind}"
                raise InvalidValue(f"{satisfied}, but the type rejects it: {in_a_line(error)}") from error
    n_tokens = f"after {meta['completion_tokens']} tokens"
    if meta["finish_reason"] == "length":
        why, hint = f"it ran out of tokens {n_tokens}", "raise max_tokens; the partial text is the error's .text"
    elif stop is not None:
        why, hint = f"it was ended by the stop {stop!r} {n_tokens}", "leave the stop out; the partial text is the error's .text"
    else:
        why, hint = f"it was stopped {n_tokens}", "the partial text is the error's .text"
    raise UnfinishedValue(f"{name!r} is incomplete: {why}", text=text, hint=hint)


def read_as(value: object, type_: object, name: object) -> object:
    """`value`, which may be text, as an instance of `type_`."""
    if isinstance(type_, type) and isinstance(value, type_):
        return value
    adapter = types.adapter(type_)
    if isinstance(value, str):
        try:
            return adapter.validate_json(value)
        except ValueError:
            pass  # it may be a word, such as an Enum's value
    try:
        return adapter.validate_python(value)
    except ValueError as error:
        raise InvalidValue(
            f"{name!r} is {value!r:.80}, which is not a valid {getattr(type_, '__name__', type_)}: {in_a_line(error)}"
        ) from error


def in_a_line(error: Exception) -> str:
    """The error's message on one line; pydantic uses several lines and a URL."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    found = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors(include_url=False, include_context=False)]
    return f"{'; '.join(f'{where}: {what}' if where else what for where, what in found):.300}"


# ---------------------------------------------------------------- regular expressions


def of_regex(pattern: object) -> Form:
    if not isinstance(pattern, str):
        raise BadArgument(f"regex must be a string, not {pattern!r}")
    try:
        python.read(_limited("regex", pattern))
    except BackendUnsupported as error:
        raise BadArgument(error.message, hint=error.hint) from None
    compiled = re.compile(pattern)

    def meaning(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"it does not match {pattern!r:.80}")
        return text

    return Form(Constraint("regex", pattern), meaning, stated=("regex", pattern))


# ---------------------------------------------------------------- JSON schemas


def of_schema(source: object) -> Form:
    """The form of a JSON text, a dict, or a type as pydantic understands types."""
    if isinstance(source, str):
        try:
            schema = json.loads(_limited("json_schema", source))
        except RecursionError:
            raise BadArgument("json_schema is nested too deeply") from None
        except json.JSONDecodeError as error:
            raise BadArgument(f"json_schema is not JSON: {error}") from None
    elif isinstance(source, Mapping | bool):
        schema = source
    else:
        return of_type(source)
    try:
        text = json.dumps(schemas.unwrapped(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgument(f"json_schema cannot be written as JSON: {error}") from None
    _limited("json_schema", text)
    try:
        if not plainly_valid(json.loads(text)):
            schemas.check_schema(text)
        document = json.loads(text)
        schemas.named(document)
        if (today := schemas.translated(document)) is not document:
            text = json.dumps(today)
    except RecursionError:
        raise BadArgument("json_schema is nested too deeply") from None
    return Form(Constraint("json_schema", text), partial(schemas.read_json, text), stated=("json_schema", text))


def of_type(type_: object) -> Form:
    adapter = types.adapter(type_)
    return Form(Constraint("json_schema", json.dumps(types.schema(adapter))), adapter.validate_json)


# ---------------------------------------------------------------- dtype, grammars


def _number(pattern: str, other: str, read_number: type[int] | type[float]) -> Form:
    """A number, followed by anything that cannot belong to it; the text is cut there.

    Without the remainder, a model that wants to continue with words would have to continue with
    digits.
    """

    def meaning(text: str) -> int | float:
        if not re.fullmatch(pattern, text):
            raise ValueError("it is not a number")
        return read_number(text)

    exact, stated = Constraint("regex", pattern), ("dtype", read_number.__name__)
    return Form(Constraint("regex", f"({pattern})({other}(?s:.)*)?"), meaning, (other,), exact, stated=stated)


def _boolean(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError("it is neither True nor False")
    return text == "True"


_STRING = '{"type": "string"}'
_PLAIN: dict[type, Form] = {
    int: _number(r"[-+]?[0-9]+", r"[^-+0-9]", int),
    float: _number(r"[-+]?[0-9]*\.?[0-9]+", r"[^-+.0-9]", float),
    bool: Form(Constraint("regex", "True|False"), _boolean, stated=("dtype", "bool")),
    str: Form(Constraint("json_schema", _STRING), partial(schemas.read_json, _STRING), stated=("dtype", "str")),
}
_NAMED = {type_.__name__: type_ for type_ in _PLAIN}


def of_dtype(dtype: object) -> Form:
    """int, float, bool (True or False) or str (in double quotes), or their names; or any type with
    a schema.
    """
    if isinstance(dtype, str):
        if dtype not in _NAMED:
            raise BadArgument(f"dtype {dtype!r} is unknown", hint=did_you_mean(dtype, _NAMED))
        dtype = _NAMED[dtype]
    return _PLAIN[dtype] if isinstance(dtype, type) and dtype in _PLAIN else of_type(dtype)


def of_grammar(grammar: object) -> Form:
    """A Lark grammar. The backend checks it when the gen is appended."""
    if not isinstance(grammar, str) or not grammar.strip():
        raise BadArgument(f"grammar must be the text of a Lark grammar, not {grammar!r:.80}")
    return Form(Constraint("grammar", _limited("grammar", grammar)), str, stated=("grammar", grammar))


FORMS: dict[str, Callable[[object], Form]] = {"dtype": of_dtype, "regex": of_regex, "json_schema": of_schema, "grammar": of_grammar}
"""by the argument of `gen` that states them"""
