"""OpenAI's API through its own SDK: what is sent is what the SDK's types allow, and what comes back becomes values, counts and errors."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.openai import OpenAI
from sgl_lab.backends.remote.prices import find_prices
from sgl_lab.backends.remote.whole import is_whole
from sgl_lab.contracts.conversation import ChatJob, ChatMessage, ImagePart, TextPart, ToolCallPart, ToolResultPart
from sgl_lab.contracts.errors import (
    AuthenticationFailed,
    BackendUnsupported,
    BadArgument,
    ConnectionFailed,
    ModelMissing,
    PromptTooLong,
    RateLimited,
    RequestFailed,
    UnfinishedValue,
)
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.lang.surface import gen

from .api import Api, ApiCall, Reply
from .language import watchdog
from .vendors import ask

__all__ = ["watchdog"]

KEY = "sk-test-0123456789abcdef"
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 6,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 2},
}
MODELS = {"data": [{"id": "tiny", "object": "model", "owned_by": "vllm", "max_model_len": 4096}], "object": "list"}


def chunk(delta: dict[str, Any] | None, index: int = 0, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choices = (
        [] if delta is None else [{"index": index, "delta": delta, "finish_reason": reason, "logprobs": more.pop("logprobs", None)} | more]
    )
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}


def answered(*texts: str, reason: str = "stop", **more: Any) -> Reply:
    """A whole answer as the API streams it."""
    chunks = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": text}) for text in texts), chunk({}, reason=reason, **more)]
    return Reply(events=[*chunks, chunk(None) | {"usage": USAGE}, "[DONE]"])


def checked(body: Any, params: Any) -> Any:
    """The body, once the SDK's own type of a request allows it, to its last part."""
    adapter = TypeAdapter(params)  # it has to outlive what it validates as it is read
    _drain(adapter.validate_python(body))
    return body


def _drain(value: Any) -> None:
    """Go through all of it: what the types call iterable is checked when it is read."""
    for part in value.values() if isinstance(value, dict) else value if not isinstance(value, str) and hasattr(value, "__iter__") else ():
        _drain(part)


def chat_params() -> Any:
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    return CompletionCreateParamsStreaming


def openai(at: Api, model: str = "gpt-4o-mini", **given: Any) -> OpenAI:
    return OpenAI(model, base_url=at.url, server="openai", **{"api_key": KEY, "retries": 0, **given})


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SGL_LAB_PRICES"):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------- chat


def test_a_program_is_sent_as_a_chat_and_its_counts_and_cost_come_back() -> None:
    with Api(lambda asked: answered("The ", "Louvre"), "/v1") as api:
        backend = openai(api, prices=find_prices("openai", "gpt-4o-mini").prices)  # type: ignore[union-attr]
        s = sgl.start(backend)
        s += sgl.system("Be terse.") + sgl.user("A sight?") + sgl.assistant(gen("a", max_tokens=9, temperature=0, stop=["."], seed=3))
        assert s["a"] == "The Louvre"
        meta = s.get_meta_info("a")
    (body,) = api.bodies("/v1/chat/completions")
    checked(body, chat_params())
    assert body["messages"] == [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "A sight?"}]
    assert {name: body[name] for name in ("max_completion_tokens", "temperature", "stop", "seed", "stream")} == {
        "max_completion_tokens": 9, "temperature": 0, "stop": ["."], "seed": 3, "stream": True,
    }  # fmt: skip
    assert "top_p" not in body
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"], meta["written_tokens"]) == (20, 6, 16, 2)
    assert meta["cost"] == pytest.approx((4 * 0.15 + 16 * 0.075 + 6 * 0.6) / 1e6)
    assert api.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_several_samples_with_their_log_probabilities() -> None:
    def answer(asked: ApiCall) -> Reply:
        token = {"token": "x", "bytes": [120], "logprob": -0.5, "top_logprobs": [{"token": "x", "bytes": None, "logprob": -0.5}]}
        pieces = [chunk({"content": "x"}, i, "length", logprobs={"content": [token], "refusal": None}) for i in (1, 0)]
        return Reply(events=[*pieces, chunk(None) | {"usage": USAGE}, "[DONE]"])

    with Api(answer, "/v1") as api:
        s = sgl.start(openai(api))
        s += sgl.user("Q") + sgl.assistant(gen("a", n=2, max_tokens=1, return_logprob=True, top_logprobs_num=1))
        assert s["a"] == ["x", "x"]
        first, second = s.get_meta_info("a")
    assert first["output_token_logprobs"] == [(-0.5, None, "x")]
    assert first["output_top_logprobs"] == [[(-0.5, None, "x")]]
    assert (first["finish_reason"], first["completion_tokens"] + second["completion_tokens"]) == ("length", 6)
    body = checked(api.bodies("/v1/chat/completions")[0], chat_params())
    assert (body["n"], body["logprobs"], body["top_logprobs"]) == (2, True, 1)


