"""Bounds what one thread spends on patterns at a time. What would cost more is left to another
thread.

Without a bound `spend` costs nothing and never raises.
"""

from __future__ import annotations

import threading
from math import inf


class OverBound(Exception):
    """More would have been spent than the bound allows. What was called has changed nothing and may
    be called again without a bound.
    """


class _Here(threading.local):
    left: float = inf


_here = _Here()


class bounded:
    """`with bounded(n)`: this thread may spend n steps, of about a microsecond each."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps

    def __enter__(self) -> None:
        _here.left = self._n_steps

    def __exit__(self, *_: object) -> None:
        _here.left = inf


def is_bounded() -> bool:
    return _here.left != inf


def spend(n_steps: int) -> None:
    """OverBound if fewer steps are left."""
    _here.left -= n_steps
    if _here.left < 0:
        raise OverBound


def stop_if_bounded() -> None:
    """OverBound where there is a bound: nothing bounds what would come next."""
    spend(0 if _here.left == inf else 1 << 60)
