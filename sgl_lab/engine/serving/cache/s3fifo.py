"""S3-FIFO, by its published rules: three queues and no order of use.

J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. The paper counts
objects of one size; here a queue's size is that of its nodes, in tokens.
"""

from __future__ import annotations

from ....contracts.ids import Namespace
from .node import Node, Tokens
from .policy import Following, Key, Used

SMALL, MAIN = range(2)
SMALL_SHARE = 0.1
"""of the cache"""
MOST = 3
"""uses that are counted"""

Ghost = tuple[Namespace, Tokens]
"""the prefix of an evicted node up to its first page"""


class Place:
    """Of a node: its queue, its number there, and how often it was used since, when it had been used
    `n_hits` times.
    """

    __slots__ = ("n_hits", "n_used", "number", "queue")

    def __init__(self, queue: int, number: int, n_used: int, n_hits: int) -> None:
        self.queue, self.number, self.n_used, self.n_hits = queue, number, n_used, n_hits

    def uses(self, node: Used) -> int:
        return min(MOST, self.n_used + node.hits - self.n_hits)


class S3Fifo(Following):
    """New nodes enter the small queue, a tenth of the cache. At its end those go on to the main queue
    that were used more than once; the others are evicted and remembered. What is inserted again
    while it is remembered enters the main queue. At the end of the main queue a node that was used
    goes back to the beginning, with one use less.
    """

    trims = False

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}
        self._ghosts: dict[Ghost, int] = {}
        """tokens of evicted nodes, the oldest first"""
        self._n_ghost = 0
        self._n_small = 0
        self._n_tokens = 0
        self._last = 0

    def key(self, node: Used) -> Key:
        place = self._places[node.id]
        return place.queue, place.number

    def spares(self, node: Used) -> bool:
        place = self._places[node.id]
        n_used = place.uses(node)
        if place.queue == SMALL:
            if self._n_small < SMALL_SHARE * self._n_tokens:
                return True  # the main queue is above its size
            if n_used <= 1:
                return False
            self._n_small -= node.n_tokens
            self._places[node.id] = Place(MAIN, self._next(), 0, node.hits)
            return True
        if n_used:
            self._places[node.id] = Place(MAIN, self._next(), n_used - 1, node.hits)
        return bool(n_used)

    def _next(self) -> int:
        self._last += 1
        return self._last

    # ------------------------------------------------------------ what the tree does

    def starts(self, n_tokens: int) -> None:
        self._n_tokens = n_tokens

    def grown(self, node: Node) -> None:
        n_ghost = self._ghosts.pop(_ghost(node), 0)
        self._n_ghost -= n_ghost
        self._places[node.id] = Place(MAIN if n_ghost else SMALL, self._next(), 0, node.hits)
        self._n_small += 0 if n_ghost else node.n_tokens

    def split(self, node: Node, upper: Node) -> None:
        place = self._places[node.id]
        self._places[upper.id] = Place(place.queue, place.number, place.n_used, place.n_hits)

    def evicted(self, node: Node, parent: Node) -> None:
        if self._places.pop(node.id).queue == MAIN:
            return
        self._n_small -= node.n_tokens
        ghost = _ghost(node)
        self._n_ghost += node.n_tokens - self._ghosts.pop(ghost, 0)
        self._ghosts[ghost] = node.n_tokens
        while self._n_ghost > (1 - SMALL_SHARE) * self._n_tokens:
            self._n_ghost -= self._ghosts.pop(next(iter(self._ghosts)))

    def reset(self) -> None:
        self._places.clear()
        self._ghosts.clear()
        self._n_ghost = self._n_small = 0


def _ghost(node: Node) -> Ghost:
    tokens = node.tokens[: len(node.tokens) // max(1, len(node.pages))]
    above = node.parent
    while above is not None:
        tokens = above.tokens + tokens
        above = above.parent
    return node.namespace, tokens
