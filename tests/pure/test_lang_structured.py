"""Text that has to be something: constraints, what they mean, and what is not whole."""

from __future__ import annotations

import datetime
import enum
import json
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

import pydantic
import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.backends.scripted.constraints import satisfies
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, InvalidValue, Stopped, UnfinishedValue
from sgl_lab.contracts.params import Constraint
from sgl_lab.contracts.port import GenJob
from sgl_lab.grammar.schema import lowered
from sgl_lab.lang.form import of_schema

from .language import line_with, watchdog, within  # noqa: F401

gen = sgl.gen


class Trip(pydantic.BaseModel):
    city: str
    days: int

    @pydantic.field_validator("days")
    @classmethod
    def some(cls, days: int) -> int:
        if days < 1:
            raise ValueError("a trip has days")
        return days


@dataclass
class Point:
    x: float
    y: float


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name"]}


def state_of(answer: Any, **arguments: Any) -> sgl.ProgramState:
    s = sgl.start(ScriptedBackend(answer))
    s += "Q" + gen("x", **arguments)
    return s


@pytest.mark.parametrize(
    ("arguments", "text", "value"),
    [
        ({"dtype": int}, "-42", -42),
        ({"dtype": "int"}, "7", 7),
        ({"dtype": float}, "2.50", 2.5),
        ({"dtype": bool}, "False", False),
        ({"dtype": str}, '"say \\"hi\\""', 'say "hi"'),
        ({"dtype": Literal["a", "b"]}, '"a"', "a"),
        ({"dtype": list[int]}, "[1, 2]", [1, 2]),
        ({"regex": "a+b"}, "aab", "aab"),
        ({"grammar": 'start: "a" /[0-9]+/'}, "a12", "a12"),
        ({"json_schema": PERSON}, '{"name": "Li", "age": 3}', {"name": "Li", "age": 3}),
        ({"json_schema": json.dumps(PERSON)}, '{"name": "Li"}', {"name": "Li"}),
        ({"json_schema": Trip}, '{"city": "Rome", "days": 3}', Trip(city="Rome", days=3)),
        ({"json_schema": Point}, '{"x": 1, "y": 2.5}', Point(1.0, 2.5)),
        ({"json_schema": Colour}, '"red"', Colour.RED),
        ({"json_schema": Annotated[int, pydantic.Field(ge=0, json_schema_extra={})]}, "5", 5),
    ],
)
def test_a_constrained_text_stays_text_and_has_a_value(arguments: dict[str, Any], text: str, value: object) -> None:
    s = state_of(text, **arguments)
    assert s["x"] == text
    assert s.value("x") == value
    assert type(s.value("x")) is type(value)
    assert s.get_meta_info("x")["is_complete"] is True
    assert s.text() == "Q" + text


def test_what_has_no_constraint_is_its_own_value() -> None:
    s = sgl.start(ScriptedBackend(["free", "two"], likes=lambda prompt, choice: float(choice == "no")))
    s += "Q" + gen("a") + sgl.select("b", ["yes", "no"])
    s["c"] = 5
    assert (s.value("a"), s.value("b"), s.value("c")) == ("free", "no", 5)
    assert "is_complete" not in s.get_meta_info("a")


def test_a_value_can_be_read_as_a_type_that_the_gen_did_not_state() -> None:
    s = sgl.start(ScriptedBackend(['{"city": "Rome", "days": 3}', "42", "red"]))
    s += "Q" + gen("trip", json_schema={"type": "object"}) + gen("n") + gen("colour")
    assert s.value("trip", Trip) == Trip(city="Rome", days=3)
    assert s.value("n", int) == 42
    assert s.value("n", str) == "42"
    assert s.value("colour", Colour) is Colour.RED
    with pytest.raises(InvalidValue, match="'colour' is 'red', which is not a valid int"):
        s.value("colour", int)


def test_a_typed_value_is_made_once() -> None:
    s = state_of('{"city": "Rome", "days": 3}', json_schema=Trip)
    assert s.value("x", Trip) is s.value("x")


