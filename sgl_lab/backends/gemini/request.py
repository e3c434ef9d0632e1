"""A job as a request of generateContent, and a decision as one of the Decisions API. Nothing here
needs the SDK or a socket."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from ...contracts.conversation import ChatJob, ChatMessage, DecisionJob, ImagePart, Part, Prompt, TextPart, ToolCallPart, ToolResultPart
from ...contracts.errors import BackendUnsupported, ProgramError
from ...contracts.params import SamplingParams
from ...contracts.tools import ToolSpec
from ..remote import with_answered_calls
from . import schemas
from .models import Model

MAX_CHOICES = 255
_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
_UNSIGNED = b"skip_thought_signature_validator"
"""what Google's documentation has for a call that its models did not sign"""
_INSTRUCTIONS = "The input is a conversation. Which of these does the assistant say next?"
QUESTION = "next"
Block = dict[str, object]


class Arguments(TypedDict):
    """Arguments of `models.generate_content_stream`."""

    model: str
    contents: list[Block]
    config: Block


@dataclass(frozen=True, slots=True)
class Settings:
    name: str
    model: Model
    thinking: int | str | None = None
    """a budget in tokens, or a level; None for as little as the model can"""
    thinking_tokens: int = 8_192
    """room for thoughts, which count as tokens of the answer"""
    safety: tuple[tuple[str, str], ...] = ()
    """(category, threshold)"""


def request_of(job: ChatJob, settings: Settings) -> Arguments:
    """BackendUnsupported or ProgramError for what the API does not take."""
    params = job.params
    system, contents = _spoken(_messages(job.prompt, settings.name))
    config = _sampling(params, settings) | _thinking(settings)
    if system:
        config["system_instruction"] = {"parts": system}
    if params.constraint is not None:
        config["response_mime_type"] = "application/json"
        config["response_json_schema"] = schemas.enforced(params.constraint.source)
    if job.tools:
        config["tools"] = [{"function_declarations": [_tool(tool) for tool in job.tools]}]
        config["tool_config"] = {"function_calling_config": {"mode": "ANY", "allowed_function_names": [tool.name for tool in job.tools]}}
    if settings.safety:
        config["safety_settings"] = [{"category": category, "threshold": threshold} for category, threshold in settings.safety]
    # The SDK would call functions, and ask again where an answer is long: calls that the budget does not know of.
    config["automatic_function_calling"] = {"disable": True}
    config["automatic_continuation"] = False
    return {"model": settings.name, "contents": contents, "config": config}


def _sampling(params: SamplingParams, settings: Settings) -> Block:
    default = SamplingParams()
    config: Block = {
        name: getattr(params, name)
        for name in ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")
        if getattr(params, name) != getattr(default, name)
    }
    if params.max_tokens is not None:
        config["max_output_tokens"] = max_output(params.max_tokens, settings)
    if params.stop:
        config["stop_sequences"] = list(params.stop)
    if params.n > 1:
        config["candidate_count"] = params.n
    if params.logprobs:
        config["response_logprobs"] = True
        if params.top_logprobs:
            config["logprobs"] = params.top_logprobs
    return config


def max_output(max_tokens: int | None, settings: Settings) -> int:
    """Tokens of an answer, with room for thoughts."""
    if max_tokens is None:
        return settings.model.max_tokens
    room = settings.thinking_tokens if settings.model.thinks or settings.thinking else 0
    return min(max_tokens + room, settings.model.max_tokens)


def _thinking(settings: Settings) -> Block:
    thinking = settings.model.least_thinking if settings.thinking is None else settings.thinking
    if thinking is None:
        return {}
    config: Block = {"thinking_level": thinking.upper()} if isinstance(thinking, str) else {"thinking_budget": thinking}
    if settings.thinking is not None:
        config["include_thoughts"] = True
    return {"thinking_config": config}


def _tool(tool: ToolSpec) -> Block:
    spec: Block = {"name": tool.name, "parameters_json_schema": json.loads(tool.parameters)}
    return spec | ({"description": tool.description} if tool.description else {})


# ---------------------------------------------------------------- messages


def _messages(prompt: Prompt, name: str) -> Sequence[ChatMessage]:
    if isinstance(prompt, str):
        raise BackendUnsupported(f"{name} takes no text without roles", hint="write user(...) and assistant(gen(...))")
    return with_answered_calls(prompt)


def _spoken(messages: Sequence[ChatMessage]) -> tuple[list[Block], list[Block]]:
    """The system's parts, and the contents."""
    system: list[Block] = []
    contents: list[Block] = []
    names: dict[str, str] = {}
    """of the calls so far, by their ids"""
    for message in messages:
        names |= {part.id: part.name for part in message.parts if isinstance(part, ToolCallPart)}
        parts = [_part(part, names) for part in message.parts]
        if message.role == "system" and not contents:
            system += parts
        else:
            contents.append({"role": _role(message.role), "parts": parts})
    if not contents:
        raise ProgramError("Gemini answers a user: its conversation has a user's turn", hint="write user(...) before assistant(...)")
    return system, contents


def _role(role: str) -> str:
    roles = {"user": "user", "tool": "user", "assistant": "model"}
    if role in roles:
        return roles[role]
    if role == "system":
        raise BackendUnsupported("Gemini takes system turns at the beginning only", hint="say it in the first turn, or as user(...)")
    raise BackendUnsupported(f"Gemini has no role {role!r}", hint="its roles are system, user, assistant and tool")


def _part(part: Part, names: dict[str, str]) -> Block:
    match part:
        case TextPart(text):
            return {"text": text}
        case ImagePart(media_type, data):
            return {"inline_data": {"mime_type": _image(media_type), "data": data}}
        case ToolCallPart(id, name, arguments, signature):
            call = {"id": id, "name": name, "args": json.loads(arguments)}
            return {"function_call": call, "thought_signature": base64.b64decode(signature) if signature else _UNSIGNED}
        case ToolResultPart(id, text):
            return {"function_response": {"id": id, "name": names.get(id, id), "response": {"result": text}}}


def _image(media_type: str) -> str:
    if media_type not in _IMAGES:
        raise BackendUnsupported(f"Gemini reads no {media_type}", hint="give a PNG, JPEG or WebP")
    return media_type


# ---------------------------------------------------------------- decisions


def question(job: DecisionJob, model: str) -> Block:
    """Arguments of `decisions.create`. An option is a number, which the choice describes: ids may
    have no white space at an end."""
    if not 2 <= len(job.choices) <= MAX_CHOICES:
        raise BackendUnsupported(f"Gemini decides between 2 and {MAX_CHOICES} choices, not {len(job.choices)}", hint="select twice")
    return {
        "model": model,
        "input": _shown(_messages(job.prompt, model)),
        "questions": {
            QUESTION: {
                "type": "choice",
                "instructions": _INSTRUCTIONS,
                "criteria": {str(number): choice for number, choice in enumerate(job.choices)},
            }
        },
    }


def _shown(messages: Sequence[ChatMessage]) -> list[Block]:
    """A conversation as text and images, a line a turn."""
    shown: list[Block] = []
    text = ""
    for message in messages:
        text += f"{message.role}: "
        for part in message.parts:
            if isinstance(part, ImagePart):
                data = base64.b64encode(part.data).decode()
                shown += [{"type": "text", "text": text}, {"type": "image", "data": data, "mime_type": _image(part.media_type)}]
                text = ""
            else:
                text += f"{part.name}({part.arguments})" if isinstance(part, ToolCallPart) else part.text
        text += "\n"
    return [*shown, {"type": "text", "text": text if messages[-1].role == "assistant" else f"{text}assistant: "}]
