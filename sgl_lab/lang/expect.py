"""`expect(value, ...)`: a named check of a value, recorded as an event and never in the program's way.

A check that fails, or that raises, is a result. The program goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..contracts.errors import BadArgument, EngineStopped, ProgramError, SglError, Stopped
from ..contracts.events import Checked
from ..contracts.ids import ForkId
from ..contracts.legible import clipped
from ..contracts.patterns.watching import pattern
from .form import in_a_line, of_schema
from .keywords import suggests
from .location import user_location
from .program import SglFunction
from .run import Run, current_run

MAX_TEXT = 2_000
"""characters of a value that a recorded check keeps"""
MAX_SEARCHED = 50_000
"""characters that a pattern is searched in"""
_NOT_GIVEN = object()
_FLAGS = re.compile(r"(?:\(\?[aimsux]+\))+")
"""flags of a whole pattern, which have to be at its beginning"""

Check = tuple[str, object, Callable[[], "Outcome"]]
"""kind, what is expected, and what finds out"""


class Outcome(NamedTuple):
    passed: bool | None
    message: str = ""
    judge: ForkId | None = None


@suggests
def expect(
    value: object,
    equals: object = _NOT_GIVEN,
    *,
    contains: str | Sequence[str] | None = None,
    regex: str | None = None,
    schema: object = None,
    that: Callable[..., object] | None = None,
    judge: SglFunction | None = None,
    name: str | None = None,
) -> bool:
    """Check a value inside a program, and record the outcome under a name. Returns whether it
    passes; False if the check itself raises.

    equals    the same value. Texts are compared without the white space around them, and a number
              with the text of a number as text
    contains  a text in it, or several
    regex     a pattern of Python's `re` that is found in it; `^` and `$` tie it to the ends
    schema    a JSON schema, or a type as for `gen(json_schema=...)`: of a JSON text or of a value
    that      a function of the value whose result is true
    judge     a program that returns True or False. Its first parameter is the value; others get the
              row's columns, or the program's arguments, of the same names

    Without any of these, the value itself has to be true. `name` is otherwise the name of the
    function or program, or the kind of the check. BadArgument for more than one of them.
    """
    run = current_run()
    if run is None:
        raise ProgramError("expect checks a value of a program, and none runs here", hint="call it in a %%sgl cell or in a program")
    if run.traced:  # a graph has no values yet, and checks are no part of it
        return True
    given: dict[str, object] = {"contains": contains, "regex": regex, "schema": schema, "that": that, "judge": judge}
    stated = [key for key, each in given.items() if each is not None]
    if equals is not _NOT_GIVEN:
        stated.insert(0, "equals")
    if len(stated) > 1:
        raise BadArgument(f"{' and '.join(f'{each}=' for each in stated)} cannot be combined", hint="write an expect for each")
    kind, expected, find_out = _check(value, equals, contains, regex, schema, that, judge, run)
    try:
        outcome = find_out()
    except (Stopped, EngineStopped):
        raise
    except Exception as error:
        outcome = Outcome(None, clipped(f"{type(error).__name__}: {in_a_line(error)}", 300))
    shown = "" if kind == "truth" else text_of(expected)
    line = user_location().line
    called = name or getattr(expected, "__name__", "") or kind if kind in ("predicate", "judge") else name or kind
    message = outcome.message
    run.emit(Checked(run.streams[0].id, str(called), kind, outcome.passed, text_of(value), shown, message, line, outcome.judge))
    return outcome.passed is True


def _check(value: object, equals: object, contains: object, regex: object, schema: object, that: object, judge: object, run: Run) -> Check:
    if equals is not _NOT_GIVEN:
        return "equals", equals, lambda: Outcome(_is_equal(value, equals))
    if contains is not None:
        return "contains", contains, lambda: _contains(value, contains)
    if regex is not None:
        return "regex", regex, lambda: _matches(value, regex)
    if schema is not None:
        return "schema", schema, lambda: _fits(value, schema)
    if that is not None:
        return "predicate", that, lambda: _holds(value, that)
    if judge is not None:
        return "judge", judge, lambda: _judged(value, judge, run)
    return "truth", True, lambda: Outcome(bool(value))


def text_of(value: object) -> str:
    """A value as text, as far as a record keeps it: a text as it is, a function's name."""
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, SglFunction) or callable(value):
        return str(getattr(value, "__name__", type(value).__name__))[:MAX_TEXT]
    try:
        return repr(value)[:MAX_TEXT]
    except Exception as error:
        return f"<{type(value).__name__}: its repr raises {type(error).__name__}>"


