"""POST /v1/messages: Anthropic's form, and its count of tokens."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import cast

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.port import GenJob, GenOutput, Message
from ..contracts.tools import ToolStyle
from . import sampling, tools
from .fields import Fields
from .images import Images
from .messages import not_read
from .openai_chat import stops
from .parsed import Answer, Model, ParsedRequest, Piece, frame

IGNORED = ("metadata", "service_tier", "thinking", "cache_control", "inference_geo", "container", "context_management", "betas")


def prompt_of(model: Model, fields: Fields) -> tuple[tuple[int, ...], tools.Tools]:
    """The tokens of the prompt: of a last turn of the assistant's, the answer is the rest."""
    turns: list[Message] = []
    style = model.card.tool_style
    for i, one in enumerate(given := fields.items("messages")):
        turns += _read(one, style, f"messages[{i}].", model.images)
    if not given:
        raise BadArgument("messages is empty", hint="give at least one message")
    chosen = _tools(fields, style)
    system = _text(fields.any("system"), "system")
    if system:
        turns = [Message("system", system), *turns]
    return model.encode_chat(chosen.with_tools(turns), continues=turns[-1].role == "assistant"), chosen


def read(model: Model, fields: Fields) -> ParsedRequest:
    most = fields.whole("max_tokens")
    if most is None:
        raise BadArgument("max_tokens is missing", hint="it is a whole number")
    sequences = fields.items("stop_sequences")
    config, constraint = fields.inner("output_config"), None
    if config is not None:
        constraint = sampling.of_format(config.inner("format"))
        config.ignore("effort")
        config.done()
    prompt, chosen = prompt_of(model, fields)
    constraint = chosen.constraint(constraint, "output_config.format")
    params = sampling.read(fields, max_tokens=most, constraint=constraint, stop=stops(model, fields, list(sequences)))
    if params.n != 1:
        raise BackendUnsupported("a message has one sample", hint="leave out n")
    streams = fields.flag("stream")
    fields.ignore(*IGNORED)
    job = GenJob(prompt, params, blocks=model.images.blocks(prompt))
    return ParsedRequest((job,), MessageReply(model, chosen, frozenset(map(str, sequences)), len(prompt)), streams)


def count(model: Model, fields: Fields) -> dict[str, int]:
    prompt, _ = prompt_of(model, fields)
    return {"input_tokens": len(prompt)}


def _text(given: Json, where: str) -> str:
    if given is None or isinstance(given, str):
        return given or ""
    if not isinstance(given, list):
        raise BadArgument(f"{where} must be a string or a list of blocks, not {given!r:.60}")
    parts = []
    for i, one in enumerate(given):
        block = Fields(one, f"{where}[{i}].")
        if (kind := block.needed("type")) != "text":
            raise not_read(f"{where}[{i}]", kind)
        parts.append(block.needed("text"))
    return "".join(parts)


def _read(given: Json, style: ToolStyle | None, where: str, images: Images) -> list[Message]:
    """One turn: results of tools are turns of their own."""
    fields = Fields(given, where)
    role, content = fields.needed("role"), fields.any("content")
    if role not in ("user", "assistant", "system"):
        raise BadArgument(f"{where}role cannot be {role!r:.40}", hint="it is user or assistant")
    if isinstance(content, str):
        return [Message(role, content)]
    if not isinstance(content, list) or not content:
        raise BadArgument(f"{where}content must be a string or a list of blocks, not {content!r:.60}")
    found: list[Message] = []
    texts: list[str] = []
    for i, one in enumerate(content):
        block = Fields(one, f"{where}content[{i}].")
        match kind := block.needed("type"):
            case "text":
                texts.append(block.needed("text"))
            case "tool_use":
                texts.append(tools.spelled_call(block.needed("name"), json.dumps(block.any("input") or {}), style))
            case "tool_result":
                found.append(Message("tool", _text(block.any("content"), f"{where}content[{i}].content")))
            case "image" if images.sees:
                texts.append(_image(block.any("source"), f"{where}content[{i}].source", images))
            case "thinking" | "redacted_thinking":
                pass
            case _:
                raise not_read(f"{where}content[{i}]", kind)
    if texts or not found:
        found.append(Message(role, ("\n" if role == "assistant" else "").join(texts)))
    return found


