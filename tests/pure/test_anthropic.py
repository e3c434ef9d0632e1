"""Anthropic's API through its own SDK, on a real socket: requests in the form that the SDK's types have, streams, marks, errors."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.anthropic import Anthropic
from sgl_lab.backends.anthropic.leading import KEPT_S, Leaders
from sgl_lab.backends.anthropic.models import MODELS, UNKNOWN, claude_of
from sgl_lab.backends.anthropic.request import Settings, request_of
from sgl_lab.backends.anthropic.schemas import enforced
from sgl_lab.backends.remote import Call, Deadlines
from sgl_lab.contracts.conversation import ChatJob, ImagePart, TextPart, ToolCallPart, ToolResultPart
from sgl_lab.contracts.errors import (
    AuthenticationFailed,
    BackendUnsupported,
    BadArgument,
    ConnectionFailed,
    ModelMissing,
    ProgramError,
    RateLimited,
    RequestFailed,
    SglError,
    Stopped,
)
from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.tools import ToolSpec
from sgl_lab.lang.surface import gen

from .language import watchdog
from .vendors import HELLO, Reply, Server, ask, events, failure, in_turn, job, messages

__all__ = ["watchdog"]

pytest.importorskip("anthropic")

PNG = ImagePart("image/png", b"\x89PNG")
WEATHER = ToolSpec("weather", "of a city", '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}')
ADDRESS = "{" + '"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]' + "}"


# ---------------------------------------------------------------- the wire


def start(**usage: int) -> dict[str, Any]:
    counts = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0} | usage
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    return {"type": "message_start", "message": message | {"stop_reason": None, "stop_sequence": None, "usage": counts}}


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    inside = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *inside,
        {"type": "content_block_stop", "index": index},
    ]


def text(*pieces: str, index: int = 0) -> list[dict[str, Any]]:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def end(reason: str = "end_turn", stop: str | None = None, n_output: int = 3) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": stop}
    return [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": n_output}}, {"type": "message_stop"}]


def says(*pieces: str, reason: str = "end_turn", stop: str | None = None, **usage: int) -> Reply:
    return events(start(**usage), {"type": "ping"}, *text(*pieces), *end(reason, stop), named=True)


def refusal(status: int, kind: str, message: str, **headers: str) -> Reply:
    return failure(status, {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}, **headers)


@contextmanager
def claude(*replies: Reply, model: str = "claude-haiku-4-5", **given: Any) -> Iterator[tuple[Any, Server]]:
    with Server(in_turn(*replies)) as server:
        backend = Anthropic(model, base_url=server.url, api_key="sk-ant-canary-0123456789", retries=0, **given)
        try:
            yield backend, server
        finally:
            backend.close()


@functools.cache
def _legality() -> Any:
    """A validator of requests, out of the SDK's own types."""
    from anthropic.types.message_create_params import MessageCreateParamsStreaming
    from jsonschema import Draft202012Validator
    from pydantic import TypeAdapter

    schema = TypeAdapter(MessageCreateParamsStreaming).json_schema()
    for each in (schema, *schema["$defs"].values()):
        if "properties" in each and each.get("title") != "InputSchemaTyped":
            each["additionalProperties"] = False
    return Draft202012Validator(schema)


def legal(request: dict[str, Any]) -> dict[str, Any]:
    """The request, once the SDK's own types take it, with nothing in it that they do not have."""
    _legality().validate(request | {"stream": True})
    return request


def request(chat: ChatJob, model: str = "claude-haiku-4-5", **settings: Any) -> dict[str, Any]:
    return legal(request_of(chat, Settings(model, claude_of(model), **settings)).request)


# ---------------------------------------------------------------- requests


