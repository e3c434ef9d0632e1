"""Counts the tokens of the programs on a backend."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from ..contracts.port import Usage


class TokenUsage:
    """`prompt_tokens` and `completion_tokens` of the gens and selects that ended since the last
    `reset`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def __repr__(self) -> str:
        return f"TokenUsage(prompt_tokens={self.prompt_tokens}, completion_tokens={self.completion_tokens})"

    def reset(self) -> None:
        with self._lock:
            self.prompt_tokens = self.completion_tokens = 0

    def add(self, *samples: Usage) -> None:
        """Of the samples of one prompt, which counts once."""
        with self._lock:
            self.prompt_tokens += samples[0].prompt_tokens
            self.completion_tokens += sum(sample.completion_tokens for sample in samples)


_usages: WeakKeyDictionary[object, TokenUsage] = WeakKeyDictionary()
_lock = threading.Lock()


def usage_of(backend: object) -> TokenUsage:
    try:
        with _lock:
            return _usages.setdefault(backend, TokenUsage())
    except TypeError:  # a backend that cannot be hashed or weakly referenced has no count
        return TokenUsage()
