"""The length of common prefixes. Sequences are compared slice by slice, which makes equal parts
cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

_SLICE = 64


def n_common(left: Sequence[object], right: Sequence[object]) -> int:
    """The length of the common prefix."""
    n = min(len(left), len(right))
    for start in range(0, n, _SLICE):
        end = min(start + _SLICE, n)
        if tuple(left[start:end]) != tuple(right[start:end]):
            return next(at for at in range(start, end) if left[at] != right[at])
    return n


def nearest(items: Iterable[T], sequence_of: Callable[[T], Sequence[object]], wanted: Sequence[object]) -> tuple[int, T | None]:
    """The length of the longest prefix that `wanted` shares with a sequence, and the item of that
    sequence. The first item whose whole sequence is a prefix of `wanted` wins.
    """
    n_most, found = 0, None
    for item in items:
        sequence = sequence_of(item)
        n = n_common(sequence, wanted)
        if n > n_most:
            n_most, found = n, item
            if n == len(sequence):
                break
    return n_most, found