def test_a_conversation_keeps_its_system_turn_on_every_call() -> None:
    with claude(says("Bon", "jour"), says("Oui")) as (backend, server):

        @sgl.function
        def program(s: Any) -> None:
            s += sgl.system("Answer in French.")
            s += sgl.user("Hello") + sgl.assistant(gen("a", max_tokens=20, stop=["END"]))
            s += sgl.user("Sure?") + sgl.assistant(gen("b", max_tokens=5))

        state = program.run(backend=backend)
        assert (state["a"], state["b"]) == ("Bonjour", "Oui")
        (path, first), (_, second) = server.seen
        assert path == "/v1/messages"
        assert legal({name: value for name, value in first.items() if name != "stream"})
        assert first["system"] == second["system"] == [{"type": "text", "text": "Answer in French."}]
        assert [(turn["role"], turn["content"][0]["text"]) for turn in second["messages"]] == [
            ("user", "Hello"),
            ("assistant", "Bonjour"),
            ("user", "Sure?"),
        ]
        assert (first["max_tokens"], first["stop_sequences"], second["max_tokens"]) == (20, ["END"], 5)
        assert not first.keys() & {"temperature", "top_p", "top_k"}
        assert server.headers[0]["anthropic-version"] == "2026-10-21"
        assert server.headers[0]["authorization"] == "Bearer sk-ant-canary-0123456789"


def test_images_calls_and_results_have_the_form_of_the_api() -> None:
    call = ToolCallPart("toolu_1", "weather", '{"city": "Paris"}')
    prompt = messages(
        ("user", [TextPart("What is this?"), PNG]), ("assistant", call), ("tool", ToolResultPart("toolu_1", "rain")), ("user", "And now?")
    )
    sent = request(job(prompt, tools=(WEATHER,)))
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user", "user"]
    assert sent["messages"][0]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    assert sent["messages"][1]["content"] == [{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}]
    assert sent["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}]
    assert sent["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    (tool,) = sent["tools"]
    assert (tool["strict"], tool["input_schema"]["additionalProperties"]) == (True, False)
    after = request(job(prompt))  # calls in the history need their tools, none of which is to be called
    assert (after["tool_choice"], [tool["name"] for tool in after["tools"]]) == ({"type": "none"}, ["weather"])


@pytest.mark.parametrize(
    ("model", "thinks", "sent", "max_tokens"),
    [
        ("claude-haiku-4-5", False, None, 100),
        ("claude-haiku-5-5", False, {"type": "disabled"}, 100),
        ("claude-sonnet-5-5", False, {"type": "between_tools"}, 100),
        ("claude-sonnet-5-5", True, {"type": "adaptive", "display": "summarized"}, 1_100),
        ("claude-opus-5-5", True, {"type": "adaptive", "display": "summarized"}, 1_100),
    ],
)
def test_a_model_thinks_only_where_it_is_asked_to_or_always_does(model: str, thinks: bool, sent: Any, max_tokens: int) -> None:
    got = request(job(max_tokens=100), model, thinks=thinks, thinking_tokens=1_000)
    assert (got.get("thinking"), got["max_tokens"]) == (sent, max_tokens)


def test_a_schema_is_closed_and_an_answer_that_is_no_object_is_wrapped() -> None:
    schema, is_wrapped = enforced(ADDRESS)
    assert (schema["additionalProperties"], is_wrapped) == (False, False)
    schema, is_wrapped = enforced('{"type": "array", "items": {"enum": ["a", 1]}}')
    assert is_wrapped
    assert schema["properties"]["value"] == {"type": "array", "items": {"enum": ["a", 1]}}
    sent = request(job(constraint=Constraint("json_schema", ADDRESS)), effort="low")
    assert sent["output_config"]["effort"] == "low"
    assert sent["output_config"]["format"]["schema"]["required"] == ["street"]


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ('{"type": "integer", "minimum": 1}', "minimum"),
        ('{"type": "string", "pattern": "a+"}', "pattern"),
        ('{"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}', "maxLength"),
        ('{"type": "object", "additionalProperties": {"type": "string"}}', "additionalProperties"),
        ('{"type": "object"}', "without properties"),
        ("{}", "without a type"),
        ("true", "the schema true"),
    ],
)
def test_a_schema_that_would_not_be_enforced_is_refused_before_anything_is_sent(schema: str, keyword: str) -> None:
    with claude(says("no")) as (backend, server):
        with pytest.raises(BackendUnsupported, match=keyword):
            backend.prepare(Constraint("json_schema", schema))
        with pytest.raises(BackendUnsupported, match=keyword):
            backend.converse(job(constraint=Constraint("json_schema", schema)), None)
        assert not server.seen


