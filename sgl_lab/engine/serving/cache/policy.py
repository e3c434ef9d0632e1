"""Eviction policies: which idle leaf of the tree is evicted first when room is needed."""

from __future__ import annotations

from typing import Protocol

from ....contracts.ids import NodeId

Key = tuple[int, ...]


class Used(Protocol):
    """The data that a policy may use."""

    @property
    def id(self) -> NodeId: ...

    @property
    def born(self) -> int: ...

    @property
    def last_used(self) -> int: ...

    @property
    def hits(self) -> int: ...


class Policy(Protocol):
    trims: bool
    """whether a long leaf loses its end only, as far as room is needed; otherwise it is evicted whole"""

    def key(self, node: Used) -> Key:
        """The smallest key is evicted first; ties go to the older node. Constant while the node is
        not used.
        """


class Lru:
    """Least recently used, by the tree's logical clock."""

    trims = False

    def key(self, node: Used) -> Key:
        return (node.last_used,)


class Lfu:
    """Fewest hits; of those the least recently used."""

    trims = False

    def key(self, node: Used) -> Key:
        return node.hits, node.last_used


class Fifo:
    """First in, first out, however often it was used."""

    trims = False

    def key(self, node: Used) -> Key:
        return (node.born,)
