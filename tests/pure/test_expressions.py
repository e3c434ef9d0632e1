"""The values that programs are made of: frozen, as JSON and back, and recorded by a tracer instead of executed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import ProgramError
from sgl_lab.contracts.ids import ForkId
from sgl_lab.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sgl_lab.lang.expressions import (
    Argument,
    Concat,
    Fork,
    Gen,
    Join,
    Reference,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    Select,
    Text,
    ToolTurn,
    Warm,
    leaves,
)
from sgl_lab.lang.graph.tracer import Trace, TraceEnds, Tracer
from sgl_lab.lang.serial import from_json, to_json
from sgl_lab.lang.surface import gen

from .language import line_with

VALUES = [
    Text("a"),
    gen("x", max_tokens=3, stop=["a", "b"], logit_bias={5: -1.5}, seed=7),
    gen("x", regex="[a-z]+"),
    gen("x", json_schema={"type": "object", "properties": {"a": {"type": "integer"}}}),
    gen("x", grammar='start: "a" "b"'),
    *(gen("x", dtype=dtype) for dtype in (int, float, bool, str)),
    sgl.select("y", ["a", "b"], choices_method=sgl.unconditional_likelihood_normalized),
    sgl.user("hi"),
    sgl.separate_reasoning(gen("x", regex="a+"), model_type="qwen3"),
    Fork(3),
    Fork(1, (0,), is_copy=True),
    Join("gather_variable", (ForkId(1), ForkId(2))),
    ScopeBegin("v"),
    ScopeEnd("v"),
    ToolTurn(0, in_roles=True),
    Warm(),
    Argument("question"),
    Reference(4, "x"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_frozen_and_comes_back_from_json(value: Any) -> None:
    again = from_json(json.loads(json.dumps(to_json(value))))
    assert again == value
    assert hash(again) == hash(value)
    if isinstance(value, Gen | Select):
        assert again.location == value.location
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


def test_a_form_that_comes_back_means_the_same() -> None:
    number = from_json(to_json(sgl.gen_int("n")))
    assert number.form.meaning("42") == 42
    (thinking,) = leaves(sgl.separate_reasoning(gen("x", dtype=int), model_type="qwen3"), None)
    assert from_json(to_json(thinking)) == thinking


class Own(ChoicesSamplingMethod):
    def __call__(self, **_: Any) -> ChoicesDecision:
        return ChoicesDecision("a")


def tool(a: int) -> int:
    return a


@pytest.mark.parametrize("value", [gen("x", tools=[tool]), gen("x", json_schema=list[int]), sgl.select("y", ["a"], choices_method=Own())])
def test_what_holds_python_objects_has_no_json_form_and_says_so(value: Any) -> None:
    with pytest.raises(ProgramError, match="has no JSON form"):
        to_json(value)


@pytest.mark.parametrize(
    "data", [{"is": "Nothing"}, {"is": "Text"}, {"is": "Text", "text": "a", "n": 1}, {}, {"is": "Form", "argument": "tools"}]
)
def test_json_that_is_no_value_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"is no value of a program|has not the fields"):
        from_json(data)


# ---------------------------------------------------------------- the tracer


def traced(program: Callable[..., Any], **arguments: Any) -> Trace:
    backend, trace = ScriptedBackend("never"), Trace()
    given = {name: trace.placeholder(Argument(name)) for name in ("question",)}
    program(sgl.ProgramState(Tracer(sgl.start(backend)._run, trace)), **given | arguments)
    assert backend.jobs == []
    return trace


def test_a_trace_has_every_step_in_order_with_strands_lines_and_what_was_read() -> None:
    def program(s: Any, question: str) -> None:
        s += f"Q: {question}\n"
        s += sgl.user("now" + gen("a"))  # the line of the gen
        forks = s.fork(2)
        for fork in forks:
            fork += f"{s['a']}!" + sgl.select("k", ["u", "v"])
        forks.join()
        with s.var_scope("all"):
            s += s["k"][1]
        s += s["all"]

    trace = traced(program)
    assert [step.value for step in trace.steps if not isinstance(step.value, Gen | Select)] == [
        Text("Q: "), Argument("question"), Text("\n"),
        RoleBegin("user"), Text("now"), RoleEnd("user"),
        Fork(2), Reference(5, "a"), Text("!"), Reference(5, "a"), Text("!"), Join("gather_variable", (ForkId(1), ForkId(2))),
        ScopeBegin("all"), Reference(13, "k"), ScopeEnd("all"), Reference(17, "all"),
    ]  # fmt: skip
    asked = {number: step for number, step in enumerate(trace.steps) if isinstance(step.value, Gen | Select)}
    assert {number: (step.value.name, step.strand) for number, step in asked.items()} == {5: ("a", 0), 10: ("k", 1), 13: ("k", 2)}
    assert asked[5].location.line == line_with("# the line of " + "the gen", __file__)
    (fork,) = (step for step in trace.steps if step.opened)
    assert (fork.value, fork.opened) == (Fork(2), (1, 2))
    scope = next(step for step in trace.steps if isinstance(step.value, ScopeBegin))
    assert scope.location.file == __file__


def test_a_trace_of_several_samples_tools_reasoning_and_joined_text() -> None:
    def program(s: Any, question: str) -> None:
        s += "Q" + gen("x", n=2)
        s += "".join(s["x"])
        s += sgl.assistant(gen("call", tools=[tool], execute=True))
        forks = s.fork(2)
        forks += sgl.user(question)
        forks.join("concate_and_append")
        s += sgl.assistant(sgl.separate_reasoning(gen("y"), model_type="qwen3"))
        s += s["y_reasoning_content"]

    values = [step.value for step in traced(program).steps]
    assert values[2:4] == [Reference(1, "x", 0), Reference(1, "x", 1)]
    assert values[6] == RoleEnd("assistant")
    assert values[7] == ToolTurn("call", in_roles=True)
    assert values[-1] == Reference(len(values) - 3, "y_reasoning_content")


BRANCHES: dict[str, Callable[[Any, str], Any]] = {
    "equal": lambda s, q: s["a"] == "yes",
    "true": lambda s, q: not q,
    "in": lambda s, q: "a" in q,
    "length": lambda s, q: len(q),
    "method": lambda s, q: q.upper(),
    "padded": lambda s, q: f"{q:>9}",
    "repr": lambda s, q: f"{q!r}",
    "item": lambda s, q: q[0],
    "scope": lambda s, q: s["v"] == "yes",
    "value": lambda s, q: s.value("n") > 1,
}


@pytest.mark.parametrize("name", BRANCHES)
def test_what_depends_on_text_that_is_not_there_is_an_error_that_names_the_line(name: str) -> None:
    def program(s: Any, question: str) -> None:
        s += "Q" + gen("a") + sgl.gen_int("n")
        with s.var_scope("v"):
            s += question
        BRANCHES[name](s, question)

    with pytest.raises(ProgramError, match=rf"line \d+ of {__name__.rpartition('.')[2]}.py depends on text that is not there"):
        traced(program)


def test_a_program_that_goes_on_after_its_trace_has_ended_is_not_recorded() -> None:
    trace = Trace(only=(Text,))
    s = sgl.ProgramState(Tracer(sgl.start(ScriptedBackend("never"))._run, trace))
    s += "a"
    for more in (gen("x"), "b"):
        with pytest.raises(TraceEnds):
            s += more
    assert [step.value for step in trace.steps] == [Text("a")]


@pytest.mark.parametrize("branch", [lambda q: "b" if q == "x" else "c", lambda q: q.upper()])
def test_a_prefix_ends_where_an_argument_decides(branch: Callable[[str], str]) -> None:
    @sgl.function
    def program(s: Any, question: str) -> None:
        s += "Q: "
        s += branch(question)

    backend = ScriptedBackend()
    assert program.cache(backend) == len("Q: ")


def test_a_scope_that_is_not_open_cannot_end() -> None:
    s = sgl.start(ScriptedBackend())
    with pytest.raises(ProgramError, match="no scope 'v' is open"):
        s._stream.submit(ScopeEnd("v"))
    with s.var_scope("v"), s.var_scope("w"), s.var_scope("v"):
        s += "a"
    assert (s["v"], s["w"]) == ("a", "a")


def test_what_a_strand_is_given_is_refused_whole() -> None:
    s = sgl.start(ScriptedBackend())
    with pytest.raises(ProgramError, match="role 'user' ends"):
        s += Concat((Text("a"), RoleBegin("system"), RoleEnd("user")))
    assert s.text() == ""
