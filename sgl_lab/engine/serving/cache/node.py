"""A node of the radix tree."""

from __future__ import annotations

from array import array

from ....contracts.ids import Counter, Namespace, NodeId

Tokens = tuple[int, ...]

_node_ids = Counter()


class Node:
    """`children` are found by their first page of tokens. `refs` counts leases on the node or below
    it.

    `born` is the clock at which its KV came into the tree; the upper part of a split is as old as
    the lower.
    """

    __slots__ = ("born", "children", "hits", "id", "last_used", "namespace", "pages", "parent", "refs", "tokens")

    def __init__(self, namespace: Namespace, parent: Node | None, tokens: Tokens, pages: array[int], last_used: int) -> None:
        self.id = NodeId(_node_ids.next())
        self.namespace = namespace
        self.parent = parent
        self.children: dict[Tokens, Node] = {}
        self.tokens = tokens
        self.pages = pages
        self.refs = 0
        self.born = last_used
        self.last_used = last_used
        self.hits = 0

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)
