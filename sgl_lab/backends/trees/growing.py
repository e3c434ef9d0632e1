"""A radix tree of a cache that is elsewhere, as the events and the snapshot of the tree that is here.

It holds tokens and no KV. Every change is one event, emitted on the line that makes it, so a view
folds them as those of the engine of this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...contracts.events import Emit, NodeEvicted, NodeInserted, NodeSplit, Touched
from ...contracts.ids import Counter, Namespace, NodeId
from ...contracts.prefixes import n_common
from ...contracts.tree import CacheRules, TreeNode, TreeSnapshot

Tokens = tuple[int, ...]

_FIRST = 1 << 40
"""The engine of this process counts its nodes from 1; in one ring no two nodes have one number."""
_node_ids = Counter()


def node_id() -> NodeId:
    return NodeId(_FIRST + _node_ids.next())


@dataclass(eq=False, slots=True)
class Node:
    id: NodeId
    parent: Node | None
    tokens: Tokens
    born: int
    last_used: int
    hits: int = 0
    seen_s: float = 0.0
    """when it was last known to be in the cache, on the clock of the tree's owner"""
    children: dict[int, Node] = field(default_factory=dict)
    """by their first tokens"""

    @property
    def n_before(self) -> int:
        """Tokens from the root to its beginning."""
        n, at = 0, self.parent
        while at is not None:
            n, at = n + len(at.tokens), at.parent
        return n


class GrowingTree:
    """Nodes below one root. Not safe for threads: its owner has the lock."""

    def __init__(self, namespace: Namespace, rules: CacheRules, emit: Emit) -> None:
        self.namespace, self.rules = namespace, rules
        self.emit = emit
        self.clock = 0
        self.root = Node(node_id(), None, (), 0, 0)
        self.n_evicted = self.n_evicted_tokens = 0
        self._is_emitted = False
        """The root is emitted with the first change, because nothing has happened before."""

    # ------------------------------------------------------------ reading

    def __iter__(self) -> Iterator[Node]:
        """All nodes, parents first."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children.values()

    @property
    def n_tokens(self) -> int:
        return sum(len(node.tokens) for node in self)

    def snapshot(self, seq: int) -> TreeSnapshot:
        """`seq` is the number of the first event that is not in it. It includes the root, if no
        event did.
        """
        self._is_emitted = True
        nodes = tuple(
            TreeNode(node.id, node.parent.id if node.parent else None, node.tokens, self.namespace, 0, node.last_used, node.hits, node.born)
            for node in self
        )
        return TreeSnapshot(nodes, 0, 0, seq, self.rules)

    def walk(self, tokens: Tokens) -> tuple[Node, int, int]:
        """The deepest node that `tokens` reach, how many tokens of it, and how many of them in all."""
        node, n_in, n = self.root, 0, 0
        while n < len(tokens) and (child := node.children.get(tokens[n])) is not None:
            n_in = n_common(child.tokens, tokens[n : n + len(child.tokens)])
            node, n = child, n + n_in
            if n_in < len(child.tokens):
                break
        return node, n_in, n

    def path(self, node: Node) -> list[Node]:
        """From the root to `node`."""
        path = []
        at: Node | None = node
        while at is not None:
            path.append(at)
            at = at.parent
        return path[::-1]

    # ------------------------------------------------------------ changes

    def tell_root(self) -> None:
        if not self._is_emitted:
            self._is_emitted = True
            self.emit(NodeInserted(self.root.id, None, (), self.namespace))

    def end_at(self, tokens: Tokens, n: int) -> Node:
        """The node that ends after the first `n` of `tokens`, which stand in the tree; one that
        goes on is split there."""
        node, _, n_here = self.walk(tokens[:n])
        if n_here < n:
            raise ValueError(f"{n} tokens are not in the tree, only {n_here}")
        n_in = n - node.n_before
        return node if n_in == len(node.tokens) else self.split(node, n_in)

    def split(self, node: Node, n_upper: int) -> Node:
        """The upper part, which is a node of its own from now on."""
        upper = Node(node_id(), node.parent, node.tokens[:n_upper], node.born, node.last_used, node.hits, node.seen_s)
        assert node.parent is not None
        node.parent.children[upper.tokens[0]] = upper
        node.parent, node.tokens = upper, node.tokens[n_upper:]
        upper.children[node.tokens[0]] = node
        self.emit(NodeSplit(node.id, upper.id, n_upper))
        return upper

    def insert(self, tokens: Tokens, now_s: float) -> Node:
        """Make `tokens` stand in the tree. The node at their end."""
        self.tell_root()
        if not tokens:
            return self.root
        *_, n = self.walk(tokens)
        at = self.end_at(tokens, n)
        return at if n == len(tokens) else self.append(at, tokens[n:], now_s)

    def append(self, parent: Node, tokens: Tokens, now_s: float) -> Node:
        """A new leaf."""
        self.tell_root()
        child = Node(node_id(), parent, tokens, self.clock, self.clock, seen_s=now_s)
        parent.children[tokens[0]] = child
        self.emit(NodeInserted(child.id, parent.id, tokens, self.namespace))
        return child

    def touch(self, node: Node, now_s: float) -> None:
        """A request found everything down to `node`."""
        self.clock += 1
        path = self.path(node)
        for each in path:
            each.last_used, each.hits, each.seen_s = self.clock, each.hits + 1, now_s
        self.emit(Touched(tuple(each.id for each in path), self.clock))

    def evict(self, node: Node) -> int:
        """Take `node` and all below it away, leaves first. How many tokens that were."""
        below = [node]
        for each in below:
            below += each.children.values()
        n = 0
        for each in reversed(below):
            if each.parent is None:
                continue
            del each.parent.children[each.tokens[0]]
            n += len(each.tokens)
            self.n_evicted += 1
            self.emit(NodeEvicted(each.id, len(each.tokens)))
        self.n_evicted_tokens += n
        return n

    def clear(self) -> None:
        self.evict(self.root)
