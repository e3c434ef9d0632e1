"""Tools: functions that the model may call."""

from __future__ import annotations

import asyncio
import enum
import json
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pydantic
import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, EngineStopped, InvalidValue, ProgramError, Stopped, UnfinishedValue
from sgl_lab.contracts.events import Event, StreamExtended
from sgl_lab.contracts.port import GenJob, Message, Segment

from .language import line_with, watchdog, within  # noqa: F401

gen = sgl.gen


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Place(pydantic.BaseModel):
    city: str
    country: str = "Italy"


def weather(place: Place, unit: Unit = Unit.C, days: int | None = None) -> dict[str, Any]:
    """How the weather will be."""
    return {"city": place.city, "unit": unit.name, "days": days}


def add(a: int, b: Annotated[int, pydantic.Field(description="the other one")]) -> int:
    """Add two whole numbers."""
    return a + b


def search(query: str, kind: Literal["web", "news"] = "web") -> str:
    """Search."""
    return f"{kind} about {query}"


def call_of(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


def test_a_call_is_one_of_the_tools_with_legal_arguments() -> None:
    text = call_of("weather", place={"city": "Rome"}, unit="fahrenheit")
    s = sgl.start(ScriptedBackend(text))
    s += "Q" + gen("call", tools=[weather, add])
    assert s["call"] == text
    call = s.value("call", sgl.ToolCall)
    assert (call.name, call.arguments, call.text) == ("weather", {"place": {"city": "Rome"}, "unit": "fahrenheit"}, text)
    assert call.run() == {"city": "Rome", "unit": "F", "days": None}, "arguments are validated into what the function is typed with"
    with pytest.raises(ProgramError, match="was not executed"):
        print(call.result)


@pytest.mark.parametrize(
    "text",
    [
        call_of("drop", a=1, b=2),
        call_of("add", a=1),
        call_of("add", a=1, b="two"),
        call_of("add", a=1, b=2, c=3),
        call_of("search", query="x", kind="books"),
        '{"name": "add"}',
        json.dumps({"arguments": {"a": 1, "b": 2}, "name": "add", "id": 1}),
        "add(1, 2)",
    ],
)
def test_anything_else_is_no_call(text: str) -> None:
    s = sgl.start(ScriptedBackend(text))
    s += "Q" + gen("call", tools=[weather, add, search])
    assert isinstance(within(5, s.error), BadArgument)


def test_a_call_that_is_not_whole_is_not_made() -> None:
    made: list[int] = []

    def note(a: int) -> None:
        made.append(a)

    s = sgl.start(ScriptedBackend(call_of("note", a=1)))
    s += sgl.user("Q") + sgl.assistant(gen("call", tools=[note], execute=True, max_tokens=9))
    with pytest.raises(UnfinishedValue):
        s.value("call")
    assert made == []
    assert [message["role"] for message in s.messages()] == ["user", "assistant"]


def test_what_a_tool_says_stands_in_a_turn_of_its_own_after_the_turn_of_the_call() -> None:
    events: list[Event] = []
    backend = ScriptedBackend([call_of("add", a=1, b=2), "It is 3."])
    s = sgl.start(backend, events.append)
    s += sgl.user("1 + 2?")
    s += sgl.assistant("Let me see: " + gen("call", tools=[add, search], execute=True) + " (called)")
    s += sgl.assistant(gen("answer"))
    assert s.value("call").result == 3
    assert s.messages() == [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": f"Let me see: {call_of('add', a=1, b=2)} (called)"},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ]
    assert s.prompt("answer").endswith("user\n3<|im_end|>\n<|im_start|>assistant\n"), "chatml knows no tool: it is a user's turn there"
    assert "tool" in {event.role for event in events if isinstance(event, StreamExtended)}


def test_a_tool_turn_comes_after_a_role_that_is_a_with_and_in_every_fork() -> None:
    s = sgl.start(ScriptedBackend([call_of("add", a=1, b=2), "x", "y"]))
    s += sgl.user("Q")
    with s.assistant():
        s += gen("call", tools=[add], execute=True)
        assert s.value("call").result == 3, "readable before the turn is over"
        child = s.fork(1)[0]
    child += sgl.assistant_end()
    assert [message["role"] for message in s.messages()] == ["user", "assistant", "tool"]
    assert [message["role"] for message in child.messages()] == ["user", "assistant", "tool"]


def test_outside_of_roles_what_a_tool_says_is_the_next_line() -> None:
    s = sgl.start(ScriptedBackend([call_of("search", query="tea"), "done"]))
    s += "Action: " + gen("call", tools=[search], execute=True) + "\nThought: " + gen("thought")
    assert s["thought"] == "done"
    assert s.text() == f"Action: {call_of('search', query='tea')}\nweb about tea\nThought: done"


def test_a_loop_of_thought_and_action_reads_well() -> None:
    def finish(answer: str) -> str:
        """Give the final answer."""
        return answer

    tools = [search, add, finish]

    @sgl.function
    def agent(s: Any, question: str) -> str | None:
        s += sgl.system("Answer with calls.\n" + sgl.describe_tools(tools))
        s += sgl.user(question)
        for _ in range(5):
            s += sgl.assistant(gen("call", tools=tools, execute=True))
            call = s.value("call", sgl.ToolCall)
            if call.name == "finish":
                return str(call.result)
        return None

    script = [call_of("search", query="population of Rome"), call_of("add", a=2, b=1), call_of("finish", answer="3 million")]
    state = agent.run("How many?", backend=ScriptedBackend(script))
    assert state.ret_value == "3 million"
    observed = [message["content"] for message in state.messages() if message["role"] == "tool"]
    assert observed == ["web about population of Rome", "3", "3 million"]


def test_tools_are_described_for_a_prompt() -> None:
    first, weather_line, add_line, last = str(sgl.describe_tools([weather, add])).splitlines()
    described = json.loads(add_line)
    assert (described["name"], described["description"]) == ("add", "Add two whole numbers.")
    assert described["parameters"]["properties"]["b"]["description"] == "the other one"
    assert json.loads(weather_line)["parameters"]["required"] == ["place"]
    assert "call" in first
    assert '{"name"' in last


def test_a_tool_may_be_async_and_may_run_programs_that_inherit() -> None:
    async def later(a: int) -> int:
        await asyncio.sleep(0)
        return a + 1

    @sgl.function
    def inner(s: Any) -> None:
        s += "inner" + gen("x")

    def ask() -> str:
        return str(inner.run()["x"])

    backend = ScriptedBackend({"A": call_of("later", a=1), "B": call_of("ask"), "inner": "deep"})

    @sgl.function
    def program(s: Any) -> tuple[Any, Any]:
        s += "A" + gen("a", tools=[later], execute=True)
        s += "B" + gen("b", tools=[ask], execute=True)
        return s.value("a").result, s.value("b").result

    assert program.run(backend=backend, temperature=0.5).ret_value == (2, "deep")
    assert {job.params.temperature for job in backend.jobs_of(GenJob)} == {0.5}


def test_a_tool_runs_off_the_backends_thread_and_the_runs_lock() -> None:
    running, go = threading.Event(), threading.Event()
    threads: list[str] = []

    def slow() -> str:
        threads.append(threading.current_thread().name)
        running.set()
        assert go.wait(10)
        return "done"

    backend = ScriptedBackend({"A": call_of("slow"), "B": "free"})
    s = sgl.start(backend)
    f = s.fork(2)
    f[0] += "A" + gen("call", tools=[slow], execute=True)
    assert running.wait(10)
    f[1] += "B" + gen("other")
    assert within(5, lambda: f[1]["other"]) == "free"
    go.set()
    assert f[0].value("call").result == "done"
    assert threads == ["sgl-tool"]


def test_what_a_tool_raises_is_the_gens_error_and_names_the_tool() -> None:
    def broken(a: int) -> None:
        raise ZeroDivisionError("no")  # where it breaks

    s = sgl.start(ScriptedBackend(call_of("broken", a=1)))
    s += "Q" + gen("call", tools=[broken], execute=True)  # whose call it is
    with pytest.raises(ZeroDivisionError) as caught:
        s["call"]
    assert caught.value.__notes__ == [
        f'in the tool broken, line {line_with("# where it " + "breaks", __file__)} of test_lang_tools.py, called with {{"a": 1}}',
        f"in gen('call'), line {line_with('# whose call ' + 'it is', __file__)} of test_lang_tools.py",
    ]
    assert s.error() is caught.value


def leave() -> None:
    sys.exit(3)


def only_even(a: int) -> int:
    if a % 2:
        raise ValueError(f"{a} is odd")
    return a


def even(a: Annotated[int, pydantic.AfterValidator(only_even)]) -> int:
    return a


@pytest.mark.parametrize(
    ("tool", "arguments", "error"), [(leave, {}, ProgramError), (even, {"a": 3}, InvalidValue)], ids=["exits", "refuses an argument"]
)
def test_nothing_that_a_tool_does_hangs_the_program(tool: Callable[..., Any], arguments: dict[str, Any], error: type[Exception]) -> None:
    s = sgl.start(ScriptedBackend(call_of(tool.__name__, **arguments)))
    s += "Q" + gen("call", tools=[tool], execute=True) + gen("after")
    assert isinstance(within(5, lambda: s["after"]), error)


def test_a_run_that_is_stopped_does_not_wait_for_its_tool_and_keeps_the_call() -> None:
    running, go = threading.Event(), threading.Event()

    def slow() -> str:
        running.set()
        go.wait(10)
        return "too late"

    s = sgl.start(ScriptedBackend(call_of("slow")))
    s += sgl.user("Q") + sgl.assistant(gen("call", tools=[slow], execute=True))
    assert running.wait(10)
    s.cancel()
    assert isinstance(within(5, s.sync), Stopped)
    assert s["call"] == call_of("slow")
    go.set()
    assert within(10, s.wait) is None
    assert [message["role"] for message in s.messages()] == ["user", "assistant"]


@pytest.mark.parametrize("end", ["close", "die"])
def test_a_backend_that_ends_while_a_tool_is_busy_ends_every_wait(end: str) -> None:
    running, go = threading.Event(), threading.Event()

    def slow() -> str:
        running.set()
        go.wait(10)
        return "late"

    backend = ScriptedBackend(call_of("slow"))
    s = sgl.start(backend)
    s += sgl.user("Q") + sgl.assistant(gen("call", tools=[slow], execute=True)) + sgl.user("R") + sgl.assistant(gen("b"))
    assert running.wait(10)
    getattr(backend, end)()
    go.set()
    assert isinstance(within(5, lambda: s["b"]), EngineStopped)


def test_a_template_that_knows_no_tools_is_a_typed_error() -> None:
    class Strict(ScriptedBackend):
        def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
            if any(message.role == "tool" for message in messages):
                raise BackendUnsupported("roles must alternate")
            return super().render_chat(messages, add_generation_prompt=add_generation_prompt)

    s = sgl.start(Strict([call_of("add", a=1, b=2), "x"]))
    s += sgl.user("Q") + sgl.assistant(gen("call", tools=[add], execute=True)) + sgl.assistant(gen("b"))
    assert s.value("call").result == 3
    assert isinstance(within(5, lambda: s["b"]), BackendUnsupported)


def untyped(city, unit: str = "C") -> str:  # type: ignore[no-untyped-def]
    return str(city)


def unspelled(city: Callable[[], int]) -> None: ...


def unknown(city: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def many(*cities: str) -> None: ...


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([untyped], "tool untyped: parameter 'city' has no type.*city: str"),
        ([many], r"tool many: parameter \*cities"),
        ([unspelled], "tool unspelled"),
        ([unknown], "tool unknown.*Nowhere"),
        ([lambda: 1], "a function with a name"),
        (["add"], "a function with a name"),
        ([{}], "a function with a name"),
        ([min], "tool min: its parameters are unknown"),
        ([add, add], "two tools are named add"),
        ([], "one or more functions"),
        ("add", "one or more functions"),
    ],
)
def test_tools_that_no_schema_can_be_had_of_are_refused_at_the_call(tools: Any, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        gen("call", tools=tools)


def test_a_call_that_is_to_be_made_is_one() -> None:
    s = sgl.start(ScriptedBackend(), defaults=sgl.GenDefaults(n=2))
    with pytest.raises(BadArgument, match="execute= makes one call, but n is 2"):
        s += "Q" + gen("call", tools=[add], execute=True)
    s += "Q" + gen("call", tools=[add], n=1)


def test_of_several_samples_each_is_a_call() -> None:
    s = sgl.start(ScriptedBackend([call_of("add", a=1, b=2), call_of("search", query="x")]))
    s += "Q" + gen("call", tools=[add, search], n=2)
    assert [call.run() for call in s.value("call")] == [3, "web about x"]


def test_methods_are_tools_too() -> None:
    class Shop:
        def price(self, item: str) -> float:
            return float(len(item))

    s = sgl.start(ScriptedBackend(call_of("price", item="tea")))
    s += "Q" + gen("call", tools=[Shop().price], execute=True)
    assert s.value("call").result == 3.0
