"""Servers in the forms of the vendors' APIs whose answers a real model makes: each request goes on to a door, and its answer comes back as
the vendor spells it, while it is made.

They stand for the vendors where there is no network. The form is the vendor's; the model is the door's. What they are asked by the
vendor's own SDK goes over a real socket. The model reads text only: it is given an image as the words "[an image]".
"""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

from ..pure.loopback import Handler, Loopback
from .servers import NAME, Running, door

OPENAI, ANTHROPIC, GEMINI = "gpt-4.1-mini", "claude-haiku-4-5", "gemini-2.5-flash"
"""names that the SDKs are given: what such a model does is declared, and priced, by its name"""
KEYS = {"openai": "sk-forms-0123456789abcdef", "anthropic": "sk-ant-forms-0123456789", "gemini": "AIza" + "k" * 35}
GREEDY = {"temperature": 0}
"""what these servers do where a request does not say it, as Anthropic's cannot"""
_PATH = re.compile(r"/models/[^:/]+:(streamGenerateContent|generateContent)\b")
_SAMPLING = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "seed": "seed",
    "maxOutputTokens": "max_tokens",
    "stopSequences": "stop",
    "candidateCount": "n",
    "frequencyPenalty": "frequency_penalty",
    "presencePenalty": "presence_penalty",
}
_REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS"}


@contextmanager
def forms() -> Iterator[Running]:
    with door() as engine, VendorForms(engine) as server:
        yield Running(server.url, "", "the form of the vendor's API, over a door")


class VendorForms(Loopback):
    """One server for OpenAI's paths (/v1/chat/completions), Anthropic's (/v1/messages) and Google's (/v1/models/NAME:generateContent)."""

    def __init__(self, engine: Running) -> None:
        class Api(Handler):
            def do_POST(self) -> None:
                body = _in_words(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                google = _PATH.search(self.path)
                try:
                    asked = _asked(body) | {"stream": google[1] != "generateContent"} if google else GREEDY | body | {"model": NAME}
                    if google and asked["stream"]:
                        asked["stream_options"] = {"include_usage": True}
                    answer = _post(engine, "/v1/chat/completions" if google else self.path, asked)
                except ValueError as error:
                    self._whole(*_refused(400, str(error)))
                    return
                except urllib.error.HTTPError as error:
                    found = error.read()
                    self._whole(*(_refused(error.code, json.loads(found)["error"]["message"]) if google else (error.code, found)))
                    return
                with answer:
                    if google and not asked["stream"]:
                        self._whole(200, json.dumps(_whole(json.load(answer))).encode())
                    else:
                        self._flow(_chunks(answer) if google else answer, answer.headers["content-type"])

            def _whole(self, status: int, body: bytes) -> None:
                self.command = "GET"  # so that `send` sends the body
                self.send(status, body, {"Content-Type": "application/json"})

            def _flow(self, pieces: Iterator[bytes] | HTTPResponse, kind: str) -> None:
                """A line at a time, until the connection ends."""
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Connection", "close")
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
                self.close_connection = True

        super().__init__(Api)


def _refused(status: int, message: str) -> tuple[int, bytes]:
    error = {"code": status, "message": message, "status": "INVALID_ARGUMENT", "details": []}
    return status, json.dumps({"error": error}).encode()


def _post(engine: Running, path: str, body: dict[str, Any]) -> HTTPResponse:
    headers = {"Authorization": f"Bearer {engine.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{engine.url}{path}", json.dumps(body).encode(), headers)
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=120)
    return answer


def _in_words(body: Any) -> Any:
    """The body without images, in whichever of the three forms."""
    match body:
        case {"type": "image_url" | "image"}:
            return {"type": "text", "text": "[an image]"}
        case {"inlineData": _} | {"inline_data": _}:
            return {"text": "[an image]"}
        case dict():
            return {name: _in_words(value) for name, value in body.items()}
        case list():
            return [_in_words(value) for value in body]
    return body