def test_a_turn_that_is_begun_is_sent_without_the_white_space_that_the_api_refuses() -> None:
    prompt = messages(("user", "6 * 7?"), ("assistant", "It is "))
    with claude(says(" ", "42")) as (backend, server):
        (output,), listener = ask(backend, prompt)
        assert (output.text, listener.text) == ("42", "42")
        assert server.seen[0][1]["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}
    with claude(says("42"), model="claude-sonnet-5-5") as (backend, server):
        with pytest.raises(BackendUnsupported, match="answers that a program begins"):
            ask(backend, prompt)
        assert not server.seen


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (messages(("system", "Be terse.")), ProgramError, "begins with one"),
        (messages(("assistant", "Hi"), ("user", "Hi")), ProgramError, "begins with one"),
        (messages(("user", "a"), ("assistant", "b"), ("system", "c"), ("user", "d")), BackendUnsupported, "system turns at the beginning"),
        (messages(("narrator", "a")), BackendUnsupported, "no role 'narrator'"),
        (messages(("user", ImagePart("image/tiff", b""))), BackendUnsupported, "image/tiff"),
    ],
)
def test_what_the_api_does_not_take_is_refused_at_once(prompt: Any, error: type[SglError], message: str) -> None:
    with claude(says("no")) as (backend, server):
        with pytest.raises(error, match=message):
            backend.converse(job(prompt), None)
        assert not server.seen


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_a_sampling_parameter_that_the_api_refuses_is_refused_on_the_users_line(name: str) -> None:
    with claude(says("no")) as (backend, server):
        state = sgl.start(backend)
        exchange = sgl.user("Q") + sgl.assistant(gen("a", **{name: 1 if name == "top_k" else 0.5}))
        with pytest.raises(BackendUnsupported, match=f"sampling parameter {name}"):
            state += exchange
        assert not server.seen


# ---------------------------------------------------------------- answers


def test_an_answer_streams_and_is_counted() -> None:
    with claude(says("Hel", "lo", cache_read_input_tokens=70, cache_creation_input_tokens=20)) as (backend, _):
        (output,), listener = ask(backend)
    assert [delta for _, delta in listener.deltas] == ["Hel", "lo"]
    usage = output.usage
    assert (output.text, output.finish_reason, usage.completion_tokens) == ("Hello", "stop", 3)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.written_tokens) == (100, 70, 20)


@pytest.mark.parametrize(
    ("reason", "stop", "expected"),
    [
        ("end_turn", None, ("stop", None)),
        ("stop_sequence", "END", ("stop", "END")),
        ("max_tokens", None, ("length", None)),
        ("model_context_window_exceeded", None, ("length", None)),
        ("refusal", None, ("refusal", None)),
    ],
)
def test_the_reason_of_an_end(reason: str, stop: str | None, expected: tuple[str, str | None]) -> None:
    with claude(says("part", reason=reason, stop=stop)) as (backend, _):
        (output,), _ = ask(backend)
    assert (output.text, (output.finish_reason, output.matched_stop)) == ("part", expected)


def test_a_stop_of_white_space_which_the_api_refuses_is_found_here() -> None:
    with claude(events(start(), *text("one", "\n", "\ntwo", " three"), named=True)) as (backend, server):
        (output,), listener = ask(backend, stop=("\n\n", "END"))
        assert (output.text, listener.text, output.matched_stop, output.finish_reason) == ("one", "one", "\n\n", "stop")
        assert server.seen[0][1]["stop_sequences"] == ["END"]
        assert output.usage.prompt_tokens == 10


def test_thoughts_stand_apart_from_the_text() -> None:
    thoughts = block(0, {"type": "thinking", "thinking": "", "signature": ""}, {"type": "thinking_delta", "thinking": "hm"})
    with claude(events(start(), *thoughts, *text("42", index=1), *end(), named=True), thinking=True) as (backend, _):
        (output,), listener = ask(backend)
    assert (output.reasoning, output.text, listener.text) == ("hm", "42", "42")


