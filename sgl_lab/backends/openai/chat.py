"""Chat completions: a job as a request, chunks as outputs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ...contracts.conversation import ChatJob, ChatMessage, ChatOutput, ImagePart, TextLogprob, TextPart, ToolCallPart, ToolResultPart
from ...contracts.params import Constraint, SamplingParams
from ...contracts.port import Usage
from ...contracts.tools import ToolSpec
from ..remote import Call, Refused, Unended, with_answered_calls
from ..remote.whole import is_whole
from .servers import Server
from .strict import strict

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionChunk, ChatCompletionTokenLogprob
    from openai.types.chat.chat_completion_chunk import Choice

_DEFAULTS = SamplingParams()
Body = dict[str, object]
"""a JSON object that is put together"""


def request(job: ChatJob, model: str, server: Server) -> Body:
    """Keyword arguments of `client.chat.completions.create`."""
    assert not isinstance(job.prompt, str)
    body: Body = {"model": model, "messages": messages(job.prompt)}
    extra: Body = {}
    if job.prompt[-1].role == "assistant":
        extra |= server.to_continue
    body |= sampling(job.params, server, extra)
    if job.params.n > 1:
        body["n"] = job.params.n
    if job.params.logprobs:
        body["logprobs"] = True
        if job.params.top_logprobs:
            body["top_logprobs"] = job.params.top_logprobs
    if job.tools:
        body |= {"tools": [tool(spec, server) for spec in job.tools], "tool_choice": "required"}
    elif job.params.constraint is not None:
        body |= constraint(job.params.constraint, server, extra)
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body | ({"extra_body": extra} if extra else {})


def sampling(params: SamplingParams, server: Server, extra: Body) -> Body:
    """The parameters that differ from the API's defaults; those that only this server knows go into
    `extra`."""
    body: Body = {}
    if params.max_tokens is not None:
        body[server.max_tokens] = params.max_tokens
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"):
        value = getattr(params, name)
        if value != getattr(_DEFAULTS, name) or (name == "temperature" and server.temperature_is_sent):
            body[name] = value
    if params.stop:
        body["stop"] = list(params.stop)
    if params.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    for name, theirs in server.names.items():
        value = getattr(params, name)
        if value != getattr(_DEFAULTS, name):
            extra[theirs] = list(value) if isinstance(value, tuple) else value
    return body


def constraint(wanted: Constraint, server: Server, extra: Body) -> Body:
    if wanted.kind == "json_schema":
        return {"response_format": {"type": "json_schema", "json_schema": schema_form(wanted, server)}}
    field = server.constraints[wanted.kind]
    if field == "structured_outputs":
        extra[field] = {wanted.kind: wanted.source}
    elif field == "response_format":
        return {field: {"type": wanted.kind, "value": wanted.source}}
    else:
        extra[field] = wanted.source
    return {}


def schema_form(wanted: Constraint, server: Server) -> Body:
    """A schema with its name, as this server wants it."""
    schema = json.loads(wanted.source)
    if server.wraps:
        schema, _ = wrapped(schema)
    return (
        {"name": "answer", "schema": strict(schema, server.name), "strict": True}
        if server.is_strict
        else {"name": "answer", "schema": schema}
    )


def wrapped(schema: object) -> tuple[Body, bool]:
    """A schema whose root is an object, as OpenAI wants it, and whether that had to be made: then
    the value stands under "value"."""
    if isinstance(schema, dict) and schema.get("type") == "object" and not {"anyOf", "oneOf", "$ref"} & schema.keys():
        return schema, False
    moved = dict(schema) if isinstance(schema, dict) else {}
    definitions = {key: moved.pop(key) for key in ("$defs", "definitions") if key in moved}
    if "type" not in moved and "enum" in moved and all(isinstance(value, str) for value in moved["enum"]):
        moved["type"] = "string"
    return {"type": "object", "properties": {"value": moved}, "required": ["value"], "additionalProperties": False} | definitions, True


def unwrapped(text: str) -> str:
    """What stands under "value", as JSON; the text itself where it is cut short."""
    try:
        return json.dumps(json.loads(text)["value"], ensure_ascii=False)
    except (ValueError, KeyError, TypeError):
        return text


def tool(spec: ToolSpec, server: Server) -> Body:
    function = {"name": spec.name, "description": spec.description, "parameters": json.loads(spec.parameters)}
    return {"type": "function", "function": function | ({"strict": True} if server.holds_strict_calls else {})}


def messages(prompt: Sequence[ChatMessage]) -> list[Body]:
    """A turn with several results as one message for each."""
    sent: list[Body] = []
    for message in with_answered_calls(prompt):
        if message.role == "tool":
            sent += [_message(ChatMessage("tool", (part,))) for part in message.parts]
        else:
            sent.append(_message(message))
    return sent


def _message(message: ChatMessage) -> Body:
    if message.role == "tool" and isinstance(result := message.parts[0], ToolResultPart):
        return {"role": "tool", "tool_call_id": result.id, "content": result.text}
    sent: Body = {"role": message.role}
    if any(isinstance(part, ImagePart) for part in message.parts):
        sent["content"] = [_content(part) for part in message.parts if isinstance(part, ImagePart | TextPart)]
    else:
        sent["content"] = message.text
    if calls := [part for part in message.parts if isinstance(part, ToolCallPart)]:
        sent["content"] = sent["content"] or None
        sent["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls
        ]
    return sent


def _content(part: ImagePart | TextPart) -> Body:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": data_url(part)}}


def data_url(image: ImagePart) -> str:
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


# ---------------------------------------------------------------- the answer


class _Sample:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.refusal = ""
        self.reason: str | None = None
        self.matched: str | int | None = None
        self.calls: dict[int, list[str]] = {}
        """id, name and arguments of each"""
        self.logprobs: list[TextLogprob] = []


def read(chunks: Iterable[ChatCompletionChunk], job: ChatJob, call: Call, server: Server) -> tuple[ChatOutput, ...]:
    """The outputs of a stream of chunks. Unended where one of them has no end, Refused for an error
    that the server streams."""
    samples = [_Sample() for _ in range(job.params.n)]
    usage: CompletionUsage | None = None
    hidden = is_wrapped(job, server)
    for chunk in chunks:
        call.check()
        if error := getattr(chunk, "error", None):
            raise refused(error)
        usage = getattr(chunk, "usage", None) or usage
        for choice in chunk.choices or ():
            if not 0 <= choice.index < len(samples):
                raise ValueError(f"a sample {choice.index} that was not asked for")
            _take(samples[choice.index], choice, call, hidden=hidden)
    if any(sample.reason is None for sample in samples):
        raise Unended
    counts = counted(usage)
    shares = _shares(counts.completion_tokens, [sum(map(len, sample.texts)) for sample in samples])
    return tuple(
        _output(sample, job, Usage(counts.prompt_tokens, share, counts.cached_tokens, written_tokens=counts.written_tokens), hidden)
        for sample, share in zip(samples, shares, strict=True)
    )


def _take(sample: _Sample, choice: Choice, call: Call, *, hidden: bool) -> None:
    delta = choice.delta
    if text := getattr(delta, "content", None):
        sample.texts.append(text)
        if not hidden:
            call.delta(choice.index, text)
    for name in ("reasoning_content", "reasoning"):
        if isinstance(thought := getattr(delta, name, None), str):
            sample.reasoning.append(thought)
            break
    sample.refusal += getattr(delta, "refusal", None) or ""
    for part in getattr(delta, "tool_calls", None) or ():
        begun = sample.calls.setdefault(part.index, ["", "", ""])
        function = part.function
        begun[0] = part.id or begun[0]
        begun[1] += (function and function.name) or ""
        begun[2] += (function and function.arguments) or ""
    if choice.logprobs is not None:
        sample.logprobs += map(_logprob, choice.logprobs.content or ())
    if choice.finish_reason is not None:
        sample.reason = choice.finish_reason
        matched = getattr(choice, "stop_reason", None)  # vLLM
        matched = getattr(choice, "matched_stop", None) if matched is None else matched  # SGLang
        sample.matched = matched if isinstance(matched, str | int) else None


def _logprob(each: ChatCompletionTokenLogprob) -> TextLogprob:
    return TextLogprob(each.token, each.logprob, tuple((top.token, top.logprob) for top in each.top_logprobs or ()))


def _output(sample: _Sample, job: ChatJob, usage: Usage, hidden: bool) -> ChatOutput:
    text, reason = "".join(sample.texts), sample.reason or "stop"
    if sample.refusal and not text:
        text, reason = sample.refusal, "refusal"
    calls = tuple(ToolCallPart(id or f"call_{n}", name, arguments or "{}") for n, (id, name, arguments) in sorted(sample.calls.items()))
    if hidden and reason != "refusal":
        text = unwrapped(text)
    is_complete = is_whole(job.params.constraint, text, reason, sample.matched)
    return ChatOutput(text, reason, usage, sample.matched, calls, "".join(sample.reasoning), tuple(sample.logprobs), is_complete)


def is_wrapped(job: ChatJob, server: Server) -> bool:
    wanted = job.params.constraint
    return server.wraps and not job.tools and wanted is not None and wanted.kind == "json_schema" and wrapped(json.loads(wanted.source))[1]


def counted(usage: CompletionUsage | None) -> Usage:
    """The counts of a `usage` object; of what it lacks, 0."""
    if usage is None:
        return Usage()
    details = getattr(usage, "prompt_tokens_details", None)
    cached, written = getattr(details, "cached_tokens", None) or 0, getattr(details, "cache_write_tokens", None) or 0
    return Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0, cached, written_tokens=written)


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """A total as it falls to samples of these lengths: servers count all samples of a prompt together."""
    if len(weights) == 1:
        return [total]
    whole = sum(weights) or 1
    ends = [total * sum(weights[: i + 1]) // whole for i in range(len(weights))]
    ends[-1] = total
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def refused(error: object) -> Refused:
    """An error that came within a stream."""
    if not isinstance(error, dict):
        error = {"message": getattr(error, "message", str(error)), "code": getattr(error, "code", None)}
    code = error.get("code")
    return Refused(str(error.get("message") or error), code if type(code) is int else None)