def test_a_schema_is_made_strict_and_another_root_is_wrapped_and_unwrapped() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
    answers = iter([answered('{"a": 1, ', '"b": "x"}'), answered('{"value": "ké'), answered('{"value": "ké"}')])
    with Api(lambda asked: next(answers), "/v1") as api:
        s = sgl.start(openai(api))
        s += sgl.user("Q") + sgl.assistant(gen("x", json_schema=schema))
        assert s.value("x") == {"a": 1, "b": "x"}
        s += sgl.user("Q") + sgl.assistant(sgl.select("cut", ["ké", "no"]))
        with pytest.raises(RequestFailed, match="none of the choices"):
            _ = s["cut"]
        s = sgl.start(openai(api))
        s += sgl.user("Q") + sgl.assistant(sgl.select("y", ["ké", "no"]))
        assert s["y"] == "ké"
        with pytest.raises(BackendUnsupported, match="cannot be held to a JSON schema with an object whose keys are not listed"):
            s += sgl.user("Q") + sgl.assistant(gen("z", json_schema={"type": "object", "additionalProperties": {"type": "integer"}}))
    first, _, third = (checked(body, chat_params())["response_format"]["json_schema"] for body in api.bodies("/v1/chat/completions"))
    assert first["strict"] is True
    assert (first["schema"]["required"], first["schema"]["additionalProperties"]) == (["a", "b"], False)
    assert third["schema"]["properties"]["value"] == {"enum": ["ké", "no"], "type": "string"}


