"""Tool calls in a prompt, as APIs want them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from ...contracts.conversation import ChatMessage, Part, TextPart, ToolCallPart, ToolResultPart


def with_answered_calls(prompt: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The messages, with each call whose result never comes as text: an API refuses a call without
    a result."""
    answered = {part.id for message in prompt for part in message.parts if isinstance(part, ToolResultPart)}

    def spelled(part: Part) -> Part:
        if not isinstance(part, ToolCallPart) or part.id in answered:
            return part
        return TextPart(f'{{"name": {json.dumps(part.name)}, "arguments": {part.arguments}}}')

    return [replace(message, parts=tuple(map(spelled, message.parts))) for message in prompt]
