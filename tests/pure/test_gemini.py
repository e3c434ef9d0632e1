"""Google's API through its own SDK, on a real socket: on AI Studio and on Vertex AI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.gemini import Gemini, VertexAI
from sgl_lab.backends.gemini.models import MODELS, UNKNOWN, model_of
from sgl_lab.backends.gemini.request import Settings, request_of
from sgl_lab.backends.gemini.schemas import enforced
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
)
from sgl_lab.contracts.params import Constraint
from sgl_lab.contracts.tools import ToolSpec
from sgl_lab.lang.surface import gen

from .language import watchdog
from .vendors import Reply, Server, ask, decide, events, failure, in_turn, job, messages

__all__ = ["watchdog"]

pytest.importorskip("google.genai")

PNG = ImagePart("image/png", b"\x89PNG")
WEATHER = ToolSpec("weather", "of a city", '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}')
MODEL = "gemini-2.5-flash"


# ---------------------------------------------------------------- the wire


def candidate(*parts: Any, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    blocks = [{"text": part} if isinstance(part, str) else part for part in parts]
    made: dict[str, Any] = {"content": {"role": "model", "parts": blocks}, "index": index} | more
    return made | ({"finishReason": finish} if finish else {})


def chunk(*candidates: dict[str, Any], **more: Any) -> dict[str, Any]:
    counts = {"promptTokenCount": 100, "candidatesTokenCount": 3, "totalTokenCount": 103}
    return {
        "candidates": list(candidates),
        "usageMetadata": counts | more.pop("usage", {}),
        "modelVersion": MODEL,
        "responseId": "r",
    } | more


def says(*pieces: str, finish: str = "STOP", **usage: int) -> Reply:
    return events(
        *(chunk(candidate(piece)) for piece in pieces[:-1]), chunk(candidate(pieces[-1], finish=finish), usage=usage), named=False
    )


def refusal(status: int, name: str, message: str, *details: dict[str, Any], **headers: str) -> Reply:
    return failure(status, {"error": {"code": status, "message": message, "status": name, "details": list(details)}}, **headers)


@contextmanager
def gemini(*replies: Reply, model: str = MODEL, on_vertex: bool = False, **given: Any) -> Iterator[tuple[Any, Server]]:
    with Server(in_turn(*replies)) as server:
        if on_vertex:
            from google.oauth2.credentials import Credentials

            credentials = Credentials(token="ya29.canary0123456789abc")  # type: ignore[no-untyped-call]
            backend: Any = VertexAI(model, project="p", location="l", credentials=credentials, base_url=server.url, retries=0, **given)
        else:
            backend = Gemini(model, base_url=server.url, api_key="AIzaCanary0123456789012345678901234567", retries=0, **given)
        try:
            yield backend, server
        finally:
            backend.close()


def request(chat: ChatJob, model: str = MODEL, **settings: Any) -> dict[str, Any]:
    """The request, once the SDK's own types take it; they have no room for other names."""
    from google.genai import types

    sent = request_of(chat, Settings(model, model_of(model), **settings))
    types.GenerateContentConfig.model_validate(sent["config"])
    for content in sent["contents"]:
        types.Content.model_validate(content)
    return sent


# ---------------------------------------------------------------- requests


def test_a_conversation_as_the_api_has_it() -> None:
    with gemini(says("Bon", "jour"), says("Oui")) as (backend, server):

        @sgl.function
        def program(s: Any) -> None:
            s += sgl.system("Answer in French.")
            s += sgl.user("Hello") + sgl.assistant(gen("a", max_tokens=20, stop=["END"], temperature=0.5, top_k=5))
            s += sgl.user("Sure?") + sgl.assistant(gen("b", max_tokens=5))

        state = program.run(backend=backend, seed=3)
        assert (state["a"], state["b"]) == ("Bonjour", "Oui")
        (path, first), (_, second) = server.seen
        assert path.split("/", 2)[2] == f"models/{MODEL}:streamGenerateContent?alt=sse"
        assert first["systemInstruction"]["parts"] == second["systemInstruction"]["parts"] == [{"text": "Answer in French."}]
        assert [(content["role"], content["parts"][0]["text"]) for content in second["contents"]] == [
            ("user", "Hello"),
            ("model", "Bonjour"),
            ("user", "Sure?"),
        ]
        assert first["generationConfig"] == {
            "maxOutputTokens": 20,
            "stopSequences": ["END"],
            "temperature": 0.5,
            "topK": 5,
            "seed": 3,
            "thinkingConfig": {"thinking_budget": 0},  # the SDK leaves its name as it is, and the API takes both
        }
        assert server.headers[0]["x-goog-api-key"] == "AIzaCanary0123456789012345678901234567"
        assert server.headers[0]["authorization"] == "Bearer AIzaCanary0123456789012345678901234567"  # as other servers may read it
        assert "key=" not in path


