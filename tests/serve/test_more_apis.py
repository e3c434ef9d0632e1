"""Completions, responses, Anthropic's messages and decisions, each with the vendor's own SDK."""

from __future__ import annotations

import json
import math
from typing import Any

import anthropic
import openai
import pytest

from sgl_lab.contracts.errors import BadArgument
from sgl_lab.contracts.port import Message
from sgl_lab.serve import Door
from sgl_lab.serve.conversations import MAX_RESPONSES, Conversations

from .calls import call, is_idle, until

ASK = "Name a colour."
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"], "additionalProperties": False}
TOWN = {"type": "object", "properties": {"town": {"enum": ["Oslo", "Rome"]}}, "required": ["town"]}


@pytest.fixture(scope="module")
def client(door: Door) -> openai.OpenAI:
    return openai.OpenAI(**door.client, max_retries=0)


@pytest.fixture(scope="module")
def claude(door: Door) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=door.url, api_key=door.token, max_retries=0)


# ---------------------------------------------------------------- completions


def test_completions_of_several_prompts(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": ["One, two,", "Red, green,"], "max_tokens": 4, "temperature": 0}
    whole = client.completions.create(**asked, n=2, logprobs=2)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.usage.completion_tokens == 16
    given = whole.choices[0].logprobs
    assert "".join(given.tokens) == whole.choices[0].text
    assert given.text_offset == [sum(map(len, given.tokens[:i])) for i in range(4)]
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == [whole.choices[0].text, whole.choices[2].text]


def test_an_echo_scores_the_prompt(client: openai.OpenAI) -> None:
    found = client.completions.create(model="tiny", prompt="One, two, three", max_tokens=0, echo=True, logprobs=1)
    given = found.choices[0].logprobs
    assert found.choices[0].text == "".join(given.tokens) == "One, two, three"
    assert given.token_logprobs[0] is None
    assert all(logprob < 0 for logprob in given.token_logprobs[1:])


# ---------------------------------------------------------------- responses


def test_a_response_whole_and_in_pieces(client: openai.OpenAI) -> None:
    ends = {"regex": "[A-Z][a-z]{2,9}"}  # the SDK waits for a response that is complete
    asked: dict[str, Any] = {"model": "tiny", "input": ASK, "instructions": "Be short.", "temperature": 0, "extra_body": ends}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    assert streamed.output_text == whole.output_text != ""
    assert kinds[0] == "response.created"
    assert kinds[-1] == f"response.{whole.status}"
    assert streamed.usage.input_tokens_details.cached_tokens == whole.usage.input_tokens - 1
    turns = [{"role": "user", "content": ASK}, *[item.model_dump() for item in whole.output], {"role": "user", "content": "Another."}]
    again = client.responses.create(**asked | {"input": turns})
    assert again.usage.input_tokens_details.cached_tokens >= whole.usage.input_tokens - 1


def test_a_response_of_a_schema_and_of_a_tool(client: openai.OpenAI) -> None:
    form = {"format": {"type": "json_schema", "name": "c", "schema": SCHEMA, "strict": True}}
    made = client.responses.create(model="tiny", input=ASK, text=form)  # type: ignore[arg-type]
    assert json.loads(made.output_text)["colour"] in ("red", "blue")
    tool = {"type": "function", "name": "weather", "parameters": TOWN, "strict": True}
    asked: dict[str, Any] = {"model": "tiny", "input": ASK, "tools": [tool], "tool_choice": {"type": "function", "name": "weather"}}
    (called,) = client.responses.create(**asked).output
    assert (called.type, called.name) == ("function_call", "weather")
    with client.responses.stream(**asked) as stream:
        arguments = [event.arguments for event in stream if event.type == "response.function_call_arguments.done"]
    assert json.loads(arguments[0])["town"] in ("Oslo", "Rome")
    result = {"type": "function_call_output", "call_id": called.call_id, "output": "rain"}
    turns = [{"role": "user", "content": ASK}, called.model_dump(), result]
    assert client.responses.create(model="tiny", input=turns, max_output_tokens=3).output_text  # type: ignore[arg-type]
    again = client.responses.create(model="tiny", input="And in Rome?", previous_response_id=made.id, max_output_tokens=3)
    assert again.previous_response_id == made.id
    assert again.usage.input_tokens_details.cached_tokens > made.usage.input_tokens


def test_a_response_goes_on_from_one_that_is_kept(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "temperature": 0, "extra_body": {"regex": "[a-z]{4}"}}
    first = client.responses.create(**asked, input=ASK, instructions="Be short.")
    with client.responses.stream(**asked, input="Another.", previous_response_id=first.id) as stream:
        second = stream.until_done().get_final_response()
    third = client.responses.create(**asked, input="A last one.", previous_response_id=second.id)
    history = [{"role": "user", "content": ASK}, *first.output, {"role": "user", "content": "Another."}, *second.output]
    turns = [turn if isinstance(turn, dict) else turn.model_dump() for turn in history]
    whole = client.responses.create(**asked, input=[*turns, {"role": "user", "content": "A last one."}])
    assert whole.output_text == third.output_text
    assert whole.usage.input_tokens == third.usage.input_tokens  # instructions are of one response
    gone = client.responses.create(**asked, input=ASK, store=False)
    with pytest.raises(openai.BadRequestError, match="there is no response"):
        client.responses.create(**asked, input="And?", previous_response_id=gone.id)


def test_the_oldest_responses_of_a_client_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Conversations()
    turn = [Message("user", "a" * 10)]
    for number in range(MAX_RESPONSES + 2):
        kept.keep("busy", f"r{number}", turn)
    kept.keep("other", "mine", turn)
    for gone in ("r0", "r1"):
        with pytest.raises(BadArgument):
            kept.turns(gone)
    assert kept.turns("r2") == kept.turns("mine") == tuple(turn)
    monkeypatch.setattr("sgl_lab.serve.conversations.MAX_CHARS", 25)
    kept.keep("other", "last", turn)
    assert kept.turns("last") == tuple(turn)
    with pytest.raises(BadArgument):
        kept.turns("r9")


# ---------------------------------------------------------------- Anthropic


def test_a_message_whole_and_in_pieces(door: Door, claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "system": "Be short.", "messages": [{"role": "user", "content": ASK}]}
    greedy = {"extra_body": {"temperature": 0}}
    whole = claude.messages.create(**asked, **greedy)
    with claude.messages.stream(**asked, **greedy) as stream:
        first = next(event.message.usage for event in stream if event.type == "message_start")
        counts = (first.input_tokens, first.cache_read_input_tokens)
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == whole.content[0].text == streamed.content[0].text
    assert streamed.stop_reason == whole.stop_reason
    n_prompt = claude.messages.count_tokens(model="tiny", messages=asked["messages"], system="Be short.").input_tokens
    assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == n_prompt
    assert (streamed.usage.input_tokens, streamed.usage.cache_read_input_tokens) == (1, n_prompt - 1)
    assert counts == (1, n_prompt - 1), "known with the first event"
    assert until(lambda: is_idle(door))


def test_a_message_stops_begins_and_calls(claude: anthropic.Anthropic) -> None:
    counting = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "1, 2, 3, 4,"}]
    stopped = claude.messages.create(
        model="tiny",
        max_tokens=12,
        messages=counting,
        stop_sequences=[","],
        extra_body={"regex": "[a-z]{3},[a-z]"},  # type: ignore[arg-type]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ",")
    tool = {"name": "weather", "description": "of a town", "input_schema": TOWN}
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 60, "tools": [tool], "tool_choice": {"type": "any"}}
    turn = {"role": "user", "content": [{"type": "text", "text": ASK}]}
    called = claude.messages.create(**asked, messages=[turn])
    (use,) = called.content
    assert (called.stop_reason, use.type, use.name) == ("tool_use", "tool_use", "weather")
    with claude.messages.stream(**asked, messages=[turn]) as stream:
        assert stream.get_final_message().content[0].input["town"] in ("Oslo", "Rome")
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"}]}
    history = {"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"})]}
    assert claude.messages.create(model="tiny", max_tokens=3, messages=[turn, history, result], tools=[tool]).content
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    made = claude.messages.create(model="tiny", max_tokens=40, messages=[turn], output_config=form)  # type: ignore[arg-type,list-item]
    assert json.loads(made.content[0].text)["colour"] in ("red", "blue")


