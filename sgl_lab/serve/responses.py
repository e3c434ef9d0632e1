"""POST /v1/responses: OpenAI's newer form. A request brings its conversation, or goes on from one
of the client's last responses."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import cast

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.port import GenJob, GenOutput, Message, TokenLogprob
from ..contracts.tools import ToolStyle
from . import messages, sampling, tools
from .fields import Fields
from .images import Images
from .openai_chat import HARMLESS, stops
from .parsed import Answer, Model, ParsedRequest, Piece, frame

IGNORED = (*HARMLESS, "include", "reasoning", "max_tool_calls", "truncation", "context_management")


def read(model: Model, fields: Fields) -> ParsedRequest:
    before, instructions = fields.text("previous_response_id"), fields.text("instructions")
    style = model.card.tool_style
    turns = [*(model.conversations.turns(before) if before else ()), *_input(fields.any("input"), style, model.images)]
    stores = fields.flag("store") if "store" in fields else True
    chosen = _tools(fields, style)
    about = fields.inner("text")
    constraint = None if about is None else sampling.of_format(about.inner("format"))
    if about is not None:
        about.ignore("verbosity")
        about.done()
    top, include = fields.whole("top_logprobs"), fields.any("include")
    tells = top is not None or (isinstance(include, list) and "message.output_text.logprobs" in include)
    params = sampling.read(
        fields,
        max_tokens=fields.whole("max_output_tokens"),
        constraint=chosen.constraint(constraint, "text.format"),
        return_logprob=tells or None,
        top_logprobs_num=top,
        stop=stops(model, fields),
    )
    if params.n != 1:
        raise BackendUnsupported("a response has one sample", hint="leave out n")
    streams, rid = fields.flag("stream"), fields.text("rid")
    for name in ("conversation", "prompt"):
        fields.only(name)
    fields.only("background", False)
    fields.ignore(*IGNORED, "stream_options")
    whole = [Message("system", instructions), *turns] if instructions else turns
    prompt = model.encode_chat(chosen.with_tools(whole))
    echo: dict[str, object] = {
        "previous_response_id": before,
        "store": stores,
        "instructions": instructions,
        "max_output_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "tool_choice": "required" if chosen.must else "auto",
        "tools": [
            {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": True}
            for tool in chosen.tools
        ],
    }
    reply = ResponseReply(model, params.logprobs, chosen, echo)

    def keep(client: str, answers: Sequence[Answer]) -> None:
        model.conversations.keep(client, reply.id, [*turns, reply.turn(answers)])

    return ParsedRequest((GenJob(prompt, params, blocks=model.images.blocks(prompt)),), reply, streams, rid, keep if stores else None)


def _input(given: Json, style: ToolStyle | None, images: Images) -> list[Message]:
    if isinstance(given, str):
        return [Message("user", given)]
    if not isinstance(given, list) or not given:
        raise BadArgument(f"input must be a string or a list of items, not {given!r:.60}")
    found: list[Message] = []
    for i, one in enumerate(given):
        where = f"input[{i}]."
        item = Fields(one, where)
        match kind := item.text("type") or "message":
            case "message":
                found += messages.read([one], style, "input", images)
            case "function_call":
                found.append(Message("assistant", tools.spelled_call(item.needed("name"), item.text("arguments") or "{}", style)))
            case "function_call_output":
                found.append(Message("tool", messages.text_of(item.any("output"), f"{where}output")))
            case "reasoning":
                pass
            case _:
                raise BackendUnsupported(f"{where}type {kind!r:.40} is not supported here", hint="send messages and function calls")
    return found


def _tools(fields: Fields, style: ToolStyle | None) -> tools.Tools:
    found = []
    for i, given in enumerate(fields.items("tools")):
        tool = Fields(given, f"tools[{i}].")
        if (kind := tool.needed("type")) != "function":
            raise BackendUnsupported(f"tools[{i}] of type {kind!r:.40} is not supported here", hint="give functions")
        found.append(tools.read(tool))
    choice: object = fields.any("tool_choice")
    match choice:
        case {"type": "function", "name": str(name)}:
            choice = (name,)
        case dict():
            raise BackendUnsupported(f"tool_choice {choice!r:.60} is not supported here", hint="name a function")
    return tools.of(found, choice, style)


def usage_of(output: GenOutput) -> dict[str, object]:
    usage = output.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class ResponseReply:
    def __init__(self, model: Model, logprobs: bool, chosen: tools.Tools, echo: dict[str, object]) -> None:
        self._model = model
        self._logprobs = logprobs
        self._tools = chosen
        self.id = f"resp_{secrets.token_hex(16)}"
        self._item = f"msg_{secrets.token_hex(16)}"
        self._head: dict[str, object] = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model.name,
            "error": None,
            "metadata": {},
            "parallel_tool_calls": False,
            "truncation": "disabled",
            **echo,
        }
        self._n_events = 0
        self._text = ""
        self._speaks = False

    def turn(self, answers: Sequence[Answer]) -> Message:
        """The answer as a turn of the conversation."""
        ((output,),) = cast(Sequence[tuple[GenOutput, ...]], answers)
        call = self._call(output)
        return Message("assistant", tools.spelled_call(call.name, call.arguments, self._model.card.tool_style) if call else output.text)

    # ------------------------------------------------------------ whole

    def whole(self, answers: Sequence[Answer]) -> object:
        ((output,),) = cast(Sequence[tuple[GenOutput, ...]], answers)
        return self._ended(output, self._output_item(output))

    def _output_item(self, output: GenOutput) -> dict[str, object]:
        status = "completed" if output.finish_reason == "stop" else "incomplete"
        call = self._call(output)
        return self._call_item(call) if call else self._message(status, [self._part(output.text, output.logprobs)])

    def _call(self, output: GenOutput) -> tools.Call | None:
        return None if self._speaks else self._tools.call_in(output.text)

    def _message(self, status: str, content: list[dict[str, object]]) -> dict[str, object]:
        return {"id": self._item, "type": "message", "status": status, "role": "assistant", "content": content}

    def _part(self, text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, object]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs_of(logprobs)}

    def _call_item(self, call: tools.Call) -> dict[str, object]:
        own = self._item.removeprefix("msg_")
        return {
            "id": f"fc_{own}",
            "call_id": f"call_{own[:24]}",
            "type": "function_call",
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }

    def _ended(self, output: GenOutput, item: dict[str, object]) -> dict[str, object]:
        is_cut = output.finish_reason != "stop"
        reason = {"reason": "max_output_tokens" if output.finish_reason == "length" else output.finish_reason} if is_cut else None
        status = "incomplete" if is_cut else "completed"
        return self._head | {"status": status, "incomplete_details": reason, "output": [item], "usage": usage_of(output)}

    def _logprobs_of(self, logprobs: Sequence[TokenLogprob]) -> list[dict[str, object]]:
        def entry(token: int, logprob: float | None) -> dict[str, object]:
            text = self._model.spell(token)
            return {"token": text, "logprob": -9999.0 if logprob is None else logprob, "bytes": list(text.encode())}

        if not self._logprobs:
            return []
        return [entry(one.token, one.logprob) | {"top_logprobs": [entry(*top) for top in one.top]} for one in logprobs]

    # ------------------------------------------------------------ a stream

    def _event(self, kind: str, **fields: object) -> bytes:
        number, self._n_events = self._n_events, self._n_events + 1
        return frame({"type": kind, "sequence_number": number, **fields}, kind)

    def opening(self) -> bytes:
        begun = self._head | {"status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def piece(self, piece: Piece) -> bytes:
        self._text += piece.text
        if not piece.text or (not self._speaks and (self._tools.must or self._tools.may_be_call(self._text))):
            return b""
        return self._words(piece.text if self._speaks else self._text, piece.logprobs)

    def _words(self, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        begin = b""
        if not self._speaks:
            self._speaks = True
            begin = self._event("response.output_item.added", output_index=0, item=self._message("in_progress", []))
            begin += self._event("response.content_part.added", **self._where, part=self._part("", ()))
        return begin + self._event("response.output_text.delta", **self._where, delta=text, logprobs=self._logprobs_of(logprobs))

    @property
    def _where(self) -> dict[str, object]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def closing(self, answers: Sequence[Answer]) -> bytes:
        ((output,),) = cast(Sequence[tuple[GenOutput, ...]], answers)
        item = self._output_item(output)
        frames = []
        if call := self._call(output):
            begun = item | {"arguments": "", "status": "in_progress"}
            place = {"item_id": item["id"], "output_index": 0}
            frames += [
                self._event("response.output_item.added", output_index=0, item=begun),
                self._event("response.function_call_arguments.delta", **place, delta=call.arguments),
                self._event("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments),
            ]
        else:
            if not self._speaks:
                frames.append(self._words(output.text, output.logprobs))
            part = self._part(output.text, output.logprobs)
            frames += [
                self._event("response.output_text.done", **self._where, text=output.text, logprobs=part["logprobs"]),
                self._event("response.content_part.done", **self._where, part=part),
            ]
        frames.append(self._event("response.output_item.done", output_index=0, item=item))
        ended = self._ended(output, item)
        frames.append(self._event(f"response.{ended['status']}", response=ended))
        return b"".join(frames)