def test_vertex_is_asked_under_its_project_with_a_token() -> None:
    with gemini(says("ok"), on_vertex=True) as (backend, server):
        (output,), _ = ask(backend, logprobs=True, top_logprobs=2)
        path, sent = server.seen[0]
        assert path.split("/", 2)[2] == f"projects/p/locations/l/publishers/google/models/{MODEL}:streamGenerateContent?alt=sse"
        assert server.headers[0]["authorization"] == "Bearer ya29.canary0123456789abc"
        assert (sent["generationConfig"]["responseLogprobs"], sent["generationConfig"]["logprobs"]) == (True, 2)
    assert output.text == "ok"


def test_images_calls_and_results_have_the_form_of_the_api() -> None:
    call = ToolCallPart("c1", "weather", '{"city": "Paris"}', signature="AQID")
    prompt = messages(("user", [TextPart("What?"), PNG]), ("assistant", call), ("tool", ToolResultPart("c1", "rain")), ("user", "And now?"))
    sent = request(job(prompt, tools=(WEATHER,)))
    assert sent["contents"][0]["parts"][1] == {"inline_data": {"mime_type": "image/png", "data": b"\x89PNG"}}
    assert sent["contents"][1]["parts"][0]["thought_signature"] == b"\x01\x02\x03"
    assert sent["contents"][2]["parts"][0]["function_response"] == {"id": "c1", "name": "weather", "response": {"result": "rain"}}
    assert sent["config"]["tool_config"]["function_calling_config"] == {"mode": "ANY", "allowed_function_names": ["weather"]}
    unsigned = request(
        job(messages(("user", "Q"), ("assistant", ToolCallPart("c1", "weather", "{}")), ("tool", ToolResultPart("c1", "rain"))))
    )
    assert unsigned["contents"][1]["parts"][0]["thought_signature"] == b"skip_thought_signature_validator"


@pytest.mark.parametrize(
    ("model", "thinking", "config", "max_tokens"),
    [
        ("gemini-2.5-flash", None, {"thinking_budget": 0}, 100),
        ("gemini-2.5-pro", None, {"thinking_budget": 128}, 1_100),
        ("gemini-3.8-flash", None, {"thinking_level": "LOW"}, 1_100),
        ("gemini-3.8-flash", "high", {"thinking_level": "HIGH", "include_thoughts": True}, 1_100),
        ("gemini-2.0-flash", None, None, 100),
    ],
)
def test_a_model_thinks_as_little_as_it_can_unless_it_is_asked_to(model: str, thinking: Any, config: Any, max_tokens: int) -> None:
    sent = request(job(max_tokens=100), model, thinking=thinking, thinking_tokens=1_000)["config"]
    assert (sent.get("thinking_config"), sent["max_output_tokens"]) == (config, max_tokens)


def test_a_schema_as_the_api_enforces_it() -> None:
    properties = {"a": {"const": "x"}, "b": {"$ref": "#/$defs/B", "title": "t"}}
    assert enforced(json.dumps({"type": "object", "properties": properties, "$defs": {"B": {"enum": [1, 2]}}})) == {
        "type": "object",
        "properties": {"a": {"type": "string", "enum": ["x"]}, "b": {"$ref": "#/$defs/B"}},
        "$defs": {"B": {"type": "number", "enum": [1, 2]}},
    }
    config = request(job(constraint=Constraint("json_schema", '{"type": "integer", "minimum": 1}')))["config"]
    assert (config["response_mime_type"], config["response_json_schema"]) == ("application/json", {"type": "integer", "minimum": 1})


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ('{"type": "string", "pattern": "a+"}', "pattern"),
        ('{"type": "array", "items": {"type": "string", "maxLength": 3}}', "maxLength"),
        ('{"allOf": [{"type": "string"}]}', "allOf"),
        ('{"enum": [true]}', "enum"),
        ("true", "the schema true"),
    ],
)
def test_a_schema_that_would_not_be_enforced_is_refused_before_anything_is_sent(schema: str, keyword: str) -> None:
    with gemini(says("no")) as (backend, server):
        with pytest.raises(BackendUnsupported, match=keyword):
            backend.prepare(Constraint("json_schema", schema))
        assert not server.seen


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (messages(("system", "Be terse.")), ProgramError, "user's turn"),
        (messages(("user", "a"), ("assistant", "b"), ("system", "c"), ("user", "d")), BackendUnsupported, "system turns at the beginning"),
        (messages(("narrator", "a")), BackendUnsupported, "no role 'narrator'"),
        (messages(("user", ImagePart("image/tiff", b""))), BackendUnsupported, "image/tiff"),
    ],
)
def test_what_the_api_does_not_take_is_refused_at_once(prompt: Any, error: type[SglError], message: str) -> None:
    with gemini(says("no")) as (backend, server):
        with pytest.raises(error, match=message):
            backend.converse(job(prompt), None)
        assert not server.seen


