"""Eviction policies: which idle leaf of the tree is evicted first when room is needed."""

from __future__ import annotations

from typing import Protocol

from ....contracts.ids import NodeId
from .node import Node

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

    @property
    def n_tokens(self) -> int: ...


class Policy(Protocol):
    trims: bool
    """whether a long leaf loses its end only, as far as room is needed; otherwise it is evicted whole"""

    def key(self, node: Used) -> Key:
        """The smallest key is evicted first; ties go to the older node. Constant while the node is
        not used, split or spared.
        """

    def spares(self, node: Used) -> bool:
        """The node has the smallest key: whether another one goes first all the same. Its key may
        be another one from then on; otherwise it is left alone until room is needed again.
        """


class Plain:
    """A policy whose keys are the whole order."""

    trims = False

    def spares(self, node: Used) -> bool:
        return False


class Following:
    """A policy that the tree tells what happens to its nodes."""

    def starts(self, n_tokens: int) -> None:
        """The cache has room for so many."""

    def grown(self, node: Node) -> None:
        """A new leaf."""

    def split(self, node: Node, upper: Node) -> None:
        """`upper` has the first tokens of `node` from now on, and is above it."""

    def evicted(self, node: Node, parent: Node) -> None:
        """A leaf is gone."""

    def reset(self) -> None:
        """All nodes are gone."""


class Lru(Plain):
    """Least recently used, by the tree's logical clock."""

    def key(self, node: Used) -> Key:
        return (node.last_used,)


class Lfu(Plain):
    """Fewest hits; of those the least recently used."""

    def key(self, node: Used) -> Key:
        return node.hits, node.last_used


class Fifo(Plain):
    """First in, first out, however often it was used."""

    def key(self, node: Used) -> Key:
        return (node.born,)
