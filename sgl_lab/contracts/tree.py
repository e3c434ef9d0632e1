"""What a late joiner is told of the radix tree: the whole of it, once."""

from __future__ import annotations

from dataclasses import dataclass

from .ids import Namespace, NodeId


@dataclass(frozen=True, slots=True)
class TreeNode:
    node: NodeId
    parent: NodeId | None
    tokens: tuple[int, ...]
    namespace: Namespace
    """of the whole path, also on nodes below the root"""
    refs: int
    """leases on this node or below it: it cannot be evicted while > 0"""
    last_used: int
    """logical clock"""
    hits: int
    born: int = 0
    """logical clock when its KV came into the tree; 0 in records that are older than this field"""


@dataclass(frozen=True, slots=True)
class TreeSnapshot:
    """Nodes in an order in which parents come first, the pool's pages, and `seq`, the first event not yet in it."""

    nodes: tuple[TreeNode, ...]
    n_pages: int
    free_pages: int
    seq: int
