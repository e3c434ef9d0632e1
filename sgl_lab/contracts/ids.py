"""Types of the integers that pass between rooms.

Ids are never reused within one process, so a view can keep one for ever.
"""

from __future__ import annotations

import itertools
from typing import NewType

RunId = NewType("RunId", int)
"""One execution of a cell, or of a program outside a cell."""

ForkId = NewType("ForkId", int)
"""One stream of a program: the root stream is a fork without a parent."""

ExprId = NewType("ExprId", int)
"""One expression (gen, select, text, role mark) of a stream."""

RequestId = NewType("RequestId", int)
"""One unit of work given to a backend."""

NodeId = NewType("NodeId", int)
"""One node of the radix tree."""

PageId = NewType("PageId", int)
"""One page of the KV pool. Page numbers are the only ones that are reused."""

Namespace = tuple[str, ...]
"""Separates prefixes with equal tokens: model generation, adapter, image digests, salt."""


class Counter:
    """Numbers from 1 upwards. `next()` may be called from any thread."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def next(self) -> int:
        return next(self._count)
