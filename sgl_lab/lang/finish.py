"""Why a gen ended: a word, and a mapping with details."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any, SupportsIndex


class FinishReason(str):
    """`"stop"`, `"length"`, `"abort"`, or a word of a server's own. Programs that read
    `reason["type"]` find the same word there.

    The mapping contains `type`; for a stop `matched` (the string, pattern or token id that ended
    the text, or None); for a length `length` (tokens); for an abort `message`. As JSON it is the
    word.
    """

    details: Mapping[str, object]

    def __new__(cls, word: str, **details: object) -> FinishReason:
        reason = super().__new__(cls, word)
        reason.details = {"type": word, **details}
        return reason

    @classmethod
    def of(cls, word: str, n_tokens: int, matched: str | int | None = None) -> FinishReason:
        """The reason of a text of `n_tokens` tokens."""
        match word:
            case "stop":
                return cls(word, matched=matched)
            case "length":
                return cls(word, length=n_tokens)
            case "abort":
                return cls(word, message="the request was stopped")
            case _:
                return cls(word)

    def __getitem__(self, key: str | SupportsIndex | slice) -> Any:
        return self.details[key] if isinstance(key, str) else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return key in self.details or (isinstance(key, str) and super().__contains__(key))

    def get(self, key: str, default: object = None) -> object:
        return self.details.get(key, default)

    def keys(self) -> KeysView[str]:
        return self.details.keys()

    def values(self) -> ValuesView[object]:
        return self.details.values()

    def items(self) -> ItemsView[str, object]:
        return self.details.items()

    def __reduce__(self) -> tuple[object, ...]:
        return _made, (str(self), dict(self.details))


def _made(word: str, details: dict[str, object]) -> FinishReason:
    return FinishReason(word, **{key: value for key, value in details.items() if key != "type"})