def test_errors_of_messages_are_spelled_as_anthropics(door: Door, claude: anthropic.Anthropic) -> None:
    turn = {"role": "user", "content": ASK}
    with pytest.raises(anthropic.NotFoundError, match="there is no model"):
        claude.messages.create(model="claude", max_tokens=1, messages=[turn])  # type: ignore[list-item]
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="wrong").messages.create(model="tiny", max_tokens=1, messages=[turn])  # type: ignore[list-item]
    status, answer = call(door, "/v1/messages", {"messages": [turn]})
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")


# ---------------------------------------------------------------- decisions

QUESTIONS = [
    {"type": "predicate", "name": "spam", "instructions": "Is this an advertisement?"},
    {"type": "choice", "instructions": "Which colour?", "choices": [{"value": "red"}, {"value": "blue", "description": "as the sky"}]},
    {"type": "choice", "instructions": "Is it so?", "choices": [{"value": True}, {"value": False}]},
    {"type": "score", "instructions": "How long?", "levels": [{"label": "short"}, {"label": "middle"}, {"label": "long"}]},
    {"type": "choice", "instructions": "Which number?", "choices": [{"value": str(i)} for i in range(30)]},
]


def probabilities(answer: Any) -> list[float]:
    return [answer.probability] if answer.type == "predicate" else [each.probability for each in answer.probabilities]