def test_images_calls_and_results_are_sent_in_the_servers_own_form() -> None:
    prompt = (
        ChatMessage("user", (TextPart("What?"), ImagePart("image/png", b"abc"))),
        ChatMessage("assistant", (ToolCallPart("c1", "look", '{"at": 1}'),)),
        ChatMessage("tool", (ToolResultPart("c1", "a cat"),)),
        ChatMessage("user", (TextPart("So?"),)),
    )
    from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

    from sgl_lab.backends.openai import chat, responses
    from sgl_lab.backends.openai.servers import OPENAI

    job = ChatJob(prompt, SamplingParams(max_tokens=5))
    body = checked(chat.request(job, "gpt-4o", OPENAI), chat_params())
    assert body["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}}
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": 1}'}
    assert body["messages"][2] == {"role": "tool", "tool_call_id": "c1", "content": "a cat"}
    left = ChatJob((*prompt[:2], prompt[3]), job.params)  # whose call has no result
    assert chat.request(left, "gpt-4o", OPENAI)["messages"][1] == {
        "role": "assistant",
        "content": '{"name": "look", "arguments": {"at": 1}}',
    }
    body = responses.request(job, "gpt-4o", OPENAI)
    checked(body, ResponseCreateParamsStreaming)
    assert [item["type"] for item in body["input"]] == ["message", "function_call", "function_call_output", "message"]
    assert body["max_output_tokens"] == 5


def test_a_tool_is_called_and_what_it_says_goes_back() -> None:
    def add(a: int, b: int) -> int:
        """The sum."""
        return a + b

    call = [{"index": 0, "id": "call_7", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, '}}]
    rest = [{"index": 0, "function": {"arguments": '"b": 2}'}}]
    end = [chunk(None) | {"usage": USAGE}, "[DONE]"]
    answers = iter(
        [Reply(events=[chunk({"tool_calls": call}), chunk({"tool_calls": rest}), chunk({}, reason="tool_calls"), *end]), answered("3")]
    )
    with Api(lambda asked: next(answers), "/v1") as api:
        s = sgl.start(openai(api))
        s += sgl.user("1+2?") + sgl.assistant(gen("call", tools=[add], execute=True)) + sgl.assistant(gen("x"))
        assert s["x"] == "3"
    first, second = (checked(body, chat_params()) for body in api.bodies("/v1/chat/completions"))
    assert (first["tool_choice"], first["tools"][0]["function"]["name"]) == ("required", "add")
    assert "call_7" in json.dumps(second)
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]


def test_a_call_whose_tokens_ran_out_is_an_unfinished_value() -> None:
    def look(at: str) -> str:
        """It."""
        return at

    call = [{"index": 0, "id": "call_7", "type": "function", "function": {"name": "look", "arguments": '{"at": "the sk'}}]
    reply = Reply(events=[chunk({"tool_calls": call}), chunk({}, reason="length"), "[DONE]"])
    with Api(lambda asked: reply, "/v1") as api:
        s = sgl.start(openai(api))
        s += sgl.user("Q") + sgl.assistant(gen("call", tools=[look]))
        with pytest.raises(UnfinishedValue, match="ran out of tokens") as caught:
            s.value("call")
        assert caught.value.text == s["call"] == '{"name": "look", "arguments": {"at": "the sk'


def test_a_refusal_and_a_thought_are_told_apart_from_the_text() -> None:
    thought = [chunk({"reasoning_content": "hm "}), chunk({"reasoning_content": "yes"})]
    answers = iter(
        [
            Reply(events=[*thought, chunk({"content": "ok"}), chunk({}, reason="stop"), "[DONE]"]),
            Reply(events=[chunk({"refusal": "I can't."}), chunk({}, reason="stop"), "[DONE]"]),
        ]
    )
    with Api(lambda asked: next(answers), "/v1") as api:
        s = sgl.start(openai(api))
        s += sgl.user("Q") + sgl.assistant(gen("a"))
        assert (s["a"], s.get_meta_info("a")["reasoning_content"]) == ("ok", "hm yes")
        s += sgl.user("Q") + sgl.assistant(gen("b"))
        assert (s["b"], s.get_meta_info("b")["finish_reason"]) == ("I can't.", "refusal")


# ---------------------------------------------------------------- responses, completions, decisions


def test_the_same_program_through_responses() -> None:
    from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

    usage = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    usage |= {"input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 1}}  # type: ignore[dict-item]
    whole = {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "output": [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
    }
    whole |= {"tools": [], "usage": usage, "status": "completed"}

    def delta(text: str) -> dict[str, Any]:
        where = {"item_id": "i", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
        return {"type": "response.output_text.delta", "delta": text} | where

    done = {"type": "response.completed", "response": whole, "sequence_number": 9}
    cut = {"type": "response.incomplete", "response": whole | {"incomplete_details": {"reason": "max_output_tokens"}}, "sequence_number": 9}
    failed = {
        "type": "response.failed",
        "response": whole | {"error": {"code": "server_error", "message": "it broke"}},
        "sequence_number": 9,
    }
    answers = iter([[delta("a "), delta("b"), done], [delta("a"), cut], [delta("a")], [delta("a"), failed]])
    with Api(lambda asked: Reply(events=next(answers)), "/v1") as api:
        backend = openai(api, api="responses")
        s = sgl.start(backend)
        s += sgl.system("S") + sgl.user("Q") + sgl.assistant(gen("x", max_tokens=50, temperature=0.5))
        assert s["x"] == "a b"
        meta = s.get_meta_info("x")
        assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (9, 3, 4)
        s += sgl.user("Q") + sgl.assistant(gen("y"))
        assert s.get_meta_info("y")["finish_reason"] == "length"
        for message in ("ended its answer before it was complete", "it broke"):
            s = sgl.start(backend)
            s += sgl.user("Q") + sgl.assistant(gen("z"))
            with pytest.raises(RequestFailed, match=message) as caught:
                _ = s["z"]
            assert caught.value.partial == ("a",)
        with pytest.raises(BackendUnsupported, match="stop"):
            sgl.start(backend).append_expression(sgl.user("Q") + sgl.assistant(gen("z", stop="x")))
    checked(api.bodies("/v1/responses")[0], ResponseCreateParamsStreaming)
    assert OpenAI("gpt-5-pro", api_key=KEY).mode == "responses"


def test_plain_text_through_completions() -> None:
    from openai.types.completion_create_params import CompletionCreateParamsStreaming

    def piece(text: str, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        return {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}

    with Api(lambda asked: Reply(events=[piece("on"), piece("e", "stop"), "[DONE]"]), "/v1") as api:
        s = sgl.start(openai(api, "gpt-3.5-turbo-instruct", api="completions"))
        s += "Count: " + gen("a", max_tokens=5, stop=",")
        assert s["a"] == "one"
    body = checked(api.bodies("/v1/completions")[0], CompletionCreateParamsStreaming)
    assert (body["prompt"], body["max_tokens"], body["stop"]) == ("Count: ", 5, [","])


DECIDED = {
    "model": "gpt-6-luna",
    "answers": [
        {
            "type": "choice",
            "choice": "no",
            "confidence": 0.5,
            "probabilities": [{"value": "yes", "probability": 0.25}, {"value": "no", "probability": 0.75}],
        }
    ],
    "usage": {
        "input_tokens": 8,
        "output_tokens": 0,
        "total_tokens": 8,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    },
}


def test_a_select_is_decided_where_the_server_decides() -> None:
    from openai.types.decision_create_params import DecisionCreateParams

    with Api(lambda asked: Reply(DECIDED), "/v1") as api:
        s = sgl.start(openai(api, "gpt-6-luna"))
        s += sgl.user("Ice is hot?") + sgl.assistant(sgl.select("x", ["yes", "no"]))
        assert s["x"] == "no"
        meta = s.get_meta_info("x")
        assert meta["normalized_prompt_logprobs"] == pytest.approx([-1.386294, -0.287682], abs=1e-5)
        assert (meta["prompt_tokens"], meta["cached_tokens"]) == (8, 3)
        same = sgl.start(openai(api, "gpt-6-luna"))
        same += sgl.user("Q") + sgl.assistant(sgl.select("x", ["yes", "yes"]))
        with pytest.raises(BadArgument, match="two of the choices are the same"):
            _ = same["x"]
    checked(api.bodies("/v1/decisions")[0], DecisionCreateParams)


def test_a_select_without_decisions_and_constraints_is_by_the_first_token() -> None:
    first, second, third = (("No", -0.1), ("Yes", -3.0), ("Hm", -5.0)), (("Maybe", -0.01), ("No", -5.0)), (("N", -0.2), ("Yes", -2.0))
    tops = iter([first, second, third])

    def answer(asked: ApiCall) -> Reply:
        top = next(tops)
        each = {"token": top[0][0], "logprob": top[0][1], "bytes": None}
        entries = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in top]
        return answered(top[0][0], reason="length", logprobs={"content": [each | {"top_logprobs": entries}], "refusal": None})

    def chosen(*choices: str) -> Any:
        s = sgl.start(openai(api, "gpt-3.5-turbo"))
        s += sgl.user("Ice is hot?") + sgl.assistant(sgl.select("x", list(choices)))
        return s

    with Api(answer, "/v1") as api:
        s = chosen("Yes", "No")
        assert s["x"] == "No"
        no, yes = math.exp(-0.1), math.exp(-3.0)
        expected = [math.log(yes / (yes + no)), math.log(no / (yes + no))]
        assert s.get_meta_info("x")["normalized_prompt_logprobs"] == pytest.approx(expected)
        with pytest.raises(RequestFailed, match="none of the choices, but with 'Maybe'"):
            _ = chosen("Yes", "No")["x"]
        with pytest.raises(RequestFailed, match="several choices begin"):
            _ = chosen("No", "Never")["x"]
        with pytest.raises(BackendUnsupported, match="begins with 'No'"):
            _ = chosen("No", "Nobody")["x"]
    bodies = api.bodies("/v1/chat/completions")
    assert len(bodies) == 3, "choices that begin alike are refused before a token is spent"
    assert (bodies[0]["max_completion_tokens"], bodies[0]["top_logprobs"]) == (1, 20)
    checked(bodies[0], chat_params())


# ---------------------------------------------------------------- servers


def serves(kind: str, decides: str = "", *, cannot: tuple[str, ...] = (), **more: Any) -> Any:
    """What a server of this kind answers."""

    def answer(asked: ApiCall) -> Reply:
        if asked.path == "/v1/models":
            return Reply({"data": [{"id": "tiny", "object": "model", "owned_by": kind, **more}], "object": "list"})
        if asked.path in ("/v1/decisions", "/v1/systemone"):
            if decides and asked.path.endswith(decides):
                if not asked.body:
                    return Reply({"detail": "no questions"}, 422)
                if "decide" in cannot:
                    return Reply({"error": {"message": "The model does not support the structured decision API"}}, 501)
                found = {"answers": {"next": {"type": "choice", "probabilities": {"a": 0.9, "b": 0.1}}}, "usage": {"input_tokens": 5}}
                return Reply(found if decides == "systemone" else DECIDED)
            return Reply({"detail": "Not Found"}, 404)
        if asked.path == "/tokenize":
            return Reply({"error": {"message": "tiny is not a multimodal model"}}, 400) if "see" in cannot else Reply({"tokens": [1]})
        return answered("ok", stop_reason="END", matched_stop=None)

    return answer


@pytest.mark.parametrize("takes", [["text"], ["text", "image"]])
def test_llama_cpp_says_whether_its_model_reads_images(takes: list[str]) -> None:
    with Api(serves("llamacpp", architecture={"input_modalities": takes}, meta={"n_ctx": 2048}), "/v1") as api:
        card = OpenAI(base_url=api.url).describe()
    assert (card.capabilities.images, card.context) == ("image" in takes, 2048)
    assert not card.capabilities.tools  # a call is held to a schema there


@pytest.mark.parametrize(
    ("constraint", "text", "reason", "matched", "wanted"),
    [
        (None, "a", "stop", None, None),
        (Constraint("regex", "[0-9]{3}"), "12", "stop", None, True),  # the server ended it, and follows the constraint
        (Constraint("regex", "[0-9]{3}"), "123", "length", None, True),
        (Constraint("regex", "[0-9]{3}"), "12", "length", None, False),
        (Constraint("regex", "[0-9]{3}"), "12", "stop", "3", False),
        (Constraint("json_schema", '{"type": "integer"}'), "12", "length", None, True),
        (Constraint("json_schema", '{"type": "integer"}'), "[1", "length", None, False),
        (Constraint("json_schema", '{"type": "integer"}'), "12", "abort", None, False),
    ],
)
def test_a_text_is_whole_if_it_satisfies_its_constraint(
    constraint: Constraint | None, text: str, reason: str, matched: str | None, wanted: bool | None
) -> None:
    assert is_whole(constraint, text, reason, matched) is wanted


def test_a_server_says_who_it_is_and_gets_what_it_knows() -> None:
    with Api(serves("vllm", max_model_len=4096), "/v1") as api:
        backend = OpenAI(base_url=api.url.removesuffix("/v1"))
        card = backend.describe()
        assert (card.name, card.context, card.capabilities.choices, card.capabilities.continues) == ("tiny", 4096, "generated", True)
        s = sgl.start(backend)
        s += sgl.user("Q") + sgl.assistant("Well, " + gen("a", max_tokens=5, top_k=3, min_p=0.1, regex="o.*", stop_token_ids=[7]))
        assert s["a"] == "ok"
        body = api.bodies("/v1/chat/completions")[-1]
        expected = {"top_k": 3, "min_p": 0.1, "stop_token_ids": [7], "structured_outputs": {"regex": "o.*"}, "max_tokens": 5}
        assert {name: body[name] for name in expected} == expected
        assert (body["continue_final_message"], body["add_generation_prompt"], body["messages"][-1]["content"]) == (True, False, "Well, ")
        assert "authorization" not in api.asked[-1].headers
        with pytest.raises(ModelMissing, match=r"does not serve 'tinny' \(did you mean 'tiny'\?\)"):
            OpenAI("tinny", base_url=api.url)
    with Api(serves("sglang", "decisions"), "/v1") as api:
        assert OpenAI(base_url=api.url.removesuffix("/v1")).describe().capabilities.choices == "decided"


@pytest.mark.parametrize("cannot", [(), ("decide",), ("see",)])
def test_vllm_shows_what_its_model_can_do(cannot: tuple[str, ...]) -> None:
    def look(at: str) -> str:
        """It."""
        return at

    with Api(serves("vllm", "systemone", cannot=cannot), "/v1") as api:
        backend = OpenAI(base_url=api.url)
        can = backend.describe().capabilities
        assert (can.choices, can.images) == ("generated" if "decide" in cannot else "decided", "see" not in cannot)
        s = sgl.start(backend)
        s += sgl.user("Q") + sgl.assistant(gen("call", tools=[look])) + sgl.assistant(gen("n", dtype=int))
        s.sync()
        call, number = api.bodies("/v1/chat/completions")
        assert call["tools"][0]["function"]["strict"] is True, "it holds no other call to its schema"
        assert re.fullmatch(number["structured_outputs"]["regex"], "-12"), "no stop_regex there: nothing may follow the number"
        assert not re.fullmatch(number["structured_outputs"]["regex"], "12 legs")


def test_a_server_with_systemone_decides_through_it() -> None:
    with Api(serves("someone", "systemone"), "/v1") as api:
        s = sgl.start(OpenAI("tiny", base_url=api.url))
        s += sgl.user("Q") + sgl.assistant(sgl.select("x", ["a", "b"]))
        assert s["x"] == "a"
        asked = api.bodies("/v1/systemone")[-1]
        assert asked["questions"]["next"]["criteria"] == {"a": None, "b": None}
        assert asked["state"] == [{"role": "user", "content": "Q"}]


def test_a_server_that_cannot_select_is_refused_before_anything_is_sent() -> None:
    with Api(serves("someone"), "/v1") as api:
        s = sgl.start(OpenAI("tiny", base_url=api.url))
        n = len(api.asked)
        with pytest.raises(BackendUnsupported, match="tiny offers no selects"):
            s += sgl.user("Q") + sgl.assistant(sgl.select("x", ["a", "b"]))
        with pytest.raises(BackendUnsupported, match="top_k"):
            s += sgl.user("Q") + sgl.assistant(gen("x", top_k=2))
        assert len(api.asked) == n


# ---------------------------------------------------------------- what goes wrong

ERRORS: list[tuple[int, dict[str, Any], type[Exception], str]] = [
    (401, {"message": f"Incorrect API key provided: {KEY[:8]}****cdef"}, AuthenticationFailed, "refuses the key from api_key="),
    (403, {"message": "no access"}, AuthenticationFailed, "no access"),
    (404, {"message": "The model does not exist", "code": "model_not_found"}, ModelMissing, "did you mean 'gpt-4o-mini'"),
    (400, {"message": "Unknown parameter: 'x'"}, BadArgument, "Unknown parameter"),
    (400, {"message": "too long", "code": "context_length_exceeded"}, PromptTooLong, "shorten the prompt"),
    (429, {"message": "Rate limit reached"}, RateLimited, "Rate limit reached"),
    (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, RateLimited, "no credit"),
    (500, {"message": "The server had an error"}, RequestFailed, "says 500: The server had an error"),
    (307, {"message": "elsewhere"}, RequestFailed, "307"),
]


@pytest.mark.parametrize(("status", "error", "kind", "message"), ERRORS)
def test_what_the_api_says_becomes_one_line(status: int, error: dict[str, Any], kind: type[Exception], message: str) -> None:
    with Api(lambda asked: Reply({"error": error}, status), "/v1") as api:
        s = sgl.start(openai(api, "gpt-4o-mimi"))
        s += sgl.user("Q") + sgl.assistant(gen("x", max_tokens=3))
        with pytest.raises(kind, match=message) as caught:
            _ = s["x"]
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_an_error_in_the_stream_keeps_what_came() -> None:
    broken = [chunk({"content": "so far"}), {"error": {"message": "overloaded", "type": "server_error"}}]
    with Api(lambda asked: Reply(events=broken), "/v1") as api:
        s = sgl.start(openai(api))
        s += sgl.user("Q") + sgl.assistant(gen("x"))
        with pytest.raises(RequestFailed, match="overloaded") as caught:
            _ = s["x"]
    assert caught.value.partial == ("so far",)
    assert len(api.asked) == 1


def test_bad_input_is_one_line_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationFailed, match=r"no key for openai \(set OPENAI_API_KEY"):
        OpenAI("gpt-4o")
    with pytest.raises(ConnectionFailed, match=r"127.0.0.1:9 cannot be reached.*is the server up"):
        OpenAI("tiny", base_url="http://127.0.0.1:9/v1")
    for given, message in (
        ({"model_name": ""}, "the name of a model"),
        ({"api": "chats"}, "api must be"),
        ({"base_url": "localhost:80"}, "must be a URL"),
        ({"server": "vlm"}, "server must be one of"),
        ({"api_key": "sk-\n\x00 "}, "characters that no key has"),
        ({"bugdet": 3}, "has no argument bugdet"),
        ({"budget": -1}, "a budget must be an amount"),
        ({"concurrency": 0}, "concurrency must be"),
        ({"base_url": "http://example.com/v1"}, "plain http"),
    ):
        with pytest.raises(BadArgument, match=message):
            OpenAI(**{"model_name": "gpt-4o", "api_key": KEY, **given})  # type: ignore[arg-type]
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert repr(OpenAI("gpt-4o")) == "<OpenAI gpt-4o at api.openai.com>"


# ---------------------------------------------------------------- servers that go past a stop


def stream_only(reply: Callable[[ApiCall], Reply]) -> Api:
    return Api(lambda request: reply(request) if request.path == "/v1/chat/completions" else Reply(status=404), "/v1")


@pytest.mark.parametrize("texts", [("one. Two: th", "ree. Four"), ("one. Two: three. Four",), (*"one. Two: three. Four",)])
def test_a_text_never_goes_past_a_stop(texts: tuple[str, ...]) -> None:
    with stream_only(lambda request: answered(*texts, reason="length")) as api:
        backend = OpenAI("m", base_url=api.url, server="transformers")
        (output,), listener = ask(backend, stop=("Four", ": three", "e. T!"))
        assert (output.text, listener.text, output.is_cut) == ("one. Two", "one. Two", True)
        assert (output.finish_reason, output.matched_stop) == ("stop", ": three")
        (output,), listener = ask(backend, stop=("Four?", "zero"))
        assert (output.text, listener.text, output.is_cut) == ("one. Two: three. Four", "one. Two: three. Four", False)
        state = sgl.start(backend)
        state += sgl.user("Q") + sgl.assistant(gen("a", stop="Two"))
        assert state["a"] == "one. "
        assert state.get_meta_info("a")["finish_reason"] == "stop"
        assert state.get_meta_info("a")["cut_past_stop"]


def test_an_answer_that_is_cut_does_not_wait_for_the_servers_end() -> None:
    is_over = threading.Event()

    def events() -> Iterator[object]:
        yield chunk({"content": "one. Two"})
        assert is_over.wait(20)

    with stream_only(lambda request: Reply(events=events())) as api:
        (output,), listener = ask(OpenAI("m", base_url=api.url, server="other"), stop=(".",))
        is_over.set()
    assert (output.text, listener.text, output.finish_reason, output.matched_stop) == ("one", "one", "stop", ".")


def test_samples_and_logprobs_are_cut_at_their_own_stops() -> None:
    tokens = [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []} for text in ("a", "b", "cd", "e")]

    def reply(request: ApiCall) -> Reply:
        ends = [chunk({}, reason="length", index=index) for index in range(request.body.get("n", 1))]
        if request.body.get("logprobs"):
            return Reply(events=[chunk({"content": "abcde"}, logprobs={"content": tokens, "refusal": None}), *ends, "[DONE]"])
        return Reply(events=[*(chunk({"content": text}, index=at) for at, text in enumerate(("abcde", "xycz"))), *ends, "[DONE]"])

    with stream_only(reply) as api:
        backend = OpenAI("m", base_url=api.url, server="vllm")
        outputs, _ = ask(backend, n=2, stop=("c", "z"))
        assert [(output.text, output.matched_stop) for output in outputs] == [("ab", "c"), ("xy", "c")]
        (output,), _ = ask(backend, stop=("d",), logprobs=True)
        assert (output.text, [each.text for each in output.logprobs]) == ("abc", ["a", "b"])