def _image(given: Json, where: str, images: Images) -> str:
    match given:
        case {"type": "base64", "data": data}:
            return images.mark(data, where)
        case {"type": "url", "url": url}:
            return images.mark(url, where)
        case _:
            raise BadArgument(f"{where} must be base64 or a data URL, not {given!r:.60}")


def _tools(fields: Fields, style: ToolStyle | None) -> tools.Tools:
    found = []
    for i, given in enumerate(fields.items("tools")):
        tool = Fields(given, f"tools[{i}].")
        if (kind := tool.text("type") or "custom") != "custom":
            raise BackendUnsupported(f"tools[{i}] of type {kind!r:.40} is not supported here", hint="give tools of your own")
        found.append(tools.read(tool, "input_schema"))
    choice = fields.any("tool_choice")
    match choice:
        case None:
            return tools.of(found, None, style)
        case {"type": "tool", "name": str(name)}:
            return tools.of(found, (name,), style)
        case {"type": "any"}:
            return tools.of(found, "required", style)
        case {"type": ("auto" | "none") as kind}:
            return tools.of(found, kind, style)
        case _:
            raise BadArgument(f"tool_choice cannot be {choice!r:.60}", hint="its type is auto, any, tool or none")


class MessageReply:
    def __init__(self, model: Model, chosen: tools.Tools, sequences: frozenset[str], n_prompt: int) -> None:
        self._tools = chosen
        self._sequences = sequences
        self._n_prompt = n_prompt
        self._head = {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": model.name}
        self._text = ""
        self._speaks = False
        self._n_cached = 0
        """known with the first piece, which is spelled before the stream is opened"""

    def whole(self, answers: Sequence[Answer]) -> object:
        ((output,),) = cast(Sequence[tuple[GenOutput, ...]], answers)
        call = self._tools.call_in(output.text)
        content = _use(call, json.loads(call.arguments)) if call else {"type": "text", "text": output.text, "citations": None}
        return self._head | {"content": [content], **self._reason(output, bool(call)), "usage": self._usage(output)}

    def _reason(self, output: GenOutput, is_call: bool) -> dict[str, object]:
        matched = output.matched_stop if output.matched_stop in self._sequences else None
        reason = "tool_use" if is_call else "stop_sequence" if matched else _REASONS.get(output.finish_reason)
        return {"stop_reason": reason, "stop_sequence": None if is_call else matched}

    def _usage(self, output: GenOutput | None) -> dict[str, object]:
        n_cached = self._n_cached if output is None else output.usage.cached_tokens
        return {
            "input_tokens": self._n_prompt - n_cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": n_cached,
            "output_tokens": 0 if output is None else output.usage.completion_tokens,
        }

    # ------------------------------------------------------------ a stream

    def opening(self) -> bytes:
        begun: dict[str, object] = self._head | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": self._usage(None)}
        return _event("message_start", message=begun)

    def piece(self, piece: Piece) -> bytes:
        self._text += piece.text
        self._n_cached = piece.n_cached
        if not piece.text or (not self._speaks and (self._tools.must or self._tools.may_be_call(self._text))):
            return b""
        return self._words(piece.text if self._speaks else self._text)

    def _words(self, text: str) -> bytes:
        begin = b"" if self._speaks else _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        self._speaks = True
        return begin + _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def closing(self, answers: Sequence[Answer]) -> bytes:
        ((output,),) = cast(Sequence[tuple[GenOutput, ...]], answers)
        call = None if self._speaks else self._tools.call_in(output.text)
        frames = []
        if call:
            frames.append(_event("content_block_start", index=0, content_block=_use(call, {})))
            delta = {"type": "input_json_delta", "partial_json": call.arguments}
            frames.append(_event("content_block_delta", index=0, delta=delta))
        elif not self._speaks:
            frames.append(self._words(output.text))
        frames.append(_event("content_block_stop", index=0))
        frames.append(_event("message_delta", delta=self._reason(output, bool(call)), usage=self._usage(output)))
        frames.append(_event("message_stop"))
        return b"".join(frames)


_REASONS = {"stop": "end_turn", "length": "max_tokens"}


def _use(call: tools.Call, given: Json) -> dict[str, object]:
    return {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": call.name, "input": given}


def _event(kind: str, **fields: object) -> bytes:
    return frame({"type": kind, **fields}, kind)
