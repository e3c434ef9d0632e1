"""A job as a request of the Messages API. Nothing here needs the SDK or a socket."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Required, TypedDict

from ...contracts.conversation import ChatJob, ChatMessage, ImagePart, Part, TextPart, ToolCallPart, ToolResultPart
from ...contracts.errors import BackendUnsupported, ProgramError
from ...contracts.tools import ToolSpec
from ..remote import with_answered_calls
from . import schemas
from .models import Claude

MAX_MARKS = 4
"""cache marks of one request"""
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_IMAGE_TOKENS = 1_500
Mark = tuple[int, int]
"""after so many parts, and so many characters of the next"""


class Source(TypedDict):
    """An image's."""

    type: str
    media_type: str
    data: str


class Block(TypedDict, total=False):
    """A block of a turn; which keys it has follows from its type."""

    type: Required[str]
    text: str
    source: Source
    id: str
    name: str
    input: object
    tool_use_id: str
    content: str
    cache_control: dict[str, str]


class Turn(TypedDict):
    role: str
    content: list[Block]


class Tool(TypedDict, total=False):
    name: Required[str]
    input_schema: Required[schemas.Schema]
    description: str
    strict: bool


class Arguments(TypedDict, total=False):
    """Arguments of `messages.create`."""

    model: Required[str]
    messages: Required[list[Turn]]
    max_tokens: int
    system: list[Block]
    output_config: dict[str, object]
    stop_sequences: list[str]
    thinking: dict[str, str]
    tools: list[Tool]
    tool_choice: dict[str, object]


@dataclass(frozen=True, slots=True)
class Settings:
    model: str
    claude: Claude
    thinks: bool = False
    effort: str | None = None
    thinking_tokens: int = 8_192
    """room for thoughts, which count as tokens of the answer"""


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request, and what its answer is to be read with."""

    request: Arguments
    is_wrapped: bool = False
    """the answer is a property of the object that comes"""
    lead: str = ""
    """white space at the end of the prompt, which the API does not take: the answer may begin with it"""
    stops: tuple[str, ...] = ()
    """of white space alone: the API refuses them, so they are looked for here"""


def request_of(job: ChatJob, settings: Settings) -> ApiRequest:
    """BackendUnsupported or ProgramError for what the API does not take."""
    if isinstance(job.prompt, str):
        raise BackendUnsupported(f"{settings.model} takes no text without roles", hint="write user(...) and assistant(gen(...))")
    params, claude = job.params, settings.claude
    prompt = with_answered_calls(job.prompt)
    system, messages, lead = _spoken(prompt, _marks(prompt, job, claude.cacheable), claude)
    request: Arguments = {"model": settings.model, "messages": messages}
    if system:
        request["system"] = system
    config: dict[str, object] = {"effort": settings.effort} if settings.effort else {}
    is_wrapped, most = False, params.max_tokens
    if params.constraint is not None:
        if lead or job.prompt[-1].role == "assistant":
            what = f"{settings.model} does not go on with a turn under a JSON schema"
            raise BackendUnsupported(what, hint="let the turn begin with the gen")
        schema, is_wrapped = schemas.enforced(params.constraint.source)
        config["format"] = {"type": "json_schema", "schema": schema}
        if most is None and (choices := json.loads(params.constraint.source).get("enum")):
            most = 64 + max(len(json.dumps(choice)) for choice in choices)
    if config:
        request["output_config"] = config
    request["max_tokens"] = _most(most, settings)
    if stops := [stop for stop in params.stop if stop.strip()]:
        request["stop_sequences"] = stops
    if thinking := _thinking(settings):
        request["thinking"] = thinking
    if job.tools:
        request["tools"] = [_tool(tool) for tool in job.tools]
        request["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
    elif called := {part.name for message in prompt for part in message.parts if isinstance(part, ToolCallPart)}:
        # Calls in the history need tools, though none is to be called now.
        request["tools"] = [{"name": name, "input_schema": {"type": "object"}} for name in sorted(called)]
        request["tool_choice"] = {"type": "none"}
    return ApiRequest(request, is_wrapped, lead, tuple(stop for stop in params.stop if not stop.strip()))


def _most(max_tokens: int | None, settings: Settings) -> int:
    """Thoughts count as the answer's tokens, so they get room of their own."""
    if max_tokens is None:
        return settings.claude.max_tokens
    return min(max_tokens + (settings.thinking_tokens if settings.thinks and max_tokens else 0), settings.claude.max_tokens)


def _thinking(settings: Settings) -> dict[str, str] | None:
    if settings.thinks:
        return {"type": "adaptive", "display": "summarized"}
    return {"type": settings.claude.off} if settings.claude.thinking == "default" else None