def test_a_tool_is_called_and_its_result_goes_back() -> None:
    pieces = ({"type": "input_json_delta", "partial_json": piece} for piece in ('{"ci', 'ty": "Paris"}'))
    called = block(0, {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}, *pieces)
    with claude(events(start(), *called, *end("tool_use"), named=True), says("It rains.")) as (backend, server):

        def weather(city: str) -> str:
            """of a city"""
            return f"rain in {city}"

        state = sgl.start(backend)
        state += sgl.user("Weather?") + sgl.assistant(gen("call", tools=[weather], execute=True))
        state += sgl.assistant(gen("answer"))
        assert (state.value("call").arguments, state["answer"]) == ({"city": "Paris"}, "It rains.")
        assert server.seen[1][1]["messages"][1:3] == [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain in Paris"}]},
        ]


def test_a_model_that_cannot_be_forced_to_a_call_writes_it_under_a_schema() -> None:
    written = '{"name": "weather", "arguments": {"city": "Paris"}}'
    with claude(says(written), model="claude-sonnet-5-5") as (backend, server):

        def weather(city: str) -> str:
            return city

        state = sgl.start(backend)
        state += sgl.user("Weather?") + sgl.assistant(gen("call", tools=[weather], max_tokens=64))
        assert state.value("call").run() == "Paris"
        sent = server.seen[0][1]
        assert "tools" not in sent
        assert sent["output_config"]["format"]["type"] == "json_schema"


def test_select_is_one_call_under_a_schema_of_the_choices() -> None:
    with claude(says('{"value": "nó"}')) as (backend, server):
        state = sgl.start(backend)
        state += sgl.user("Sure?") + sgl.assistant(sgl.select("answer", ["yes", "nó"]))
        assert state["answer"] == "nó"
        sent = server.seen[0][1]
        assert sent["output_config"]["format"]["schema"]["properties"]["value"] == {"enum": ["yes", "nó"]}
        assert sent["max_tokens"] < 100
    with claude(says('{"value": "perhaps"}')) as (backend, _):
        state = sgl.start(backend)
        state += sgl.user("Sure?") + sgl.assistant(sgl.select("answer", ["yes", "no"]))
        with pytest.raises(RequestFailed, match="none of the choices"):
            state["answer"]


# ---------------------------------------------------------------- cache marks


def marked(sent: dict[str, Any]) -> list[str]:
    """The texts of the blocks that have a mark."""
    blocks = [*sent.get("system", ()), *(block for turn in sent["messages"] for block in turn["content"])]
    return [block["text"] for block in blocks if "cache_control" in block]


LONG = "word " * 2_000


def test_marks_stand_where_the_program_shares_a_prefix_if_it_is_long_enough() -> None:
    prompt = messages(("system", "short"), ("user", LONG + "one"))
    sent = request(job(prompt, shared=((1, 0), (1, len(LONG)))))
    assert [block["text"] for block in sent["messages"][0]["content"]] == [LONG, "one"]
    assert marked(sent) == [LONG]
    assert marked(request(job(prompt, shared=()))) == []
    assert marked(request(job(messages(("system", "short"), ("user", "one")), shared=((1, 0),)))) == []


def test_of_many_marks_the_first_and_the_last_three_stay() -> None:
    turns = [(role, f"{role} {turn}") for turn in range(4) for role in ("user", "assistant")]
    prompt = messages(("system", LONG), *turns, ("user", "last"))
    assert marked(request(job(prompt, shared=tuple((n, 0) for n in range(1, 11))))) == [LONG, "user 3", "assistant 3", "last"]


def test_a_programs_own_forks_batch_and_turns_tell_where_the_marks_go() -> None:
    """What is sent, not what is cached: each fork's children, each item of a batch and each further turn begin with a mark that stands
    where it stood before."""
    with claude(says("ok")) as (backend, server):
        state = sgl.start(backend)
        state += sgl.system("short")
        with state.user():
            state += LONG
        children = state.fork(2)
        for n, child in enumerate(children):
            child += sgl.user(f"question {n}") + sgl.assistant(gen("a"))
        assert [child["a"] for child in children] == ["ok", "ok"]
        assert [marked(sent) for _, sent in server.seen] == [[LONG], [LONG]]

        server.seen.clear()

        @sgl.function
        def program(s: Any, q: str) -> None:
            s += sgl.system(LONG)
            with s.user():
                s += "an example of many words"
                s += q
            s += sgl.assistant(gen("a"))

        program.run_batch([{"q": "one"}, {"q": "two"}, {"q": "two"}], backend=backend, num_threads=1)
        marks = [marked(sent) for _, sent in server.seen]
        assert marks == [[LONG], ["an example of many words"], ["an example of many words"]]

        server.seen.clear()
        state = sgl.start(backend)
        for turn in range(3):
            state += sgl.user(f"{turn} {LONG}") + sgl.assistant(gen(f"a{turn}"))
        assert state["a2"] == "ok"
        assert [marked(sent) for _, sent in server.seen] == [[], [f"1 {LONG}"], [f"2 {LONG}"]]


