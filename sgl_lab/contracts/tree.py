"""A snapshot of the radix tree, for late joiners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .ids import Namespace, NodeId
from .prefixes import n_common


@dataclass(frozen=True, slots=True)
class TreeNode:
    node: NodeId
    parent: NodeId | None
    tokens: tuple[int, ...]
    namespace: Namespace
    """of the whole path, also on nodes below the root"""
    refs: int
    """leases on this node or below it; it cannot be evicted while it is > 0"""
    last_used: int
    """logical clock"""
    hits: int
    born: int = 0
    """logical clock when its KV was inserted; 0 in records older than this field"""


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What is known of a cache that is not in this process, and how its tree comes to be known.

    A count of cached tokens of such a cache is read by these: 900 cached tokens of a prompt of 1,000
    are all of it where a cache keeps steps of 128.
    """

    origin: str
    """inferred (from what was sent and the counts that came back) or seen (from the cache's own events)"""
    engine: str = ""
    """whose cache it is, as messages call it"""
    minimum: int = 0
    """tokens that a prefix needs to be cached at all"""
    step: int = 1
    """tokens by which a cached prefix is longer than the next shorter one"""
    ttl_s: float | None = None
    """seconds after which an unused prefix is dropped; None if only lack of room drops it"""
    marked: bool = False
    """whether a prefix is cached only where the request has a mark"""
    keeps_answers: bool = True
    """whether an answer is cached after its prompt"""
    unit: str = "tokens"
    """what the tree's ids stand for: tokens of the model, or words where only text is known"""

    def cacheable(self, n_tokens: int) -> int:
        """How many of the first `n_tokens` of a prompt the cache can hold at most."""
        n_tokens -= n_tokens % self.step
        return n_tokens if n_tokens >= self.minimum else 0


@dataclass(frozen=True, slots=True)
class TreeSnapshot:
    """A snapshot: the nodes (parents first), the pool's pages, and `seq`, the number of the first
    event that it does not include.
    """

    nodes: tuple[TreeNode, ...]
    n_pages: int
    """0 if it is not known"""
    free_pages: int
    seq: int
    rules: CacheRules | None = None
    """None for the cache of this process, of which everything is known"""

    def n_cached(self, namespace: Namespace, tokens: Sequence[int]) -> int:
        """How many of the first of these tokens the tree of `namespace` holds."""
        below: dict[NodeId | None, list[TreeNode]] = {}
        for node in self.nodes:
            if node.namespace == namespace:
                below.setdefault(node.parent, []).append(node)
        at, n = next((node.node for node in below.get(None, ())), None), 0
        while at is not None and n < len(tokens):
            child = next((child for child in below.get(at, ()) if child.tokens[:1] == tuple(tokens[n : n + 1])), None)
            n_same = n_common(child.tokens, tokens[n:]) if child is not None else 0
            n += n_same
            at = child.node if child is not None and n_same == len(child.tokens) else None
        return n
