"""`expect`: every kind of check, what it records, and that none of them ends a program."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument, ProgramError
from sgl_lab.contracts.events import Checked, Event, ForkOpened, from_json, to_json
from sgl_lab.lang.expect import MAX_TEXT

from .language import watchdog  # noqa: F401

Found = tuple[object, Checked]


def checked(body: Callable[..., object], backend: ScriptedBackend | None = None, **arguments: object) -> tuple[list[Checked], list[Event]]:
    """The checks that a program records, passed through JSON, and all events."""
    backend = backend or ScriptedBackend("yes")
    events: list[Event] = []
    backend.emit = events.append
    sgl.function(body).run(backend=backend, **arguments)
    return [from_json(to_json(event)) for event in events if isinstance(event, Checked)], events  # type: ignore[misc]


def one(value: object, *args: Any, **how: Any) -> tuple[bool, Checked]:
    returned: list[bool] = []
    (found,), _ = checked(lambda s: returned.append(sgl.expect(value, *args, **how)))
    assert returned == [found.passed is True]
    return returned[0], found


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "how", "passes"),
    [
        (" Paris\n", {"equals": "Paris"}, True),
        ("paris", {"equals": "Paris"}, False),
        ("42", {"equals": 42}, True),
        (42, {"equals": " 42"}, True),
        (True, {"equals": False}, False),
        (None, {"equals": None}, True),
        ([1, 2], {"equals": [1, 2]}, True),
        ("in Paris", {"contains": "Paris"}, True),
        ("in Paris", {"contains": ["Paris", "in"]}, True),
        ("in Paris", {"contains": ["Paris", "Rome"]}, False),
        ("the year 1912.", {"regex": r"\d{4}"}, True),
        ("42a", {"regex": r"^\d+$"}, False),
        ("42", {"regex": r"^\d+$"}, True),
        ("", {"regex": r"^$"}, True),
        ("in PARIS", {"regex": "(?i)paris$"}, True),
        ("a\nb", {"regex": "^b"}, False),
        ('{"x": 1}', {"schema": Point}, True),
        ('{"x": "one"}', {"schema": Point}, False),
        ({"x": 1}, {"schema": {"type": "object", "required": ["x"]}}, True),
        ({"y": 1}, {"schema": {"type": "object", "required": ["x"]}}, False),
        ("abc", {"that": str.isalpha}, True),
        ("a1c", {"that": str.isalpha}, False),
        ("x", {}, True),
        ("", {}, False),
    ],
)
def test_each_kind_passes_and_fails(value: object, how: dict[str, Any], passes: bool) -> None:
    assert one(value, **how)[1].passed is passes


def test_a_check_records_its_name_kind_line_and_texts() -> None:
    _, found = one("Lyon", "Paris")
    assert (found.name, found.kind, found.value, found.expected, found.message) == ("equals", "equals", "Lyon", "Paris", "")
    assert found.line > 30
    assert one("Lyon", equals="Paris", name="capital")[1].name == "capital"
    assert one("Lyon", that=str.isupper)[1].name == "isupper"
    assert one("in Rome", contains=["Rome", "Paris"])[1].message == "it has no 'Paris'"
    assert "$.x" in one('{"x": "a"}', schema={"properties": {"x": {"type": "integer"}}})[1].message
    assert len(one("x" * 9_999, "y" * 9_999)[1].value) == MAX_TEXT


class Unruly:
    def __repr__(self) -> str:
        raise ValueError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not\nnow")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "how", "words"),
    [
        (Unruly(), {"equals": 1}, "RuntimeError: not↵now"),
        (3, {"contains": "3"}, "looks into text, and the value is int"),
        ("x", {"contains": 3}, "takes a text or several"),
        ("x", {"regex": "("}, "is not a regular expression"),
        ("x" * 60_000, {"regex": "y"}, "50,000 characters at most"),
        ("x", {"schema": "{"}, "is not JSON"),
        ({1}, {"schema": {"type": "object"}}, ""),
        ("x", {"that": lambda value: value.nothing}, "AttributeError"),
        ("x", {"that": lambda: True}, "TypeError"),
        ("x", {"judge": str.isalpha}, "judge= takes a program"),
    ],
)
def test_a_check_that_raises_is_a_result_of_one_line(value: object, how: dict[str, Any], words: str) -> None:
    returned, found = one(value, **how)
    assert not returned
    assert found.passed is (None if words else False)
    assert words in found.message
    assert "\n" not in found.message


def test_a_pattern_that_backtracks_ends_in_bounded_time() -> None:
    begun = time.process_time()
    _, found = one("a" * 2_000 + "!", regex=r"(\w+\s?)+\w(?=#)")
    assert found.passed is not True
    assert time.process_time() - begun < 60


def test_a_judge_is_a_program_that_gets_the_arguments_that_it_names() -> None:
    seen: list[object] = []

    @sgl.function
    def good(s: Any, answer: str, question: str, strict: bool = False) -> bool:
        seen.append((answer, question, strict))
        s += sgl.user(f"{question} {answer} Right?") + sgl.assistant(sgl.gen("verdict"))
        return str(s["verdict"]) == "yes"

    def body(s: Any, question: str, other: int = 1) -> None:
        sgl.expect("Paris", judge=good)

    (found,), events = checked(body, ScriptedBackend(["yes"]), question="Where?")
    assert (found.passed, found.name, found.kind) == (True, "good", "judge")
    assert seen == [("Paris", "Where?", False)]
    roots = [event for event in events if isinstance(event, ForkOpened)]
    assert found.judge in {event.fork for event in roots if event.within == found.fork}
    (found,), _ = checked(body, ScriptedBackend(["no"]), question="Where?")
    assert found.passed is False
    assert found.message == "no"


def test_a_judge_that_fails_or_says_neither_is_an_error_of_the_check() -> None:
    @sgl.function
    def words(s: Any, answer: str) -> str:
        return "yes"

    @sgl.function
    def lost(s: Any, answer: str, never: str) -> bool:
        return True

    for judge, message in ((words, "returns 'yes', not True or False"), (lost, "never")):
        (found,), _ = checked(lambda s, judge=judge: sgl.expect("x", judge=judge) and None)
        assert found.passed is None
        assert message in found.message


def test_wrong_uses_name_what_is_wrong() -> None:
    with pytest.raises(ProgramError, match="none runs here"):
        sgl.expect("x")
    with pytest.raises(BadArgument, match="equals= and contains= cannot be combined"):
        checked(lambda s: sgl.expect("x", "x", contains="x") and None)
    with pytest.raises(BadArgument, match="did you mean 'contains'"):
        checked(lambda s: sgl.expect("x", contain="x") and None)  # type: ignore[call-arg]


def test_a_graph_is_traced_without_its_checks() -> None:
    @sgl.function
    def program(s: Any, question: str) -> None:
        s += question + sgl.gen("answer")
        sgl.expect(s["answer"], contains="Paris")

    assert len(program.trace().nodes) == 2