def _is_equal(value: object, equals: object) -> bool:
    if isinstance(value, str) and isinstance(equals, str):
        return value.strip() == equals.strip()
    if isinstance(value, str) and isinstance(equals, int | float):
        return value.strip() == str(equals)
    if isinstance(equals, str) and isinstance(value, int | float):
        return equals.strip() == str(value)
    return bool(value == equals)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadArgument(f"{what}= looks into text, and the value is {type(value).__name__}", hint="check str(value)")
    return value


def _contains(value: object, contains: object) -> Outcome:
    if isinstance(contains, str):
        return Outcome(contains in _text(value, "contains"))
    if not isinstance(contains, Sequence) or not all(isinstance(each, str) for each in contains):
        raise BadArgument(f"contains= takes a text or several, not {contains!r:.60}")
    missing = [each for each in contains if each not in _text(value, "contains")]
    return Outcome(not missing, f"it has no {clipped(missing[0], 60)!r}" if missing else "")


def _matches(value: object, regex: object) -> Outcome:
    if not isinstance(regex, str):
        raise BadArgument(f"regex= takes a pattern as text, not {regex!r:.60}")
    text = _text(value, "regex")
    if len(text) > MAX_SEARCHED:
        raise BadArgument(f"regex= looks into {MAX_SEARCHED:,} characters at most, and the value has {len(text):,}")
    pattern(regex)  # its own errors, without what is put around it
    flags = _FLAGS.match(regex)
    lead = flags[0] if flags else ""
    return Outcome(pattern(rf"{lead}(?s:.*?)(?:{regex[len(lead) :]})(?s:.*)").fullmatch(text))


def _fits(value: object, schema: object) -> Outcome:
    form = of_schema(schema)
    try:
        form.meaning(value if isinstance(value, str) else json.dumps(value))
    except SglError:
        raise
    except (ValueError, TypeError) as error:
        return Outcome(False, clipped(in_a_line(error), 300))
    return Outcome(True)


def _holds(value: object, that: object) -> Outcome:
    if not callable(that):
        raise BadArgument(f"that= takes a function of the value, not {that!r:.60}")
    if isinstance(that, SglFunction):
        raise BadArgument("that= takes a function, and this is a program", hint="write judge=")
    return Outcome(bool(that(value)))


def _judged(value: object, judge: object, run: Run) -> Outcome:
    if not isinstance(judge, SglFunction):
        raise BadArgument(
            f"judge= takes a program, not {judge!r:.60}", hint="write @function above it, or %%sgl --def; that= takes a function"
        )
    first, *others = judge.arg_names or ("",)
    if not first:
        raise BadArgument(f"the judge {judge.func.__name__} has no parameter for the value", hint="write a parameter after its state")
    known: Mapping[str, object] = run.arguments
    state = judge.run(value, **{each: known[each] for each in others if each in known})
    if not isinstance(state.ret_value, bool):
        returned = "nothing" if state.ret_value is None else repr(state.ret_value)[:60]
        raise BadArgument(f"the judge {judge.func.__name__} returns {returned}, not True or False")
    why = ""
    if not state.ret_value:
        with suppress(SglError):
            why = clipped(state.messages()[-1]["content"] if state.messages() else "", 200)
    return Outcome(state.ret_value, why, state._stream.id)