def _tool(tool: ToolSpec) -> Tool:
    spec: Tool = {"name": tool.name, "input_schema": json.loads(tool.parameters)}
    if tool.description:
        spec["description"] = tool.description
    try:
        spec["input_schema"] = schemas.enforced(tool.parameters)[0]
        spec["strict"] = True
    except BackendUnsupported:
        pass  # the language checks the arguments
    return spec


# ---------------------------------------------------------------- messages


def _spoken(prompt: Sequence[ChatMessage], marks: Sequence[Mark], claude: Claude) -> tuple[list[Block], list[Turn], str]:
    """The system's blocks, the messages, and the white space that the last of them may not end with."""
    system: list[Block] = []
    messages: list[Turn] = []
    n_parts, lead = 0, ""
    for message in prompt:
        blocks = _blocks(message, n_parts, marks)
        n_parts += len(message.parts)
        if message.role == "system" and not messages:
            system += blocks
        else:
            messages.append({"role": _role(message.role, claude), "content": blocks})
    if not messages or messages[0]["role"] != "user":
        raise ProgramError("Claude answers a user, so its conversation begins with one", hint="write user(...) before assistant(...)")
    last = messages[-1]
    if last["role"] == "assistant" and last["content"] and last["content"][-1]["type"] == "text":
        text = last["content"][-1]["text"]
        lead = text[len(text.rstrip()) :]
        last["content"][-1]["text"] = text.rstrip()
    return system, messages, lead


def _role(role: str, claude: Claude) -> str:
    if role in ("user", "tool"):
        return "user"
    if role == "assistant" or (role == "system" and claude.later_system):
        return role
    if role == "system":
        raise BackendUnsupported("this Claude takes system turns at the beginning only", hint="say it in the first turn, or as user(...)")
    raise BackendUnsupported(f"Claude has no role {role!r}", hint="its roles are system, user, assistant and tool")


def _blocks(message: ChatMessage, n_before: int, marks: Sequence[Mark]) -> list[Block]:
    """A mark inside a text makes it two blocks: the API caches whole ones."""
    pieces: list[tuple[Part, bool]] = []
    for number, part in enumerate(message.parts, n_before):
        start = 0
        for _, at in (mark for mark in marks if mark[0] == number and mark[1]):
            if isinstance(part, TextPart):
                pieces.append((TextPart(part.text[start:at]), True))
                start = at
        pieces.append((TextPart(part.text[start:]) if isinstance(part, TextPart) else part, (number + 1, 0) in marks))
    blocks: list[Block] = []
    space = ""
    for part, is_marked in pieces:
        if isinstance(part, TextPart) and not part.text.strip() and len(pieces) > 1:
            # The API takes no block of white space alone.
            if blocks and blocks[-1]["type"] == "text":
                blocks[-1]["text"] += part.text
            else:
                space += part.text
        else:
            block = _block(part)
            if block["type"] == "text":
                block["text"], space = space + block["text"], ""
            blocks.append(block)
        if is_marked and blocks:
            blocks[-1]["cache_control"] = {"type": "ephemeral"}
    return blocks


def _block(part: Part) -> Block:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ImagePart(media_type, data):
            if media_type not in _IMAGES:
                raise BackendUnsupported(f"Claude reads no {media_type}", hint="give a PNG, JPEG, GIF or WebP")
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}}
        case ToolCallPart(id, name, arguments):
            return {"type": "tool_use", "id": id, "name": name, "input": json.loads(arguments)}
        case ToolResultPart(id, text):
            return {"type": "tool_result", "tool_use_id": id, "content": text}


# ---------------------------------------------------------------- cache marks


def _marks(prompt: Sequence[ChatMessage], job: ChatJob, least: int) -> tuple[Mark, ...]:
    """Where to mark a prefix: where the program shares one, if it is long enough to be cached; the
    first and the last three.

    A token has two bytes at least, so a prefix is left out only where it is surely too short.
    """
    tokens = [sum(len(tool.parameters) + len(tool.description) for tool in job.tools) / 2]
    parts = [part for message in prompt for part in message.parts]
    for part in parts:
        tokens.append(tokens[-1] + (_IMAGE_TOKENS if isinstance(part, ImagePart) else len(_spelled(part).encode()) / 2))
    wanted = [
        (n_parts, n_characters)
        for n_parts, n_characters in sorted(set(job.shared))
        if tokens[n_parts] + (len(_spelled(parts[n_parts])[:n_characters].encode()) / 2 if n_characters else 0) >= least
    ]
    return tuple(wanted) if len(wanted) <= MAX_MARKS else (wanted[0], *wanted[1 - MAX_MARKS :])


def _spelled(part: Part) -> str:
    match part:
        case ToolCallPart(_, name, arguments):
            return name + arguments
        case TextPart(text) | ToolResultPart(_, text):
            return text
    return ""
