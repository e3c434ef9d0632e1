"""Default names for items that a program left unnamed. Knows no view."""

from __future__ import annotations


def unnamed(kind: str) -> str:
    """The name of a request by its kind."""
    return "computed ahead" if kind == "warm" else kind
