"""What things are called that a program gave no name. Knows no view."""

from __future__ import annotations


def unnamed(kind: str) -> str:
    """Of a request: by what it was asked for."""
    return "computed ahead" if kind == "warm" else kind