def test_of_children_that_start_together_the_first_goes_ahead_until_its_answer_begins() -> None:
    """A prefix can be read from the cache once the answer that wrote it has begun. A failed first is followed by another first."""
    arrived: list[str] = []
    lock, both, may_answer = threading.Lock(), threading.Event(), threading.Event()

    def reply(path: str, sent: Any) -> Reply:
        last = sent["messages"][-1]["content"][-1]["text"]
        with lock:
            arrived.append(last)
            n = len(arrived)
        if n == 2:
            both.set()
        if n <= 2:
            assert may_answer.wait(20)
        return refusal(400, "invalid_request_error", "no") if n <= 2 and last.startswith("question") else says("ok")

    with Server(reply) as server:
        backend = Anthropic("claude-haiku-4-5", base_url=server.url, api_key="sk-ant-canary-0123456789", retries=0)
        state = sgl.start(backend)
        with state.user():
            state += LONG
        children = state.fork(6)
        for n, child in enumerate(children):
            child += sgl.user(f"question {n}") + sgl.assistant(gen("a"))
        alone = sgl.start(backend)
        alone += sgl.user("another beginning") + sgl.assistant(gen("a"))
        assert both.wait(20)
        time.sleep(0.2)
        assert sorted(text.split()[0] for text in arrived) == ["another", "question"]
        may_answer.set()
        failed = [child for child in children if child.error() is not None]
        assert len(failed) == 1
        assert [child["a"] for child in children if child not in failed] == ["ok"] * 5
        assert alone["a"] == "ok"
        assert len(arrived) == 7
        backend.close()


def test_who_waits_for_another_is_cancelled_at_once() -> None:
    leaders = Leaders()
    first, second = (Call(RequestId(n), "here", Deadlines(), lambda index, text: None) for n in (1, 2))
    with leaders.turn((b"child", b"parent"), first) as began:
        threading.Timer(0.1, second.end, (Stopped("cancelled"),)).start()
        with pytest.raises(Stopped), leaders.turn((b"other", b"parent"), second):
            pytest.fail("it did not wait")
        began()
        with leaders.turn((b"third", b"parent"), Call(RequestId(3), "here", Deadlines(), lambda index, text: None)):
            """No request waits for a prefix that is cached."""


def test_a_prefix_counts_as_cached_for_as_long_as_the_api_keeps_it() -> None:
    now = [0.0]
    leaders = Leaders(lambda: now[0])
    call = Call(RequestId(1), "here", Deadlines(), lambda index, text: None)
    with leaders.turn((b"p",), call) as began:
        began()
        now[0] = KEPT_S - 1
        with leaders.turn((b"p",), call):
            now[0] = KEPT_S + 1
            with leaders.turn((b"p",), call):
                assert leaders._leading, "it is written anew"
    assert not leaders._leading


def test_a_fork_inside_a_turn_marks_what_stands_before_it() -> None:
    with claude(says("ok")) as (backend, server):
        state = sgl.start(backend)
        state += sgl.user_begin() + LONG
        children = state.fork(2)
        for n, child in enumerate(children):
            child += f"question {n}" + sgl.user_end() + sgl.assistant(gen("a"))
        assert [child["a"] for child in children] == ["ok", "ok"]
        for _, sent in server.seen:
            assert marked(sent) == [LONG]
            assert sent["messages"][0]["content"][1]["text"].startswith("question")