def test_a_program_may_return_an_instance() -> None:
    @sgl.function
    async def plan(s: Any, city: str) -> Trip:
        s += sgl.user(f"A trip to {city}?") + sgl.assistant(gen("trip", json_schema=Trip))
        return await s.value_async("trip", Trip)  # type: ignore[no-any-return]

    backend = ScriptedBackend({city: json.dumps({"city": city, "days": 2}) for city in ("Rome", "Oslo")})
    states = plan.run_batch([("Rome",), ("Oslo",)], backend=backend)
    assert [state.ret_value for state in states] == [Trip(city="Rome", days=2), Trip(city="Oslo", days=2)]


def test_a_type_leaves_no_room_for_properties_that_it_does_not_know() -> None:
    assert isinstance(within(5, state_of('{"city": "Rome", "days": 2, "and": 1}', json_schema=Trip).error), BadArgument)
    assert state_of('{"name": "Li", "and": 1}', json_schema=PERSON).value("x") == {"name": "Li", "and": 1}


class Tree(pydantic.BaseModel):
    value: int
    children: list[Tree] = []


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    age: Annotated[float, pydantic.Field(ge=0, lt=30)] | None = None


class Owner(pydantic.BaseModel):
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


TYPES: list[tuple[Any, str, Any]] = [
    (datetime.datetime, '"2024-05-06T07:08:09Z"', datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)),
    (datetime.date, '"2024-05-06"', datetime.date(2024, 5, 6)),
    (uuid.UUID, f'"{uuid.UUID(int=7)}"', uuid.UUID(int=7)),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (set[int], "[1, 1]", {1}),
    (int | None, "null", None),
    (Annotated[str, pydantic.Field(pattern="^a+$", max_length=3)], '"aa"', "aa"),
    (Tree, '{"value": 1, "children": [{"value": 2}]}', Tree(value=1, children=[Tree(value=2)])),
    (Owner, '{"pet": {"kind": "dog", "age": 3}}', Owner(pet=Dog(kind="dog", age=3))),
    (list[Point], '[{"x": 1, "y": 2}]', [Point(1, 2)]),
]


@pytest.mark.parametrize(("type_", "text", "value"), TYPES)
def test_types_known_to_pydantic_are_schemas_that_the_engine_enforces(type_: Any, text: str, value: object) -> None:
    s = state_of(text, json_schema=type_)
    assert s.value("x") == value
    constraint = s._stream.run.backend.jobs_of(GenJob)[0].params.constraint  # type: ignore[attr-defined]
    assert satisfies(Constraint("grammar", lowered(constraint.source)), text)


def test_each_sample_has_its_value() -> None:
    s = state_of(["1", "22"], dtype=int, n=2)
    assert s["x"] == ["1", "22"]
    assert s.value("x") == [1, 22]


def test_the_values_of_forks_are_gathered_too() -> None:
    s = sgl.start(ScriptedBackend({"0": "10", "1": "11"}))
    s += "Q"
    f = s.fork(2)
    f += lambda i: str(i) + gen("n", dtype=int)
    f.join()
    assert s["n"] == ["10", "11"]
    assert s.value("n") == [10, 11]


def test_a_number_ends_where_something_else_begins_and_a_stop_beside_it_works() -> None:
    """The original fails in a worker when dtype=int meets a stop that is a string."""
    s = sgl.start(ScriptedBackend(["42 apples, 7 pears", "3.5km", "12.5"]))
    s += "I have " + gen("n", dtype=int, stop=",") + " and " + gen("far", dtype=float, stop="!") + sgl.gen_int("whole")
    assert (s["n"], s["far"], s["whole"]) == ("42", "3.5", "12")
    assert (s.value("n"), s.value("far"), s.value("whole")) == (42, 3.5, 12)
    assert s.get_meta_info("n")["matched_stop"] is None


def test_gen_int_and_gen_string_are_gens_of_their_dtype() -> None:
    s = sgl.start(ScriptedBackend(["5", '"five"']))
    s += "Q" + sgl.gen_int("i", 8, temperature=0.0) + sgl.gen_string("s", max_tokens=9)
    assert (s.value("i"), s.value("s")) == (5, "five")