# ---------------------------------------------------------------- answers


def test_an_answer_streams_and_is_counted() -> None:
    with gemini(says("Hel", "lo", cachedContentTokenCount=70, thoughtsTokenCount=4)) as (backend, _):
        (output,), listener = ask(backend)
    usage = output.usage
    assert [delta for _, delta in listener.deltas] == ["Hel", "lo"]
    assert (output.text, output.finish_reason, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (
        "Hello",
        "stop",
        100,
        70,
        7,
    )


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "safety"), ("RECITATION", "recitation"), ("SPII", "spii")],
)
def test_the_reason_of_an_end_and_the_text_before_it(finish: str, expected: str) -> None:
    with gemini(says("par", "t", finish=finish)) as (backend, _):
        (output,), _ = ask(backend)
    assert (output.text, output.finish_reason) == ("part", expected)


def test_a_blocked_prompt_is_an_error_that_says_why() -> None:
    blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}
    with gemini(events(blocked, named=False)) as (backend, _), pytest.raises(RequestFailed, match="prohibited_content"):
        ask(backend)


def test_several_samples_of_one_prompt() -> None:
    body = chunk(candidate("one", finish="STOP"), candidate("two", finish="MAX_TOKENS", index=1))
    with gemini(failure(200, body)) as (backend, server):
        outputs, listener = ask(backend, n=2)
        assert server.seen[0][0].endswith(f"{MODEL}:generateContent")
    assert [(output.text, output.finish_reason) for output in outputs] == [("one", "stop"), ("two", "length")]
    assert listener.deltas == [(0, "one"), (1, "two")]
    assert sum(output.usage.completion_tokens for output in outputs) == 3


def test_logprobs_come_with_their_alternatives() -> None:
    result = {
        "chosenCandidates": [{"token": "ok", "tokenId": 1, "logProbability": -0.5}],
        "topCandidates": [{"candidates": [{"token": "ok", "logProbability": -0.5}, {"token": "no", "logProbability": -1.5}]}],
    }
    with gemini(events(chunk(candidate("ok", finish="STOP", logprobsResult=result)), named=False), on_vertex=True) as (backend, _):
        (output,), _ = ask(backend, logprobs=True, top_logprobs=2)
    (first,) = output.logprobs
    assert (first.text, first.logprob, first.top) == ("ok", -0.5, (("ok", -0.5), ("no", -1.5)))
    with gemini(says("no")) as (backend, server):
        with pytest.raises(BackendUnsupported, match="log-probabilities"):
            ask(backend, logprobs=True)
        assert not server.seen


def test_thoughts_stand_apart_from_the_text() -> None:
    thought = {"text": "hm", "thought": True}
    with gemini(events(chunk(candidate(thought)), chunk(candidate("42", finish="STOP")), named=False), thinking=100) as (backend, _):
        (output,), listener = ask(backend)
    assert (output.reasoning, output.text, listener.text) == ("hm", "42", "42")


def test_a_tool_is_called_and_its_result_goes_back_with_the_signature() -> None:
    called = {"functionCall": {"name": "weather", "args": {"city": "Paris"}}, "thoughtSignature": "AQID"}
    with gemini(events(chunk(candidate(called, finish="STOP")), named=False), says("It rains.")) as (backend, server):

        def weather(city: str) -> str:
            """of a city"""
            return f"rain in {city}"

        state = sgl.start(backend)
        state += sgl.user("Weather?") + sgl.assistant(gen("call", tools=[weather], execute=True))
        state += sgl.assistant(gen("answer"))
        assert (state.value("call").arguments, state["answer"]) == ({"city": "Paris"}, "It rains.")
        assert server.seen[0][1]["tools"][0]["functionDeclarations"][0]["name"] == "weather"
        call, result = (content["parts"][0] for content in server.seen[1][1]["contents"][1:3])
        assert (call["functionCall"]["args"], call["thoughtSignature"]) == ({"city": "Paris"}, "AQID")
        assert result["functionResponse"]["response"] == {"result": "rain in Paris"}


