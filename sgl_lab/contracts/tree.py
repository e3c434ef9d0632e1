"""A snapshot of the radix tree, for late joiners."""

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
    """leases on this node or below it; it cannot be evicted while it is > 0"""
    last_used: int
    """logical clock"""
    hits: int
    born: int = 0
    """logical clock when its KV was inserted; 0 in records older than this field"""


@dataclass(frozen=True, slots=True)
class TreeSnapshot:
    """A snapshot: the nodes (parents first), the pool's pages, and `seq`, the number of the first
    event that it does not include.
    """

    nodes: tuple[TreeNode, ...]
    n_pages: int
    free_pages: int
    seq: int
