"""Which idle leaf of the tree goes first when room is needed."""

from __future__ import annotations

from typing import Protocol


class Used(Protocol):
    """What a policy may look at."""

    @property
    def last_used(self) -> int: ...

    @property
    def hits(self) -> int: ...


class Policy(Protocol):
    def key(self, node: Used) -> int:
        """The smallest key goes first; ties go to the older node. Constant while nobody uses the node."""


class Lru:
    """Least recently used, by the tree's logical clock."""

    def key(self, node: Used) -> int:
        return node.last_used
