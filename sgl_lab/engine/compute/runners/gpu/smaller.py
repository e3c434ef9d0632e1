"""Splits a plan that needs more memory than there is into smaller pieces. Knows no device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .....contracts.errors import OutOfMemory
from ....plan import Row, RowOutput

Run = Callable[[Sequence[Row]], tuple[RowOutput, ...]]
"""Computes rows, or raises OutOfMemory."""


def in_pieces(rows: Sequence[Row], run: Run) -> tuple[RowOutput, ...]:
    """The results of `rows` that were too many at once: computed one by one, then in halves. Only a
    row that has no halves fails.
    """
    return tuple(_alone(row, run) for row in rows)


def _alone(row: Row, run: Run) -> RowOutput:
    try:
        (output,) = run((row,))
        return output
    except OutOfMemory as error:
        halves = _halves(row)
        if halves is None:
            return RowOutput(error=error)
    first = _alone(halves[0], run)
    if first.error is not None:
        return first
    second = _alone(halves[1], run)
    return replace(second, scores=first.scores + second.scores)


def _halves(row: Row) -> tuple[Row, Row] | None:
    """Two rows that together are `row`, the second with all its sampling requests; None if one of
    them would be empty.
    """
    n_tokens = len(row.tokens)
    n = min(n_tokens // 2, n_tokens - row.n_draws)
    if n < 1:
        return None
    n_scored = min(len(row.targets), n_tokens - n)
    first, second = row.targets[: len(row.targets) - n_scored], row.targets[len(row.targets) - n_scored :]
    return (
        replace(row, tokens=row.tokens[:n], sample=None, n_drafts=0, targets=first),
        replace(row, tokens=row.tokens[n:], start=row.start + n, targets=second),
    )
