"""Eviction policies: which idle leaf of the tree is evicted first when room is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Key = tuple[int, ...]


class Used(Protocol):
    """The data that a policy may use."""

    @property
    def born(self) -> int: ...

    @property
    def last_used(self) -> int: ...

    @property
    def hits(self) -> int: ...


class Policy(Protocol):
    def key(self, node: Used) -> Key:
        """The smallest key is evicted first; ties go to the older node. Constant while the node is
        not used.
        """


class Lru:
    """Least recently used, by the tree's logical clock."""

    def key(self, node: Used) -> Key:
        return (node.last_used,)


class Lfu:
    """Fewest hits; of those the least recently used."""

    def key(self, node: Used) -> Key:
        return node.hits, node.last_used


class Fifo:
    """First in, first out, however often it was used."""

    def key(self, node: Used) -> Key:
        return (node.born,)


POLICIES: Mapping[str, type[Policy]] = {"lru": Lru, "lfu": Lfu, "fifo": Fifo}
