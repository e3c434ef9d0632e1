"""The tokenizer's part of the port, of a backend whose tokenizer is in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..contracts.port import Message, Segment
from ..lang.backend.base_backend import BaseBackend


class Tokenizes(Protocol):
    """See `contracts.port.Backend` for each method."""

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]: ...

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]: ...

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str: ...

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]: ...

    def render_text(self, text: str) -> tuple[Segment, ...]: ...

    def render_start(self) -> tuple[Segment, ...]: ...


class TokenizedBackend(BaseBackend):
    """A backend at the level of tokens; a subclass sets `_tokenizer`."""

    _tokenizer: Tokenizes

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        return self._tokenizer.encode(text, markup=markup)

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return self._tokenizer.encode_all(segments)

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        return self._tokenizer.decode(ids, special=special)

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        return self._tokenizer.render_chat(messages, add_generation_prompt=add_generation_prompt)

    def render_text(self, text: str) -> tuple[Segment, ...]:
        return self._tokenizer.render_text(text)

    def render_start(self) -> tuple[Segment, ...]:
        return self._tokenizer.render_start()
