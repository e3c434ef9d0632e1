"""Who comes in: the token, the host, the origin; and what is refused before any token is spent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sgl_lab.contracts.errors import BadArgument, EngineStopped
from sgl_lab.serve import Door, guard, serve
from sgl_lab.serve.errors import Refused
from sgl_lab.session import Lab

from .calls import call, is_idle

TOKEN = "t" * 20
HERE = {"host": "127.0.0.1:8000"}
KEY = {"authorization": f"Bearer {TOKEN}"}


def status(path: str = "/v1/models", **headers: str) -> int:
    try:
        guard.check(path, {name.replace("_", "-"): value for name, value in headers.items()}, TOKEN, frozenset({"http://a.example"}))
    except Refused as refused:
        return refused.status
    return 200


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (HERE | KEY, 200),
        (HERE | {"x_api_key": TOKEN}, 200),
        (HERE | {"authorization": f"bearer {TOKEN}"}, 200),
        (KEY | {"host": "localhost"}, 200),
        (KEY | {"host": "[::1]:9"}, 200),
        (HERE, 401),
        (HERE | {"authorization": f"Basic {TOKEN}"}, 401),
        (HERE | {"authorization": "Bearer "}, 401),
        (HERE | {"x_api_key": TOKEN + "x"}, 401),
        (HERE | {"x_api_key": "\xe9" * 20}, 401),
        (KEY, 403),
        (KEY | {"host": "evil.example:8000"}, 403),
        (KEY | {"host": "127.0.0.1.evil.example"}, 403),
        (KEY | {"host": "localhost:8000@evil.example"}, 403),
        (KEY | HERE | {"origin": "http://127.0.0.1:8000"}, 200),
        (KEY | HERE | {"origin": "http://a.example"}, 200),
        (KEY | HERE | {"origin": "http://evil.example"}, 403),
        (KEY | HERE | {"origin": "null"}, 403),
        (KEY | HERE | {"origin": "http://localhost:8888"}, 403),
    ],
)
def test_a_request_needs_the_token_this_host_and_no_foreign_page(headers: dict[str, str], wanted: int) -> None:
    assert status(**headers) == wanted
    assert status("/health", **headers) == (200 if wanted == 401 else wanted)


def test_the_door_asks_for_its_token(door: Door) -> None:
    assert call(door, "/health")[0] == 200
    for path in ("/v1/models", "/generate", "/metrics", "/nowhere"):
        found, answer = call(door, path, {"text": "a"} if path == "/generate" else None, token="wrong")
        assert found == 401
        assert door.token not in json.dumps(answer)
    assert call(door, "/v1/models", host="evil.example")[0] == 403
    assert call(door, "/v1/models", origin="https://evil.example")[0] == 403
    assert door.token not in repr(door)


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
BAD: list[tuple[str, Any, int, str]] = [
    ("/v1/chat/completions", CHAT | {"model": "gpt-4o"}, 404, "the door serves"),
    ("/v1/chat/completions", CHAT | {"messages": []}, 400, "messages is empty"),
    ("/v1/chat/completions", CHAT | {"messages": [{"role": "x", "content": ""}]}, 400, "messages[0].role"),
    ("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "content[0] is an image"),
    ("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 400, "reads text only"),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "content[0] is an image"),
    ("/v1/messages", CHAT | {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "content[0] is an image"),
    ("/v1/responses", {"input": "a", "previous_response_id": "resp_1"}, 400, "send the whole conversation"),
    ("/v1/chat/completions", CHAT | {"add_generation_prompt": False}, 400, "add_generation_prompt"),
    ("/v1/chat/completions", CHAT | {"temperature": -1}, 400, "temperature must be 0 or more"),
    ("/v1/chat/completions", CHAT | {"temperature": "hot"}, 400, "temperature"),
    ("/v1/chat/completions", CHAT | {"temprature": 1}, 400, "did you mean 'temperature'?"),
    ("/v1/chat/completions", CHAT | {"n": 0}, 400, "n must be between"),
    ("/v1/chat/completions", CHAT | {"n": 10**400}, 400, "n must be between"),
    ("/v1/chat/completions", CHAT | {"max_tokens": True}, 400, "max_tokens must be a whole number"),
    ("/v1/chat/completions", CHAT | {"stop": [1]}, 400, "stop"),
    ("/v1/chat/completions", CHAT | {"logit_bias": {"999999": 1}}, 400, "logit_bias"),
    ("/v1/chat/completions", CHAT | {"top_logprobs": 21, "logprobs": True}, 400, "top_logprobs"),
    ("/v1/chat/completions", CHAT | {"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}, 400, "schema"),
    ("/v1/chat/completions", CHAT | {"response_format": {"type": "xml"}}, 400, "xml"),
    ("/v1/chat/completions", CHAT | {"regex": "("}, 400, "regex"),
    ("/v1/chat/completions", CHAT | {"tools": [{"type": "web_search"}]}, 400, "tools[0]"),
    ("/v1/chat/completions", CHAT | {"tool_choice": "required"}, 400, "tool_choice needs tools"),
    ("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": "a " * 9000}]}, 400, "does not fit the context"),
    ("/generate", {}, 400, "either text or input_ids"),
    ("/generate", {"text": "a", "input_ids": [1]}, 400, "either text or input_ids"),
    ("/generate", {"input_ids": [10**9]}, 400, "outside the vocabulary"),
    ("/generate", {"input_ids": []}, 400, "input_ids"),
    ("/generate", {"text": ["a", "b"], "sampling_params": [{}]}, 400, "1 sampling_params for 2 prompts"),
    ("/generate", {"text": "a", "sampling_params": {"max_tokens": 3}}, 400, "sampling_params.max_tokens"),
    ("/generate", {"text": "a", "lora_path": "x"}, 400, "lora_path"),
    ("/generate", {"text": "a", "image_data": "x"}, 400, "image_data"),
    ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
    ("/tokenize", {"prompt": 3}, 400, "prompt"),
    ("/abort_request", {}, 400, "rid"),
    ("/nowhere", {}, 404, "there is no path"),
    ("/v1/models", {}, 405, "takes GET"),
]


@pytest.mark.parametrize(("path", "body", "wanted", "words"), BAD, ids=[f"{path} {words}" for path, _, _, words in BAD])
def test_bad_input_is_one_line_and_costs_nothing(door: Door, path: str, body: Any, wanted: int, words: str) -> None:
    before = door.lab.stats()["prompt_tokens"]
    found, answer = call(door, path, body)
    message = answer["error"]["message"]
    assert (found, "\n" in message) == (wanted, False)
    assert words in message
    assert door.lab.stats()["prompt_tokens"] == before
    assert is_idle(door)


def test_what_is_no_json_object_is_refused(door: Door) -> None:
    import httpx2

    with httpx2.Client(base_url=door.url, headers={"x-api-key": door.token}) as client:
        for body in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 10_000 + b"}"):
            assert client.post("/generate", content=body).status_code == 400, body[:20]
        large = b'{"text": "' + b"a" * (door.limits.body_bytes + 1) + b'"}'
        assert client.post("/generate", content=large).status_code == 413
        assert client.post("/generate", content=iter([large])).status_code == 413
        assert client.get("/generate").status_code == 405
    assert is_idle(door)


def test_a_door_is_refused_a_bad_port_or_token(lab: Lab, door: Door) -> None:
    for wrong in ({"port": -1}, {"port": 70_000}, {"port": True}, {"token": "short"}, {"token": "é" * 20}):
        with pytest.raises(BadArgument):
            serve(lab, **wrong)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(BadArgument, match="cannot be opened"):
        serve(lab, port=int(door.url.rpartition(":")[2]))
    closed = Lab.__new__(Lab)
    closed.backend = _Closed()  # type: ignore[assignment]
    with pytest.raises(EngineStopped):
        serve(closed)


class _Closed:
    def poll(self) -> None:
        raise EngineStopped("the engine was closed")
