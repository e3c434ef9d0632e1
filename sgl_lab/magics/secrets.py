"""Keys in cells: a warning that says what to do, and no copy of the key in our recordings."""

from __future__ import annotations

from .printing import say

_BEGINNINGS = ("sk-", "AIza", "ya29.", "hf_", "gsk", "xai", "pplx", "nvapi", "csk", "r8_", "r8-", "key=", "earer ")
"""A text without these holds no key; most cells are decided here."""


def holds_key(text: str) -> bool:
    """Whether a cell holds what looks like an API key."""
    if not any(beginning in text for beginning in _BEGINNINGS):
        return False
    from ..backends.remote.redaction import finds_key

    return finds_key(text)


def without_keys(text: str) -> str:
    if not holds_key(text):
        return text
    from ..backends.remote.redaction import redacted

    return redacted(text)


def before_cell(info: object) -> None:
    """Runs before every cell of the notebook."""
    if holds_key(getattr(info, "raw_cell", None) or ""):
        say(
            "sgl: this cell holds what looks like an API key, which a saved notebook keeps: "
            "delete it, and enter it with %sgl key NAME, or set the provider's variable in the environment"
        )