def test_what_the_request_carries() -> None:
    backend = ScriptedBackend(["aab", "{}"])
    s = sgl.start(backend)
    s += "Q" + gen("a", regex="a+b") + gen("b", json_schema='{"type": "object"}')
    s.sync()
    assert [job.params.constraint for job in backend.jobs_of(GenJob)] == [
        Constraint("regex", "a+b"),
        Constraint("json_schema", '{"type": "object"}'),
    ]


# ---------------------------------------------------------------- what is not whole


@pytest.mark.parametrize(
    ("arguments", "answer", "partial", "why"),
    [
        ({"json_schema": PERSON, "max_tokens": 8}, '{"name": "Li"}', '{"name":', "out of tokens after 8 tokens.*raise max_tokens"),
        ({"regex": "a+b", "stop": "b"}, "aab", "aa", "ended by the stop 'b' after 2 tokens"),
        ({"json_schema": Trip, "stop": ","}, '{"city": "Rome", "days": 3}', '{"city": "Rome"', "the stop ','"),
        ({"grammar": 'start: "a" "b"', "max_tokens": 1}, "ab", "a", "out of tokens"),
        ({"dtype": str, "max_tokens": 2}, '"ok"', '"o', "out of tokens"),
    ],
)
def test_a_text_that_is_not_whole_has_no_value_and_keeps_its_text(arguments: dict[str, Any], answer: str, partial: str, why: str) -> None:
    s = state_of(answer, **arguments)
    assert s["x"] == partial
    assert s.get_meta_info("x")["is_complete"] is False
    with pytest.raises(UnfinishedValue, match=why) as caught:
        s.value("x")
    assert caught.value.text == partial
    assert s.text() == "Q" + partial, "the program went on with it"


def test_a_text_that_was_cancelled_has_no_value() -> None:
    backend = ScriptedBackend('{"city": "Rome", "days": 3}', held=True)
    s = sgl.start(backend)
    s += "Q" + gen("x", json_schema=Trip)
    backend.step(3)
    text = s.text_iter("x")
    seen = ""
    while seen != '{"c':
        seen += next(text)
    s.cancel()
    s.wait()
    assert s.get_meta_info("x")["is_complete"] is False
    with pytest.raises(UnfinishedValue, match="it was stopped after 3 tokens"):
        s.value("x")
    with pytest.raises(Stopped):
        s.sync()


def test_the_meta_of_an_incomplete_sample_says_so() -> None:
    s = state_of(["1", "[1"], json_schema={"type": "integer"}, n=2)
    assert isinstance(within(5, s.error), BadArgument)
    s = state_of(["12", "[1]"], json_schema={}, n=2, max_tokens=2)
    assert [meta["is_complete"] for meta in s.get_meta_info("x")] == [True, False]
    with pytest.raises(UnfinishedValue):
        s.value("x")


def test_what_only_the_type_can_refuse_is_refused_with_the_reason() -> None:
    s = state_of('{"city": "Rome", "days": 0}', json_schema=Trip)
    with pytest.raises(InvalidValue, match="a trip has days"):
        s.value("x")


def test_a_scripted_answer_that_no_model_could_give_fails_its_request() -> None:
    for answer, arguments in (
        ("4x", {"regex": "[0-9]+"}),
        ("{}", {"json_schema": Trip}),
        ("b", {"grammar": 'start: "a"'}),
        ("maybe", {"dtype": bool}),
    ):
        assert isinstance(within(5, state_of(answer, **arguments).error), BadArgument)


# ---------------------------------------------------------------- refused at the call