def _asked(body: dict[str, Any]) -> dict[str, Any]:
    """The request of the door. ValueError for what its model does not take."""
    config = body.get("generationConfig") or {}
    messages = [{"role": "system", "content": _text(body["systemInstruction"])}] if body.get("systemInstruction") else []
    for content in body["contents"]:
        messages += _messages(content)
    asked: dict[str, Any] = GREEDY | {"model": NAME, "messages": messages, "user": "google-genai"}
    asked |= {ours: config[name] for name, ours in _SAMPLING.items() if name in config}
    if "top_k" in asked:
        asked["top_k"] = int(asked["top_k"])  # a float in this API
    if schema := config.get("responseJsonSchema"):
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if config.get("responseLogprobs"):
        raise ValueError("Logprobs is not enabled for this model.")
    if declared := [each for tool in body.get("tools") or () for each in tool["functionDeclarations"]]:
        asked["tools"] = [{"type": "function", "function": _function(each)} for each in declared]
        mode = ((body.get("toolConfig") or {}).get("functionCallingConfig") or {}).get("mode")
        asked["tool_choice"] = {"ANY": "required", "NONE": "none"}.get(str(mode), "auto")
    return asked


def _function(declared: dict[str, Any]) -> dict[str, Any]:
    """Google's servers take a field by both spellings; the SDK leaves it as it is given."""
    schema = declared.get("parametersJsonSchema") or declared.get("parameters_json_schema")
    return {"name": declared["name"], "description": declared.get("description"), "parameters": schema}


def _text(content: dict[str, Any]) -> str:
    return "".join(part["text"] for part in content["parts"])


def _messages(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    role = "assistant" if content["role"] == "model" else "user"
    for part in content["parts"]:
        match part:
            case {"text": str(text)}:
                yield {"role": role, "content": text}
            case {"functionCall": call}:
                function = {"name": call["name"], "arguments": json.dumps(call["args"])}
                yield {"role": role, "tool_calls": [{"id": call.get("id", "c"), "type": "function", "function": function}]}
            case {"functionResponse": answer}:
                yield {"role": "tool", "tool_call_id": answer.get("id", "c"), "content": str(answer["response"]["result"])}
            case _:
                raise ValueError(f"Unable to process input: this model reads text only, not {', '.join(part)}.")


# ---------------------------------------------------------------- Google's answers


def _candidate(index: int, parts: list[dict[str, Any]], reason: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"index": index, "content": {"role": "model", "parts": parts}}
    return made | ({"finishReason": _REASONS.get(reason, "OTHER")} if reason else {})


def _called(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "functionCall": {"id": call["id"], "name": call["function"]["name"], "args": json.loads(call["function"]["arguments"])},
            "thoughtSignature": base64.b64encode(b"unsigned").decode(),
        }
        for call in calls
    ]


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    return {
        "promptTokenCount": usage["prompt_tokens"],
        "cachedContentTokenCount": usage["prompt_tokens_details"]["cached_tokens"],
        "candidatesTokenCount": usage["completion_tokens"],
        "totalTokenCount": usage["total_tokens"],
    }


def _whole(answer: Any) -> dict[str, Any]:
    candidates = []
    for choice in answer["choices"]:
        message = choice["message"]
        parts = _called(message.get("tool_calls") or []) or [{"text": message["content"] or ""}]
        candidates.append(_candidate(choice["index"], parts, choice["finish_reason"]))
    return {"candidates": candidates, "usageMetadata": _usage(answer["usage"]), "modelVersion": GEMINI, "responseId": "r"}


def _chunks(lines: HTTPResponse) -> Iterator[bytes]:
    """A stream of the door as one of Google's. The last chunk has the reason and the counts."""
    reason, calls = "stop", []
    for line in lines:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise ConnectionError(chunk["error"]["message"])
        for choice in chunk["choices"]:
            calls += choice["delta"].get("tool_calls") or []
            reason = choice["finish_reason"] or reason
            if text := choice["delta"].get("content"):
                yield _line(candidates=[_candidate(choice["index"], [{"text": text}])])
        if usage := chunk.get("usage"):
            last = _candidate(0, _called(calls) or [{"text": ""}], reason)
            yield _line(candidates=[last], usageMetadata=_usage(usage))


def _line(**chunk: Any) -> bytes:
    return f"data: {json.dumps(chunk | {'modelVersion': GEMINI, 'responseId': 'r'})}\n\n".encode()
