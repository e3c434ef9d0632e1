"""How far sequences agree. They are compared slice by slice, so what two share costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

_SLICE = 64


def n_common(left: Sequence[object], right: Sequence[object]) -> int:
    """How many of the first items are equal."""
    n = min(len(left), len(right))
    for start in range(0, n, _SLICE):
        end = min(start + _SLICE, n)
        if tuple(left[start:end]) != tuple(right[start:end]):
            return next(at for at in range(start, end) if left[at] != right[at])
    return n


def nearest(items: Iterable[T], sequence_of: Callable[[T], Sequence[object]], wanted: Sequence[object]) -> tuple[int, T | None]:
    """The item whose sequence shares most with `wanted`, and how much; the first one that `wanted` goes on from, if there is one."""
    n_most, found = 0, None
    for item in items:
        sequence = sequence_of(item)
        n = n_common(sequence, wanted)
        if n > n_most:
            n_most, found = n, item
            if n == len(sequence):
                break
    return n_most, found