DEEP: dict[str, Any] = {}
for _ in range(100_000):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regex": "a("}, "position 1"),
        ({"regex": "[z-a]"}, "position 1"),
        ({"regex": 5}, "must be a string"),
        ({"regex": "ab(?=c)"}, "lookaround at position 2"),
        ({"regex": r"(a)\1"}, "backreference at position 3"),
        ({"regex": r"(?P<n>a)(?P=n)"}, "backreference at position 8"),
        ({"regex": r"a\b"}, "word boundary at position 1"),
        ({"regex": "a*+"}, "possessive quantifier at position 1"),
        ({"regex": "(?>a)"}, "atomic group at position 0"),
        ({"regex": "(" * 5000 + "a" + ")" * 5000}, "too large|limit"),
        ({"regex": "a{99999999999}"}, "too large"),
        ({"regex": "a" * 300_000}, "the limit is"),
        ({"json_schema": "{"}, "not JSON.*line 1 column 2"),
        ({"json_schema": {"type": "strin"}}, r"invalid at \$\.type"),
        ({"json_schema": {"properties": {"a": {"minimum": "x"}}}}, r"invalid at \$\.properties\.a\.minimum"),
        ({"json_schema": {"enum": [float("nan")]}}, "as JSON"),
        ({"json_schema": {"enum": {1, 2}}}, "as JSON"),
        ({"json_schema": DEEP}, "as JSON|deep"),
        ({"json_schema": 5}, "not a type with a JSON schema"),
        ({"json_schema": ScriptedBackend}, "not a type with a JSON schema"),
        ({"dtype": "integer"}, "unknown.*did you mean 'int'"),
        ({"dtype": object()}, "not a type with a JSON schema"),
        ({"grammar": ""}, "Lark"),
        ({"grammar": 7}, "Lark"),
        ({"regex": "a", "dtype": int}, "dtype= and regex= cannot be combined"),
        ({"choices": ["a"], "json_schema": {}}, "choices= and json_schema="),
        ({"choices": []}, "choices must be a list of one or more"),
        ({"choices": ["a"], "temperature": 0.5}, "temperature must be 0"),
        ({"execute": True}, "needs tools="),
    ],
)
def test_a_form_that_cannot_be_is_refused_at_the_call(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        gen("x", **arguments)


@pytest.mark.parametrize("pattern", [r"\(\?=", r"[(?=]", r"\\1", r"[\]*+]+", "a+?", r"\d{2,3}", "(?i)ok", r"[^]]"])
def test_a_pattern_that_only_looks_like_more_is_a_pattern(pattern: str) -> None:
    assert gen("x", regex=pattern).form is not None  # type: ignore[union-attr]


def test_a_grammar_and_a_keyword_that_the_backend_refuses_are_refused_on_the_users_own_line_and_nothing_is_queued() -> None:
    class Picky(ScriptedBackend):
        def prepare(self, constraint: Constraint) -> None:
            if "uniqueItems" in constraint.source:
                raise BackendUnsupported("json_schema: uniqueItems at $ is not supported")
            super().prepare(constraint)

    backend = Picky("x")
    s = sgl.start(backend)
    s += "Q"
    for form in ({"grammar": 'start: "a" b'}, {"json_schema": {"type": "array", "uniqueItems": True}}):
        with pytest.raises((BadArgument, BackendUnsupported)) as caught:
            s += "before" + gen("x", **form)  # the line of the user
        assert caught.traceback[0].lineno + 1 == line_with("# the line of " + "the user", __file__)
    assert "x" not in s
    assert s.text() == "Q"
    assert backend.jobs == []


def test_a_schema_fetches_nothing_from_the_network() -> None:
    s = state_of("[]", json_schema={"type": "array", "items": {"$ref": "http://127.0.0.1:9/schema.json"}})
    assert s.value("x") == []


def test_the_language_loads_pydantic_and_jsonschema_only_when_they_are_needed() -> None:
    script = """
import sys
import sgl_lab as sgl
sgl.gen("a", regex="a+"), sgl.gen_int("b"), sgl.select("c", ["x"])
print([name for name in ("pydantic", "jsonschema", "llguidance") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- log-probabilities


def test_log_probabilities_of_prompt_and_answer_come_as_the_original_names_and_shapes_them() -> None:
    s = sgl.start(ScriptedBackend("ab"))
    s += "pq" + gen("x", return_logprob=True, logprob_start_len=0, top_logprobs_num=1, return_text_in_logprobs=True)
    meta = s.get_meta_info("x")
    assert meta["input_token_logprobs"] == [(None, ord("p"), "p"), (-0.25, ord("q"), "q")]
    assert meta["input_top_logprobs"] == [[], [(-0.25, ord("q"), "q")]]
    assert [(p, text) for p, _, text in meta["output_token_logprobs"]] == [(-0.5, "a"), (-0.5, "b")]
    assert [[text for _, _, text in row] for row in meta["output_top_logprobs"]] == [["a"], ["b"]]


def test_log_probabilities_without_text_have_none_in_its_place() -> None:
    s = sgl.start(ScriptedBackend("a"))
    s += "pq" + gen("x", return_logprob=True, logprob_start_len=1, return_text_in_logprobs=False)
    assert s.get_meta_info("x")["input_token_logprobs"] == [(-0.25, ord("q"), None)]

    @sgl.function
    def program(s: Any) -> None:
        s += "pq" + gen("x")

    state = program.run(backend=ScriptedBackend("a"), return_logprob=True, logprob_start_len=-1, return_text_in_logprobs=False)
    assert [text for _, _, text in state.get_meta_info("x")["output_token_logprobs"]] == [None]
    assert "input_token_logprobs" not in state.get_meta_info("x")


# ---------------------------------------------------------------- one call for several gens


@sgl.function(num_api_spec_tokens=64)
def character(s: Any) -> None:
    s += "Make one up.\nName:" + gen("name", stop="\n") + "\nBorn:" + gen("born", stop="\n") + "\nJob:" + gen("job", stop="\n") + "\n"


LINES = {"Name:": " Ada", "Born:": " 1815", "Job:": " poet"}
WHOLE = " Ada\nBorn: 1815\nJob: poet\nEnd"


def test_one_call_to_a_completion_api_serves_the_gens_that_follow() -> None:
    backend = ScriptedBackend(WHOLE, costly_calls=True)
    state = character.run(backend=backend, max_new_tokens=16)
    assert [state[name] for name in ("name", "born", "job")] == list(LINES.values())
    (job,) = backend.jobs_of(GenJob)
    assert (job.params.max_tokens, job.params.stop) == (64, ())
    assert state.text() == "Make one up.\nName:" + WHOLE[: -len("End")]
    assert state.get_meta_info("job")["matched_stop"] == "\n"


@pytest.mark.parametrize("first", [" Ada\nJob: poet\n", " Ada", " Ada\nBorn: 18" + "1" * 80, " " + "A" * 80])
def test_what_came_ahead_and_does_not_fit_costs_one_call_a_gen_and_no_value(first: str) -> None:
    """The original leaves the values of all these gens empty."""

    def answer(prompt: str) -> str:
        line = LINES[prompt.rsplit("\n", 1)[-1]]
        return first if line == " Ada" else f"{line}\n"

    backend = ScriptedBackend(answer, costly_calls=True)
    state = character.run(backend=backend, max_new_tokens=16)
    assert [state["born"], state["job"]] == [" 1815", " poet"]
    assert state["name"] == (" " + "A" * 80)[:16] if "A" * 80 in first else " Ada"
    assert len(backend.jobs_of(GenJob)) == 3


def test_an_engine_of_ones_own_is_asked_for_each_gen() -> None:
    backend = ScriptedBackend(lambda prompt: LINES[prompt.rsplit("\n", 1)[-1]])
    state = character.run(backend=backend)
    assert state["job"] == " poet"
    assert [job.params.max_tokens for job in backend.jobs_of(GenJob)] == [128] * 3


def test_a_fork_and_a_gen_with_a_constraint_start_afresh() -> None:
    @sgl.function(num_api_spec_tokens=64)
    def program(s: Any) -> None:
        s += "Name:" + gen("name", stop="\n") + "\nBorn: " + gen("born", dtype=int)
        f = s.fork(1)
        f += "\nJob:" + gen("job", stop="\n")
        f.join()

    backend = ScriptedBackend([WHOLE, "1815", " poet\n"], costly_calls=True)
    state = program.run(backend=backend)
    assert (state["name"], state.value("born"), state["job"]) == (" Ada", 1815, [" poet"])
    assert len(backend.jobs_of(GenJob)) == 3


def test_each_of_several_samples_is_read_as_the_type() -> None:
    s = state_of(['{"city": "Oslo", "days": 2}', '{"city": "Bergen", "days": 3}'], n=2, json_schema=Trip.model_json_schema())
    assert s.value("x", Trip) == [Trip(city="Oslo", days=2), Trip(city="Bergen", days=3)]


def test_of_joined_forks_each_value_is_read_as_the_type_and_one_that_said_nothing_has_none() -> None:
    s = sgl.start(ScriptedBackend("7"))
    s += "Q"
    forks = s.fork(2)
    forks[1] += "n" + gen("x")
    forks.join()
    assert s.value("x", int) == [None, 7]


def test_what_pydantic_says_of_a_value_takes_one_line() -> None:
    with pytest.raises(InvalidValue) as refused:
        state_of('{"city": "Oslo", "days": 0}', json_schema=Trip).value("x")
    assert str(refused.value).endswith("the type rejects it: days: Value error, a trip has days")
    with pytest.raises(InvalidValue) as refused:
        state_of("many").value("x", int)
    assert "\n" not in str(refused.value)
    assert "https" not in str(refused.value)


@pytest.mark.parametrize(("pattern", "text"), [(r"\{[0-9]}+", "{7}}"), ("x{}+", "x{}}"), (r"\101", "A"), ("a{2}b+", "aab")])
def test_what_only_looks_like_a_quantifier_or_a_backreference_is_taken(pattern: str, text: str) -> None:
    assert state_of(text, regex=pattern).value("x") == text


@pytest.mark.parametrize(("pattern", "at"), [("xa{2}+", 2), ("xa{2,}+", 2), ("xa{,3}+", 2), ("xa?+", 2), (r"(a)\1", 3), (r"(a)\10", 3)])
def test_possessive_quantifiers_and_backreferences_are_refused_with_their_place(pattern: str, at: int) -> None:
    with pytest.raises(BadArgument, match=rf"(possessive quantifier|backreference) at position {at} "):
        gen("x", regex=pattern)


# ---------------------------------------------------------------- schemas as they are written elsewhere


WRAPPED = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    "wrapped",
    [
        {"name": "person", "schema": WRAPPED, "strict": True},
        {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": WRAPPED}},
        {"type": "json_schema", "name": "person", "schema": WRAPPED, "strict": True},
    ],
)
def test_a_schema_is_taken_out_of_the_wrapper_of_openai(wrapped: dict[str, Any]) -> None:
    assert of_schema(wrapped).constraint == of_schema(WRAPPED).constraint
    assert of_schema(json.dumps(wrapped)).constraint == of_schema(WRAPPED).constraint


@pytest.mark.parametrize(
    ("schema", "remark"),
    [
        ({"type": "string", "maxLenght": 3}, "the keyword 'maxLenght' at $ is unknown and is ignored; did you mean 'maxLength'?"),
        ({"not": {"requried": ["b"]}}, "the keyword 'requried' at $.not is unknown and is ignored; did you mean 'required'?"),
        ({"flavour": 1}, "the keyword 'flavour' at $ is unknown and is ignored"),
        ({"dependencies": {"a": ["b"]}}, "the keyword 'dependencies' at $ is unknown"),
        ({"items": {"type": "string", "format": "decimal"}}, "the format 'decimal' at $.items is unknown and is ignored"),
    ],
)
def test_what_is_not_followed_is_named(schema: dict[str, Any], remark: str) -> None:
    with pytest.warns(UserWarning, match=re.escape(remark)) as warned:
        gen("x", json_schema=schema)
    assert len(warned) == 1
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("schema", "remark"),
    [
        ({"type": "strng"}, "json_schema is invalid at $.type: 'strng' is not one of ['array', 'boolean', 'integer'"),
        ({"properties": {"a": {"type": "intger"}}}, "json_schema is invalid at $.properties.a.type: 'intger' is not one of ['array'"),
        ({"type": ["string", "nul"]}, "json_schema is invalid at $.type[1]: 'nul' is not one of ['array'"),
        ({"required": "a"}, "json_schema is invalid at $.required: 'a' is not of type 'array'"),
    ],
)
def test_a_wrong_schema_says_what_may_stand_there(schema: dict[str, Any], remark: str) -> None:
    with pytest.raises(BadArgument, match=re.escape(remark)):
        gen("x", json_schema=schema)


def test_names_values_and_remarks_are_no_keywords(recwarn: pytest.WarningsRecorder) -> None:
    schema = {
        "title": "t",
        "x-order": 1,
        "properties": {"requried": {"const": {"maxLenght": 1}}, "n": {"type": "integer", "format": "int64"}},
        "examples": [{"flavour": 1}],
    }
    of_schema(schema)
    assert list(recwarn) == []


def test_nullable_takes_null_and_the_older_drafts_mean_what_they_meant() -> None:
    form = of_schema({"properties": {"a": {"type": "integer", "nullable": True}}})
    assert form.meaning('{"a": null}') == {"a": None}
    old = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"short": {"type": "string", "maxLength": 2}},
        "properties": {
            "pair": {"items": [{"$ref": "#/definitions/short", "minLength": 9}, {"type": "integer"}], "additionalItems": False},
            "card": {},
        },
        "dependencies": {"card": ["pair"], "pair": {"required": ["card"]}},
    }
    form = of_schema(old)
    assert form.meaning('{"pair": ["ab", 1], "card": 2}') == {"pair": ["ab", 1], "card": 2}
    for wrong in '{"pair": ["ab", 1]}', '{"card": 1}', '{"pair": ["abc"], "card": 2}', '{"pair": ["ab", 1, 1], "card": 2}':
        with pytest.raises(ValueError, match=r"\$"):
            form.meaning(wrong)


@pytest.mark.parametrize("form", [{"multipleOf": 0.01}, {"multipleOf": 0.1}, {"multipleOf": 1e-7}])
def test_multiples_are_those_of_the_decimals_that_are_written(form: dict[str, Any]) -> None:
    meaning = of_schema({"type": "number", **form}).meaning
    step = Decimal(str(form["multipleOf"]))
    for n in range(1_000):
        text = f"{n * step:f}"
        assert meaning(text) == float(text)
        with pytest.raises(ValueError, match="not a multiple"):
            meaning(f"{n * step + step / 2:f}")


@pytest.mark.parametrize(("text", "remark"), [("-1e999", "too large"), ("1e-99999999", "too small"), ("NaN", "not a JSON number")])
def test_a_number_that_no_float_holds_is_refused(text: str, remark: str) -> None:
    with pytest.raises(ValueError, match=remark):
        of_schema({"type": "number"}).meaning(text)


def test_bounds_are_compared_as_they_are_written() -> None:
    meaning = of_schema({"type": "number", "exclusiveMaximum": 1}).meaning
    with pytest.raises(ValueError, match="maximum"):
        meaning("1.0")
    assert meaning("0." + "9" * 58) == 1.0  # below it, as it is written


# ---------------------------------------------------------------- what may be asked of the tokens


@pytest.mark.parametrize(
    ("arguments", "remark"),
    [
        ({"logit_bias": {1: float("inf")}}, "logit_bias must be finite"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias must be finite"),
        ({"logit_bias": {1: -1e39}}, "logit_bias must be finite and at most 1e\\+30"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias must be of token ids"),
        ({"stop_token_ids": [-5]}, "stop_token_ids must be token ids"),
    ],
)
def test_biases_and_stop_tokens_out_of_range_are_refused_at_the_call(arguments: dict[str, Any], remark: str) -> None:
    with pytest.raises(BadArgument, match=remark):
        gen("x", **arguments)
