"""What several views say of a request in the same way. Knows no view."""

from __future__ import annotations

from ...contracts.events import RequestQueued
from ...contracts.pieces import is_text


def unnamed(kind: str) -> str:
    """The name of a request by its kind."""
    return "computed ahead" if kind == "warm" else kind


def is_elsewhere(queued: RequestQueued) -> bool:
    """Whether its engine is behind an API, which shows no steps and reports its counts with the answer."""
    return queued.is_elsewhere or is_text(queued.prompt)


def row_title(row: int) -> str:
    """The name of a row of data, counted from 0: the first is `row 1`, as commands take it."""
    return f"row {row + 1}"
