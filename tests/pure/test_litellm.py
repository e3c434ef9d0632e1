"""LiteLLM through its own package, on a real socket. It cannot be installed beside the other SDKs: `make litellm` sets an environment up
and runs this file there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.contracts.errors import AuthenticationFailed, BackendUnsupported, BadArgument, RateLimited, RequestFailed, SglError
from sgl_lab.contracts.params import Constraint
from sgl_lab.lang.surface import gen

from .language import watchdog
from .vendors import Reply, Server, ask, events, failure, in_turn

__all__ = ["watchdog"]

if find_spec("litellm") is None:
    pytest.skip("LiteLLM is not installed here: `make litellm` runs these in its own environment", allow_module_level=True)

from sgl_lab.backends.litellm import LiteLLM


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini", "choices": [choice]}


def says(*pieces: str, finish: str = "stop") -> Reply:
    usage = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103, "prompt_tokens_details": {"cached_tokens": 70}}
    chunks = [chunk({"role": "assistant", "content": piece}) for piece in pieces]
    status, body, headers = events(*chunks, chunk({}, finish), chunk({}) | {"choices": [], "usage": usage}, named=False)
    return status, body + b"data: [DONE]\n\n", headers


@contextmanager
def litellm(*replies: Reply, model: str = "openai/gpt-4o-mini", **given: Any) -> Iterator[tuple[Any, Server]]:
    with Server(in_turn(*replies)) as server:
        backend = LiteLLM(model, base_url=f"{server.url}/v1", api_key="sk-canary-0123456789", max_retries=0, **given)
        try:
            yield backend, server
        finally:
            backend.close()


def test_a_conversation_streams_and_is_counted() -> None:
    with litellm(says("Bon", "jour")) as (backend, server):
        state = sgl.start(backend)
        state += sgl.system("Answer in French.")
        state += sgl.user("Hello") + sgl.assistant(gen("a", max_tokens=20, stop=["END"], temperature=0.5))
        assert state["a"] == "Bonjour"
        path, sent = server.seen[0]
        assert path == "/v1/chat/completions"
        assert [turn["role"] for turn in sent["messages"]] == ["system", "user"]
        assert (sent["temperature"], sent["stop"], sent["stream"]) == (0.5, ["END"], True)
        meta = state.get_meta_info("a")
        assert (meta["prompt_tokens"], meta["cached_tokens"], meta["completion_tokens"]) == (100, 70, 3)
        assert server.headers[0]["authorization"] == "Bearer sk-canary-0123456789"


def test_a_schema_is_sent_and_select_is_one_call_under_it() -> None:
    with litellm(says('{"value": "no"}')) as (backend, server):
        state = sgl.start(backend)
        state += sgl.user("Sure?") + sgl.assistant(sgl.select("answer", ["yes", "no"]))
        assert state["answer"] == "no"
        assert server.seen[0][1]["response_format"]["type"] == "json_schema"
        with pytest.raises(BackendUnsupported):
            backend.prepare(Constraint("regex", "a+"))


def test_what_litellm_knows_of_a_model_is_what_it_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    card = LiteLLM("openai/gpt-4o-mini").describe()
    can = card.capabilities
    assert can.prices is not None
    assert (can.prices.prompt, can.prices.completion) == (0.15, 0.6)
    assert (can.images, can.tools, can.constraints, card.context) == (True, True, ("json_schema",), 128_000)
    claude = LiteLLM("anthropic/claude-sonnet-4-5", api_key="sk-ant-canary-0123456789").describe().capabilities
    assert "seed" not in claude.sampling


def test_what_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    with pytest.raises(AuthenticationFailed, match="GROQ_API_KEY"):
        LiteLLM("groq/llama-3.3-70b-versatile")
    with pytest.raises(BadArgument, match="no provider for 'nothing-of-the-kind'"):
        LiteLLM("nothing-of-the-kind")


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, AuthenticationFailed, "bad key"),
        (400, BadArgument, "bad key"),
        (429, RateLimited, "bad key"),
        (503, RequestFailed, "bad key"),
    ],
)
def test_what_a_server_refuses_is_one_typed_line(status: int, error: type[SglError], message: str) -> None:
    body = {"error": {"message": "bad key sk-canary-0123456789", "type": "t", "code": "c"}}
    with litellm(failure(status, body)) as (backend, _), pytest.raises(error, match=message) as caught:
        ask(backend)
    assert "\n" not in str(caught.value)
    assert "canary" not in f"{caught.value!r} {caught.value}"


def test_a_tool_is_called() -> None:
    function = {"name": "weather", "arguments": json.dumps({"city": "Paris"})}
    called = {"role": "assistant", "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}
    status, body, headers = events(chunk(called), chunk({}, "tool_calls"), named=False)
    with litellm((status, body + b"data: [DONE]\n\n", headers)) as (backend, _):

        def weather(city: str) -> str:
            """of a city"""
            return city

        state = sgl.start(backend)
        state += sgl.user("Weather?") + sgl.assistant(gen("call", tools=[weather]))
        assert state.value("call").run() == "Paris"