def test_white_space_between_parts_joins_its_neighbour() -> None:
    sent = request(job(messages(("user", [TextPart("one"), TextPart("\n"), TextPart("two")]))))
    assert [block["text"] for block in sent["messages"][0]["content"]] == ["one\n", "two"]


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (refusal(401, "authentication_error", "invalid x-api-key"), AuthenticationFailed, "api_key="),
        (refusal(403, "permission_error", "not allowed"), AuthenticationFailed, "not allowed"),
        (refusal(404, "not_found_error", "model: claude-haiku-4-5"), ModelMissing, "claude-haiku-4-5"),
        (refusal(400, "invalid_request_error", "stop_sequences: too many"), BadArgument, "stop_sequences: too many"),
        (refusal(429, "rate_limit_error", "slow down", **{"retry-after": "7"}), RateLimited, "slow down"),
        (refusal(529, "overloaded_error", "Overloaded"), RequestFailed, "Overloaded"),
        (refusal(500, "api_error", "Internal server error"), RequestFailed, "Internal server error"),
    ],
)
def test_what_the_api_refuses_is_one_typed_line(reply: Reply, error: type[SglError], message: str) -> None:
    with claude(reply) as (backend, _), pytest.raises(error, match=message) as caught:
        ask(backend)
    assert "\n" not in str(caught.value)
    assert "canary" not in f"{caught.value!r} {caught.value}"


def test_an_error_inside_a_stream_keeps_the_text_that_came() -> None:
    late = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    reply = events(start(), *text("half"), late, named=True)
    with claude(reply) as (backend, _), pytest.raises(RequestFailed, match="Overloaded") as caught:
        ask(backend)
    assert caught.value.partial == ("half",)


def test_a_stream_that_is_cut_keeps_the_text_that_came() -> None:
    with claude(events(start(), *text("half"), named=True)) as (backend, _), pytest.raises(ConnectionFailed, match="before") as caught:
        ask(backend)
    assert caught.value.partial == ("half",)


def test_without_a_key_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    with pytest.raises(AuthenticationFailed, match="ANTHROPIC_API_KEY"):
        Anthropic("claude-haiku-4-5")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-canary-0123456789")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")  # not its own host: the key stays here
    backend = Anthropic("claude-haiku-4-5", retries=0)
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"):
        ask(backend)
    assert "canary" not in repr(backend) + repr(vars(backend))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"effort": "much"}, "effort"), ({"thinking_tokens": -1}, "thinking_tokens"), ({"temperature": 1}, "temperature")],
)
def test_a_bad_argument_of_the_constructor(given: Any, message: str) -> None:
    with pytest.raises((BadArgument, TypeError), match=message):
        Anthropic("claude-haiku-4-5", api_key="sk-ant-canary-0123456789", **given)


def test_the_longest_beginning_of_a_name_tells_the_model() -> None:
    assert claude_of("claude-opus-5-5-20260922") is MODELS["claude-opus-5-5"]
    assert claude_of("claude-opus-5") is MODELS["claude-opus-5"]
    assert claude_of("claude-haiku-4-5@20251001") is MODELS["claude-haiku-4-5"]
    assert claude_of("other") is UNKNOWN


def test_every_model_of_the_sdk_is_known() -> None:
    from typing import get_args

    from anthropic.types import ModelParam

    names = [name for literal in get_args(ModelParam) for name in get_args(literal)]
    assert names
    assert [name for name in names if claude_of(name) is UNKNOWN] == []


def test_an_answer_is_json_on_both_sides() -> None:
    with claude(says('{"street": "Rue"}')) as (backend, _):
        (output,), listener = ask(backend, constraint=Constraint("json_schema", ADDRESS))
    assert (json.loads(output.text), output.is_complete, listener.text) == ({"street": "Rue"}, True, output.text)
    with claude(says('{"street": "Ru', reason="max_tokens")) as (backend, _):
        (output,), _ = ask(backend, constraint=Constraint("json_schema", ADDRESS))
    assert (output.finish_reason, output.is_complete) == ("length", False)


def test_params_of_a_job_are_not_changed() -> None:
    chat = job(HELLO, max_tokens=7)
    request(chat)
    assert chat == ChatJob(HELLO, SamplingParams(max_tokens=7))
