"""POST /v1/chat/completions, as OpenAI and the servers that follow it take it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import cast

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.port import GenJob, GenOutput, TokenLogprob
from ..contracts.tools import ToolStyle
from . import messages, sampling, tools
from .fields import Fields
from .parsed import DONE, Answer, Model, ParsedRequest, Piece, dumps, frame

HARMLESS = (
    *("store", "metadata", "service_tier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier"),
    *("parallel_tool_calls", "verbosity", "reasoning_effort", "rid", "priority", "prediction", "stream_reasoning", "separate_reasoning"),
)
"""Parameters that change nothing here."""


def most_tokens(fields: Fields) -> int | None:
    """`max_completion_tokens`, or its older name."""
    older, newer = fields.whole("max_tokens"), fields.whole("max_completion_tokens")
    return older if newer is None else newer


def read(model: Model, fields: Fields) -> ParsedRequest:
    turns = messages.read(fields.items("messages"), style := model.card.tool_style, images=model.images)
    chosen = _tools(fields, style)
    continues = fields.flag("continue_final_message")
    if continues and turns[-1].role != "assistant":
        raise BadArgument("continue_final_message needs a last message of the assistant")
    constraint = sampling.of_format(fields.inner("response_format"))
    top = fields.whole("top_logprobs") or 0
    params = sampling.read(
        fields,
        max_tokens=most_tokens(fields),
        constraint=chosen.constraint(constraint, "response_format"),
        return_logprob=fields.flag("logprobs"),
        top_logprobs_num=top,
        stop=stops(model, fields),
    )
    rid = fields.text("rid")
    streams, with_usage = streaming(fields)
    fields.ignore(*HARMLESS)
    fields.only("modalities", ["text"])
    fields.only("audio")
    fields.only("add_generation_prompt", True, not continues)
    fields.only("chat_template_kwargs", {})
    prompt = model.encode_chat(chosen.with_tools(turns), continues=continues)
    job = GenJob(prompt, params, blocks=model.images.blocks(prompt))
    return ParsedRequest((job,), ChatReply(model, params.logprobs, chosen, with_usage), streams, rid)


def stops(model: Model, fields: Fields, given: Json = None) -> Json:
    """The request's stops, and the chat template's own, which end a turn."""
    given, own = given or fields.any("stop"), model.chat.stop
    if isinstance(given, str) and own:
        given = [given]
    return [*given, *own] if isinstance(given, list) else given or list(own)


def streaming(fields: Fields) -> tuple[bool, bool]:
    """Whether it streams, and whether the stream ends with the usage."""
    streams, options = fields.flag("stream"), fields.inner("stream_options")
    if options is None:
        return streams, False
    if not streams:
        raise BadArgument("stream_options needs stream")
    with_usage = options.flag("include_usage")
    options.ignore("include_obfuscation", "continuous_usage_stats")
    options.done()
    return streams, with_usage


def _tools(fields: Fields, style: ToolStyle | None) -> tools.Tools:
    found = []
    for i, given in enumerate(fields.items("tools")):
        tool = Fields(given, f"tools[{i}].")
        if (kind := tool.needed("type")) != "function" or (function := tool.inner("function")) is None:
            raise BackendUnsupported(f"tools[{i}] of type {kind!r:.40} is not supported here", hint="give functions")
        found.append(tools.read(function))
    choice: object = fields.any("tool_choice")
    if isinstance(choice, dict):
        match choice:
            case {"type": "function", "function": {"name": str(name)}}:
                choice = (name,)
            case _:
                raise BackendUnsupported(f"tool_choice {choice!r:.60} is not supported here", hint="name a function")
    return tools.of(found, choice, style)


# ---------------------------------------------------------------- answers


def usage_of(answers: Sequence[Answer]) -> dict[str, object]:
    """Samples of one prompt share it: it counts once."""
    outputs = [cast(tuple[GenOutput, ...], answer) for answer in answers]
    n_prompt = sum(each[0].usage.prompt_tokens for each in outputs)
    n_completion = sum(output.usage.completion_tokens for each in outputs for output in each)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": sum(each[0].usage.cached_tokens for each in outputs)},
    }


class ChatReply:
    def __init__(self, model: Model, logprobs: bool, chosen: tools.Tools, with_usage: bool) -> None:
        self._model = model
        self._logprobs = logprobs
        self._tools = chosen
        self._with_usage = with_usage
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model.name}
        self._chunk = dumps(self._head | {"object": "chat.completion.chunk"})[:-1] + ',"choices":['
        self._held: dict[int, str] = {}
        """text that may become a tool call, by sample"""
        self._spoke: set[int] = set()
        """samples that are words"""
        self._pending: dict[int, list[TokenLogprob]] = {}

    # ------------------------------------------------------------ whole

    def whole(self, answers: Sequence[Answer]) -> object:
        (outputs,) = cast(Sequence[tuple[GenOutput, ...]], answers)
        choices = [self._choice(index, output) for index, output in enumerate(outputs)]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": usage_of(answers)}

    def _choice(self, index: int, output: GenOutput) -> dict[str, object]:
        call = self._tools.call_in(output.text)
        message: dict[str, object] = {"role": "assistant", "content": None if call else output.text, "refusal": None}
        if call:
            message["tool_calls"] = [_spelled(call)]
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": self._logprobs_of(output.logprobs), "refusal": None} if self._logprobs else None,
            "finish_reason": "tool_calls" if call else output.finish_reason,
            "matched_stop": output.matched_stop,
        }

    def _logprobs_of(self, logprobs: Sequence[TokenLogprob]) -> list[dict[str, object]]:
        def entry(token: int, logprob: float | None) -> dict[str, object]:
            text = self._model.spell(token)
            return {"token": text, "logprob": -9999.0 if logprob is None else logprob, "bytes": list(text.encode())}

        return [entry(one.token, one.logprob) | {"top_logprobs": [entry(token, logprob) for token, logprob in one.top]} for one in logprobs]

    # ------------------------------------------------------------ a stream

    def opening(self) -> bytes:
        return b""

    def piece(self, piece: Piece) -> bytes:
        index, text = piece.sample, piece.text
        if self._logprobs and piece.logprobs:
            self._pending.setdefault(index, []).extend(piece.logprobs)
        if self._tools.tools and index not in self._spoke:
            text = self._held[index] = self._held.get(index, "") + text
            if self._tools.must or self._tools.may_be_call(text):
                return b""
            del self._held[index]
        return self._delta(index, text) if text or self._pending.get(index) else b""

    def _delta(self, index: int, text: str) -> bytes:
        delta = f'{{"content":{dumps(text)}}}'
        if index not in self._spoke:
            self._spoke.add(index)
            delta = f'{{"role":"assistant","content":{dumps(text)}}}'
        logprobs = "null"
        if self._logprobs:
            logprobs = dumps({"content": self._logprobs_of(self._pending.pop(index, ())), "refusal": None})
        return f'data: {self._chunk}{{"index":{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":null}}]}}\n\n'.encode()

    def closing(self, answers: Sequence[Answer]) -> bytes:
        (outputs,) = cast(Sequence[tuple[GenOutput, ...]], answers)
        frames = []
        for index, output in enumerate(outputs):
            call = None if index in self._spoke else self._tools.call_in(output.text)
            if call:
                delta: dict[str, object] = {"role": "assistant", "content": None, "tool_calls": [_spelled(call) | {"index": 0}]}
                frames.append(self._closed(index, delta, None))
            elif index not in self._spoke:
                frames.append(self._delta(index, self._held.get(index, "")))
            frames.append(self._closed(index, {}, "tool_calls" if call else output.finish_reason, output.matched_stop))
        if self._with_usage:
            frames.append(frame(self._head | {"object": "chat.completion.chunk", "choices": [], "usage": usage_of(answers)}))
        return b"".join((*frames, DONE))

    def _closed(self, index: int, delta: dict[str, object], reason: str | None, matched: str | int | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason, "matched_stop": matched}
        return frame(self._head | {"object": "chat.completion.chunk", "choices": [choice]})


def _spelled(call: tools.Call) -> dict[str, object]:
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