def test_select_is_decided_with_probabilities() -> None:
    answer = {"type": "choice", "choice": "1", "confidence": 0.75, "probabilities": {"0": 0.25, "1": 0.75}}
    body = {"answers": {"next": answer}, "usage": {"total_input_tokens": 9, "total_cached_tokens": 4}}
    with gemini(failure(200, body), decision_model="gemini-decision-1") as (backend, server):
        decision = decide(backend, messages(("user", [TextPart("Which?"), PNG])), " yes", "no")
        path, sent = server.seen[0]
        assert path.endswith("/decisions")
        assert sent["model"].endswith("gemini-decision-1")
        assert [part["type"] for part in sent["input"]] == ["text", "image", "text"]
        assert sent["questions"]["next"]["criteria"] == {"0": " yes", "1": "no"}
        assert (decision.probabilities, decision.usage.prompt_tokens, decision.usage.cached_tokens) == ((0.25, 0.75), 9, 4)
        assert decision.usage.cost == pytest.approx(9 * 0.10 / 1e6)  # at the price of the model that decides
        state = sgl.start(backend)
        state += sgl.user("Sure?") + sgl.assistant(sgl.select("answer", ["yes", "no"]))
        assert state["answer"] == "no"
        with pytest.raises(BackendUnsupported, match="between 2 and 255"):
            decide(backend, messages(("user", "Q")), "only")


def test_without_a_decision_model_the_model_itself_answers_under_a_schema() -> None:
    with gemini(says(' "nó" ')) as (backend, server):
        state = sgl.start(backend)
        state += sgl.user("Sure?") + sgl.assistant(sgl.select("answer", ["yes", "nó"]))
        assert state["answer"] == "nó"
        assert server.seen[0][1]["generationConfig"]["responseJsonSchema"] == {"type": "string", "enum": ["yes", "nó"]}


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (refusal(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"}), AuthenticationFailed, "API key not valid"),
        (refusal(403, "PERMISSION_DENIED", "not allowed"), AuthenticationFailed, "not allowed"),
        (refusal(404, "NOT_FOUND", "models/x is not found"), ModelMissing, MODEL),
        (refusal(400, "INVALID_ARGUMENT", "topK is too large"), BadArgument, "topK is too large"),
        (refusal(429, "RESOURCE_EXHAUSTED", "slow down", **{"retry-after": "7"}), RateLimited, "slow down"),
        (refusal(503, "UNAVAILABLE", "The model is overloaded."), RequestFailed, "overloaded"),
    ],
)
def test_what_the_api_refuses_is_one_typed_line(reply: Reply, error: type[SglError], message: str) -> None:
    with gemini(reply) as (backend, _), pytest.raises(error, match=message) as caught:
        ask(backend)
    assert "\n" not in str(caught.value)
    assert "anary" not in f"{caught.value!r} {caught.value}"


def test_a_stream_that_is_cut_keeps_the_text_that_came() -> None:
    with gemini(events(chunk(candidate("half")), named=False)) as (backend, _), pytest.raises(ConnectionFailed) as caught:
        ask(backend)
    assert caught.value.partial == ("half",)


def test_an_error_inside_a_stream_keeps_the_text_that_came() -> None:
    late = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    with (
        gemini(events(chunk(candidate("half")), late, named=False)) as (backend, _),
        pytest.raises(RequestFailed, match="overloaded") as caught,
    ):
        ask(backend)
    assert caught.value.partial == ("half",)


def test_what_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_CLOUD_PROJECT", "GCP_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AuthenticationFailed, match="GEMINI_API_KEY"):
        Gemini(MODEL)
    with pytest.raises(BadArgument, match="GOOGLE_CLOUD_PROJECT"):
        VertexAI(MODEL)
    for given in ({"thinking": "much"}, {"thinking": -1}, {"thinking_tokens": -1}):
        with pytest.raises(BadArgument, match="thinking"):
            Gemini(MODEL, api_key="AIzaCanary0123456789012345678901234567", **given)  # type: ignore[arg-type]
    assert Gemini(MODEL, api_key="AIzaCanary0123456789012345678901234567").describe().capabilities.choices == "decided"


def test_vertex_costs_what_studio_costs_where_no_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.oauth2.credentials import Credentials

    monkeypatch.delenv("GOOGLE_CLOUD_LOCATION", raising=False)
    monkeypatch.delenv("GCP_LOCATION", raising=False)
    credentials = Credentials(token="ya29.canary0123456789abc")  # type: ignore[no-untyped-call]
    studio = Gemini(MODEL, api_key="AIzaCanary0123456789012345678901234567").describe().capabilities.prices
    assert studio is not None
    assert VertexAI(MODEL, project="p", credentials=credentials).describe().capabilities.prices == studio
    assert VertexAI(MODEL, project="p", location="europe-west4", credentials=credentials).describe().capabilities.prices is None


def test_the_longest_beginning_of_a_name_tells_the_model() -> None:
    assert model_of("models/gemini-3.1-flash-lite-preview") is MODELS["gemini-3.1-flash-lite"]
    assert model_of("gemini-2.5-flash-lite") is MODELS["gemini-2.5-flash"]
    assert model_of("other") is UNKNOWN
