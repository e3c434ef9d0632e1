"""Pieces of sentences that several rules share."""

from __future__ import annotations

from ...contracts.legible import clipped


def quoted(text: str, length: int = 40) -> str:
    """A text of the user in a sentence, on one line."""
    return f'"{clipped(text, length)}"'


def tokens(n: int) -> str:
    return f"{n:,} token" + ("" if n == 1 else "s")


def computed_again(n: int) -> str:
    return f"{tokens(n)} after it are computed again in every run"
