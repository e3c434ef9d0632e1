"""A stream of the Messages API as deltas and an output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ...contracts.conversation import ChatJob, ChatOutput, ToolCallPart
from ...contracts.port import Usage
from ..remote.faults import Unended
from ..remote.stops import first_stop, n_begun
from ..remote.whole import is_whole
from .request import ApiRequest
from .schemas import VALUE

if TYPE_CHECKING:
    from anthropic.types import MessageDeltaUsage, RawContentBlockDelta, RawMessageStreamEvent
    from anthropic.types import Usage as ApiUsage
    from anthropic.types.raw_content_block_start_event import ContentBlock

_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}
"""other reasons keep the API's word: refusal, pause_turn"""
_BYTES = 4
"""of a token, about: where an answer is cut here, the API does not say how many tokens it had"""


class Answer:
    """What has come so far. `read` takes the events; `output` can be asked for at any time."""

    def __init__(self, job: ChatJob, sent: ApiRequest, delta: Callable[[int, str], None]) -> None:
        self._job, self._sent, self._delta = job, sent, delta
        self._text = ""
        self._n_emitted = 0
        self._reasoning: list[str] = []
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._input = self._cached = self._written = self._n_output = 0
        self._reason: str | None = None
        self._matched: str | None = None
        self.is_whole = False
        """whether it ended by itself"""

    def read(self, events: Iterable[RawMessageStreamEvent]) -> ChatOutput:
        """Unended where the stream ends before the answer does."""
        for event in events:
            match event.type:
                case "message_start":
                    self._count(event.message.usage)
                case "content_block_start":
                    self._begin(event.index, event.content_block)
                case "content_block_delta":
                    self._take(event.index, event.delta)
                case "message_delta":
                    self._reason, self._matched = event.delta.stop_reason, event.delta.stop_sequence
                    self._count(event.usage)
                case "message_stop":
                    self.is_whole = True
            if self._cut():
                return self.output()
        if not self.is_whole:
            raise Unended
        self._tell(len(self._text))
        return self.output()

    def _count(self, usage: ApiUsage | MessageDeltaUsage) -> None:
        """Counts are of the whole so far; a later event may leave out those of the prompt."""
        self._input = self._input if usage.input_tokens is None else usage.input_tokens
        self._cached = self._cached if usage.cache_read_input_tokens is None else usage.cache_read_input_tokens
        self._written = self._written if usage.cache_creation_input_tokens is None else usage.cache_creation_input_tokens
        self._n_output = usage.output_tokens

    def _begin(self, index: int, block: ContentBlock) -> None:
        if block.type == "tool_use":
            self._calls[index] = (block.id, block.name, [])
        elif block.type == "text":
            self._grow(block.text)

    def _take(self, index: int, delta: RawContentBlockDelta) -> None:
        match delta.type:
            case "text_delta":
                self._grow(delta.text)
            case "thinking_delta":
                self._reasoning.append(delta.thinking)
            case "input_json_delta" if index in self._calls:
                self._calls[index][2].append(delta.partial_json)

    def _grow(self, text: str) -> None:
        if not self._text and self._sent.lead:
            # The API was sent the prompt without this white space; a model that says it anyway says it twice.
            text = text.lstrip(self._sent.lead)
        self._text += text

    # ------------------------------------------------------------ events meanwhile

    def _cut(self) -> bool:
        """Tell what is certain; whether a stop was found that the API does not look for."""
        found = first_stop(self._text, self._sent.stops, 0)
        if found:
            at, stop = found
            self._text, self._reason, self._matched, self.is_whole = self._text[:at], "stop_sequence", stop, True
            self._n_output = max(self._n_output, -(-len(self._text.encode()) // _BYTES))
        held = max((n_begun(self._text, stop) for stop in self._sent.stops), default=0)
        self._tell(len(self._text) if found else len(self._text) - held)
        return bool(found)

    def _tell(self, end: int) -> None:
        if end > self._n_emitted and not self._sent.is_wrapped and not self._job.tools:
            self._delta(0, self._text[self._n_emitted : end])
            self._n_emitted = end

    # ------------------------------------------------------------ what it is

    @property
    def usage(self) -> Usage:
        n_prompt = self._input + self._cached + self._written
        return Usage(
            prompt_tokens=n_prompt,
            completion_tokens=self._n_output,
            cached_tokens=self._cached,
            computed_tokens=n_prompt - self._cached + max(self._n_output - 1, 0),
            written_tokens=self._written,
        )

    def output(self) -> ChatOutput:
        """Of what has come; finish_reason is "abort" before the end."""
        reason = _REASONS.get(self._reason or "", self._reason or "abort")
        calls = tuple(ToolCallPart(id, name, "".join(pieces) or "{}") for id, name, pieces in self._calls.values()) if self.is_whole else ()
        text = self._unwrapped()
        return ChatOutput(
            text,
            reason,
            self.usage,
            self._matched,
            calls,
            "".join(self._reasoning),
            is_complete=is_whole(self._job.params.constraint, text, reason, self._matched),
        )

    def _unwrapped(self) -> str:
        if self._sent.is_wrapped and self.is_whole:
            try:
                return json.dumps(json.loads(self._text)[VALUE])
            except (ValueError, KeyError, TypeError):
                return self._text  # it ended before it was whole
        return self._text
