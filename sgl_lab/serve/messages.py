"""Messages of requests as the chat template takes them: a role and a text."""

from __future__ import annotations

from collections.abc import Sequence

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.json_values import Json
from ..contracts.port import Message
from ..contracts.tools import ToolStyle
from .fields import Fields
from .images import Images
from .tools import spelled_call

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool", "function": "tool"}
IMAGES = frozenset({"image", "image_url", "input_image"})
TEXTS = frozenset({"text", "input_text", "output_text", "refusal", "reasoning_text", "summary_text"})


def text_of(content: Json, where: str, images: Images | None = None) -> str:
    """The text of a content: a string, or a list of parts. Images are marked in it, where they are
    taken.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadArgument(f"{where} must be a string or a list of parts, not {content!r:.60}")
    parts = []
    for i, part in enumerate(content):
        if isinstance(part, str):
            parts.append(part)
            continue
        fields = Fields(part, f"{where}[{i}].")
        kind = fields.text("type") or "text"
        if kind in IMAGES and images is not None and images.sees:
            given = fields.any("image_url")
            parts.append(images.mark(given.get("url") if isinstance(given, dict) else given, f"{where}[{i}].image_url"))
            continue
        if kind not in TEXTS:
            raise not_read(f"{where}[{i}]", kind)
        parts.append(fields.text("text") or fields.text("refusal") or "")
    return "".join(parts)


def not_read(where: str, kind: str) -> BackendUnsupported:
    """The error for a part that is no text."""
    if kind in IMAGES:
        return BackendUnsupported(f"{where} is an image, and the model here reads text only", hint="say in words what it shows")
    return BackendUnsupported(f"{where} is of type {kind!r:.40}, and the model here reads text only", hint="send text")


def read(given: Sequence[Json], style: ToolStyle | None, where: str = "messages", images: Images | None = None) -> list[Message]:
    """Messages of a chat completion."""
    if not given:
        raise BadArgument(f"{where} is empty", hint="give at least one message")
    found = []
    for i, one in enumerate(given):
        fields = Fields(one, f"{where}[{i}].")
        role = ROLES.get(name := fields.needed("role"))
        if role is None:
            raise BadArgument(f"{where}[{i}].role cannot be {name!r:.40}", hint=f"it is one of {', '.join(ROLES)}")
        text = text_of(fields.any("content"), f"{where}[{i}].content", images)
        if calls := fields.items("tool_calls"):
            text = "\n".join(filter(None, (text, *(_call(call, style, f"{where}[{i}].tool_calls[{k}].") for k, call in enumerate(calls)))))
        found.append(Message(role, text))
    return found


def _call(given: Json, style: ToolStyle | None, where: str) -> str:
    function = Fields(given, where).inner("function")
    if function is None:
        raise BadArgument(f"{where}function is missing")
    return spelled_call(function.needed("name"), function.text("arguments") or "{}", style)
