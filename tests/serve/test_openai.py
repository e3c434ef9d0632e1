"""The `openai` SDK, and SGLang's native requests, against the door."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from sgl_lab.contracts.errors import BadArgument
from sgl_lab.lang.form import of_schema
from sgl_lab.lang.schemas import read_json
from sgl_lab.serve import Door, tools

from .calls import call, events, is_idle, until

HELLO = [{"role": "system", "content": "Answer shortly."}, {"role": "user", "content": "Name a colour."}]


@pytest.fixture(scope="module")
def client(door: Door) -> openai.OpenAI:
    return openai.OpenAI(**door.client, max_retries=0)


def test_a_chat_whole_and_in_pieces(door: Door, client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    asked["extra_body"] = {"regex": "[a-z ]{8}"}  # a random model says half characters
    whole = client.chat.completions.create(**asked)
    choice = whole.choices[0]
    assert whole.usage.prompt_tokens > 20
    assert whole.usage.completion_tokens >= len(choice.logprobs.content) > 0
    assert "".join(bytes(one.bytes).decode() for one in choice.logprobs.content) == choice.message.content
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == choice.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == choice.finish_reason
    tokens = [one.token for chunk in chunks if chunk.choices and chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert tokens == [one.token for one in choice.logprobs.content]
    usage = chunks[-1].usage
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1
    assert until(lambda: is_idle(door))


def test_samples_stops_and_schemas(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3, n=3, seed=7)  # type: ignore[arg-type]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    numbers = "Count: 1, 2, 3, 4, 5, 6,"
    stopped = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": numbers}], max_tokens=8, stop=[" ", "e"], temperature=0, seed=1
    )
    assert not {" ", "e"} & set(stopped.choices[0].message.content or "")
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"], "additionalProperties": False}
    made = client.chat.completions.create(
        model="tiny",
        messages=HELLO,  # type: ignore[arg-type]
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema, "strict": True}},
    )
    assert json.loads(made.choices[0].message.content or "")["colour"] in ("red", "blue")


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"$ref": "#/$defs/Town"}},
            "required": ["town"],
            "$defs": {"Town": {"enum": ["Oslo", "Rome"]}},
        },
    },
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_read(client: openai.OpenAI, stream: bool) -> None:
    asked = {"model": "tiny", "messages": HELLO, "tools": [TOOL], "tool_choice": "required", "max_tokens": 60}
    if stream:
        with client.chat.completions.stream(**asked) as given:  # type: ignore[arg-type]
            found = given.get_final_completion()
    else:
        found = client.chat.completions.create(**asked)  # type: ignore[call-overload]
    (choice,) = found.choices
    assert choice.finish_reason == "tool_calls"
    (made,) = choice.message.tool_calls
    assert json.loads(made.function.arguments)["town"] in ("Oslo", "Rome")
    turn = {"role": "assistant", "tool_calls": [made.model_dump(include={"id", "type", "function"})]}
    after = [*HELLO, turn, {"role": "tool", "tool_call_id": made.id, "content": "rain"}]
    again = client.chat.completions.create(model="tiny", messages=after, tools=[TOOL], max_tokens=4)  # type: ignore[list-item]
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 100  # the tools' part of the prompt


def test_an_answer_under_a_schema_may_be_a_call_of_a_tool() -> None:
    schema = {"type": "object", "properties": {"colour": {"$ref": "#/$defs/C"}}, "required": ["colour"], "$defs": {"C": {"enum": ["red"]}}}
    tool = tools.Tool("weather", "", TOOL["function"]["parameters"])  # type: ignore[index,arg-type]
    chosen = tools.of([tool], "auto")
    constraint = chosen.constraint(of_schema(schema).constraint, "response_format")
    assert constraint is not None
    for text, fits in {'{"colour": "red"}': 1, '{"name": "weather", "arguments": {"town": "Oslo"}}': 1, '{"name": "weather"}': 0}.items():
        try:
            read_json(constraint.source, text)
        except ValueError:
            assert not fits, text
        else:
            assert fits, text
    held = {"": 1, ' {"na': 1, '{ "name": "weather"': 1, '{"colour"': 0, "```": 1, "A fine day": 0}
    assert {text: chosen.may_be_call(text) for text in held} == held
    with pytest.raises(BadArgument, match="has no response_format"):
        tools.of([tool], "required").constraint(of_schema(schema).constraint, "response_format")
    assert tools.of([tool], "auto").constraint(None, "response_format") is None


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_a_schema_in_one_request(client: openai.OpenAI, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": {"enum": ["red", "blue"]}, "strict": True}}
    asked = {"model": "tiny", "messages": HELLO, "tools": [TOOL], "response_format": form, "max_tokens": 60}
    if stream:
        with client.chat.completions.stream(**asked) as given:  # type: ignore[arg-type]
            (choice,) = given.get_final_completion().choices
    else:
        (choice,) = client.chat.completions.create(**asked).choices  # type: ignore[call-overload]
    if choice.message.tool_calls:
        assert json.loads(choice.message.tool_calls[0].function.arguments)["town"] in ("Oslo", "Rome")
    else:
        assert json.loads(choice.message.content) in ("red", "blue")


def test_errors_are_the_sdks_own(door: Door, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], temperature=-1)
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_generate_as_sglang_has_it(door: Door) -> None:
    asked: dict[str, Any] = {"text": "The capital of France is", "sampling_params": {"max_new_tokens": 3, "temperature": 0}}
    status, one = call(door, "/generate", asked | {"return_logprob": True, "logprob_start_len": 20, "top_logprobs_num": 1})
    assert status == 200
    meta = one["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 3}
    assert meta["prompt_tokens"] == len(asked["text"])
    assert [entry[0] is None for entry in meta["input_token_logprobs"]] == [True, False, False, False]
    assert [entry[1] for entry in meta["output_token_logprobs"]] == one["output_ids"]
    ids = call(door, "/tokenize", {"prompt": asked["text"]})[1]["tokens"]
    again = call(door, "/generate", {"input_ids": [ids, ids], "sampling_params": {"max_new_tokens": 3, "temperature": 0}})[1]
    assert [each["text"] for each in again] == [one["text"]] * 2
    assert again[0]["meta_info"]["cached_tokens"] == 23
    streamed = events(call(door, "/generate", asked | {"stream": True})[1])
    assert streamed[-1]["text"] == one["text"]
    assert [each["meta_info"]["cached_tokens"] for each in streamed] == [23] * len(streamed), "known with the first frame"
    assert streamed[-1]["meta_info"]["finish_reason"]["type"] == "length"
    assert all(one["text"].startswith(each["text"]) for each in streamed)
    held = call(door, "/generate", {"text": "x = ", "sampling_params": {"max_new_tokens": 5, "regex": "[0-9]{3}"}})[1]
    assert held["text"].isdecimal()
    assert call(door, "/detokenize", {"tokens": ids})[1]["text"] == asked["text"]


def test_what_a_server_tells_of_itself(door: Door) -> None:
    assert call(door, "/get_model_info")[1] == call(door, "/model_info")[1]
    assert call(door, "/get_model_info")[1]["model_path"] == door.lab.card.name
    info = call(door, "/server_info")[1]
    assert info["internal_states"][0]["stats"]["pages_total"] > 0
    assert "sgl_lab_door_held 0" in call(door, "/metrics")[1]
    assert call(door, "/health_generate")[0] == 200
    assert call(door, "/flush_cache", {})[0] == 200
    assert door.lab.stats()["nodes"] <= 2


def test_a_request_of_one_sequence_takes_one_way_to_the_pool(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    assert door._state is not None
    ways: list[str] = []
    aside = door._state.aside

    async def counted(function: Any, *arguments: Any) -> Any:
        ways.append(function.__name__)
        return await aside(function, *arguments)

    monkeypatch.setattr(door._state, "aside", counted)
    for n, wanted in ((1, ["_begin"]), (2, ["_begin", "_start"])):
        ways.clear()
        asked = {"model": "tiny", "messages": HELLO, "max_tokens": 1, "n": n}
        assert call(door, "/v1/chat/completions", asked)[0] == 200
        assert ways == wanted