def test_many_questions_are_one_trie_over_one_state(door: Door, client: openai.OpenAI) -> None:
    state = "The sky was blue and the grass was green. " * 20
    before = door.lab.stats()
    decided = client.decisions.create(model="tiny", input=state, questions=QUESTIONS)  # type: ignore[arg-type]
    computed = door.lab.stats()["computed_tokens"] - before["computed_tokens"]
    n_state = call(door, "/tokenize", {"prompt": state})[1]["count"]
    assert n_state < computed < 4 * n_state  # the state once, and five questions, of which one is long
    kinds = [answer.type for answer in decided.answers]
    assert kinds == ["predicate", "choice", "choice", "score", "choice"]
    for answer in decided.answers[1:]:
        assert math.isclose(sum(each.probability for each in answer.probabilities), 1)  # type: ignore[union-attr]
    assert isinstance(decided.answers[2].choice, bool)  # type: ignore[union-attr]
    assert decided.answers[0].name == "spam"
    again = client.decisions.create(model="tiny", input=[{"role": "user", "content": state}], questions=QUESTIONS)  # type: ignore[arg-type,list-item]
    assert again.usage.input_tokens_details.cached_tokens >= n_state
    for one, other in zip(decided.answers, again.answers, strict=True):
        assert probabilities(one) == pytest.approx(probabilities(other), abs=1e-4)


def test_a_label_has_the_probability_that_the_model_gives_it(door: Door) -> None:
    """The same as scoring each letter by itself through /generate."""
    state, levels = "It is urgent!", ["Can wait", "This week", "Today"]
    question = {"type": "score", "instructions": "How urgent is it?", "criteria": levels}
    answer = call(door, "/v1/systemone", {"model": "tiny", "state": state, "questions": {"u": question}})[1]["answers"]["u"]
    lines = [f"{letter}. {level}" for letter, level in zip("ABC", levels, strict=True)]
    text = "\n".join([f"{state}\n\nHow urgent is it?", *lines, "Answer with the letter of the level that fits best (A to C) only."])
    prompt = call(door, "/tokenize", {"messages": [{"role": "user", "content": text}]})[1]["tokens"]
    letters = [call(door, "/tokenize", {"prompt": letter})[1]["tokens"] for letter in "ABC"]
    body = {"input_ids": [prompt + letter for letter in letters], "return_logprob": True, "logprob_start_len": len(prompt) - 1}
    found = call(door, "/generate", body | {"sampling_params": {"max_new_tokens": 0}})[1]
    weights = [math.exp(each["meta_info"]["input_token_logprobs"][-1][0]) for each in found]
    for level, weight in enumerate(weights):
        assert answer["probabilities"][str(level)] == pytest.approx(weight / sum(weights), abs=1e-3)
    assert answer["score"] == pytest.approx(sum(level * p for level, p in enumerate(answer["probabilities"].values())))


def test_systemone_has_its_own_form(door: Door) -> None:
    questions = {
        "ad": {"type": "noul", "instructions": "Is it an ad?", "criteria": {"true": "it sells", "false": None}},
        "tone": {"type": "choice", "criteria": {"calm": "polite", "angry": None}},
    }
    status, found = call(door, "/v1/systemone", {"model": "tiny", "state": {"text": "Buy now!"}, "questions": questions})
    assert status == 200
    assert 0 < found["answers"]["ad"]["noul"] < 1
    assert set(found["answers"]["tone"]["probabilities"]) == {"calm", "angry"}
    for wrong in ({}, {"q": {"type": "x"}}, {"q": {"type": "choice"}}, {"q": {"type": "noul", "x": 1}}):
        assert call(door, "/v1/systemone", {"state": "a", "questions": wrong})[0] == 400
    assert call(door, "/v1/decisions", {"input": "a", "questions": []})[0] == 400
    assert call(door, "/v1/decisions", {"input": "a", "questions": [{"type": "predicate", "instructions": ""}]})[0] == 400
