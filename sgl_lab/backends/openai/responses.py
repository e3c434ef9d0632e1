"""Responses: a job as a request, events as an output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ...contracts.conversation import ChatJob, ChatMessage, ChatOutput, ImagePart, Part, TextLogprob, TextPart, ToolCallPart, ToolResultPart
from ...contracts.port import Usage
from ..remote import Call, Unended, with_answered_calls
from ..remote.whole import is_whole
from .chat import Body, data_url, is_wrapped, refused, sampling, schema_form, unwrapped
from .servers import Server

if TYPE_CHECKING:
    from openai.types.decision import Usage as DecisionUsage
    from openai.types.responses import ResponseStreamEvent, ResponseUsage
    from openai.types.responses.response_text_delta_event import Logprob


def request(job: ChatJob, model: str, server: Server) -> Body:
    """Keyword arguments of `client.responses.create`."""
    assert not isinstance(job.prompt, str)
    body: Body = {"model": model, "input": items(job.prompt), "store": False, "stream": True}
    for name, value in sampling(job.params, server, {}).items():
        body["max_output_tokens" if name == server.max_tokens else name] = value
    if job.params.logprobs:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": job.params.top_logprobs}
    if job.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": spec.name,
                "description": spec.description,
                "parameters": json.loads(spec.parameters),
                "strict": False,
            }
            for spec in job.tools
        ]
        body |= {"tool_choice": "required", "parallel_tool_calls": False}
    elif job.params.constraint is not None:
        body["text"] = {"format": {"type": "json_schema"} | schema_form(job.params.constraint, server)}
    return body


def items(prompt: Sequence[ChatMessage]) -> list[Body]:
    """Messages, calls and their results stand beside each other."""
    sent: list[Body] = []
    for message in with_answered_calls(prompt):
        plain = [part for part in message.parts if isinstance(part, TextPart | ImagePart)]
        if plain and any(isinstance(part, ImagePart) for part in plain):
            sent.append({"type": "message", "role": message.role, "content": [_content(part) for part in plain]})
        elif plain:
            sent.append({"type": "message", "role": message.role, "content": message.text})
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                sent.append({"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments})
            elif isinstance(part, ToolResultPart):
                sent.append({"type": "function_call_output", "call_id": part.id, "output": part.text})
    return sent


def _content(part: Part) -> Body:
    if isinstance(part, ImagePart):
        return {"type": "input_image", "image_url": data_url(part), "detail": "auto"}
    assert isinstance(part, TextPart)
    return {"type": "input_text", "text": part.text}


# ---------------------------------------------------------------- the answer


def read(events: Iterable[ResponseStreamEvent], job: ChatJob, call: Call, server: Server) -> tuple[ChatOutput, ...]:
    """The output of a stream of events. Unended without an event that ends it."""
    hidden = is_wrapped(job, server)
    texts, thoughts, logprobs = list[str](), list[str](), list[TextLogprob]()
    refusal, response = "", None
    for event in events:
        call.check()
        match event.type:
            case "response.output_text.delta":
                texts.append(event.delta)
                logprobs += [_logprob(each) for each in getattr(event, "logprobs", None) or ()]
                if not hidden:
                    call.delta(0, event.delta)
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                thoughts.append(event.delta)
            case "response.refusal.delta":
                refusal += event.delta
            case "response.failed":
                raise refused(event.response.error or "the response failed")
            case "error":
                raise refused(event)
            case "response.completed" | "response.incomplete":
                response = event.response
    if response is None:
        raise Unended
    why = response.incomplete_details.reason if response.incomplete_details else None
    reason: str = "length" if why == "max_output_tokens" else why or "stop"
    calls = tuple(
        ToolCallPart(item.call_id, item.name, item.arguments or "{}") for item in response.output or () if item.type == "function_call"
    )
    text = "".join(texts)
    if refusal and not text:
        text, reason = refusal, "refusal"
    elif hidden:
        text = unwrapped(text)
    if calls and reason == "stop":
        reason = "tool_calls"
    is_complete = is_whole(job.params.constraint, text, reason)
    return (ChatOutput(text, reason, counted(response.usage), None, calls, "".join(thoughts), tuple(logprobs), is_complete),)


def _logprob(each: Logprob) -> TextLogprob:
    tops = getattr(each, "top_logprobs", None) or ()
    return TextLogprob(each.token, each.logprob, tuple((top.token, top.logprob) for top in tops if top.token is not None))


def counted(usage: ResponseUsage | DecisionUsage | None) -> Usage:
    if usage is None:
        return Usage()
    details = getattr(usage, "input_tokens_details", None)
    cached, written = getattr(details, "cached_tokens", None) or 0, getattr(details, "cache_write_tokens", None) or 0
    return Usage(usage.input_tokens or 0, usage.output_tokens or 0, cached, written_tokens=written)
