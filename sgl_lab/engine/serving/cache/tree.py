"""The radix tree: the token prefixes whose KV is in the pool, and their pages.

A node holds a run of tokens in whole pages, and the pages with their KV. A lease protects a path
from eviction. Every change is emitted on the line that makes it, so a fold of the events equals the
tree. Knows neither requests nor the content of a page.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ....contracts.errors import InvariantBroken
from ....contracts.events import Emit, Foreseen, LocksChanged, NodeEvicted, NodeInserted, NodeSplit, Touched, silent
from ....contracts.ids import ForkId, Namespace, NodeId, RequestId
from ....contracts.tree import TreeNode, TreeSnapshot
from .node import Node, Tokens
from .policy import Following, Key, Lru, Policy
from .pool import TREE, Owner, PagePool
from .programs import Program

TRIM = 16
"""Tokens that a trimmed leaf loses at least: more at a time is fewer events."""


Idle = tuple[Key, NodeId, Node]
"""an idle leaf, with its key of the time when it was offered"""


class Match(NamedTuple):
    n_tokens: int
    n_idle_pages: int
    """pages of the match without a lease: a lease would make them unavailable for eviction"""
    end: tuple[Node, int] | None = None
    """the node in which it ends, and how many of its tokens match"""


@dataclass(eq=False, slots=True)
class Lease:
    """The right to read `pages`, the KV of the first `n_tokens` of some sequence, until it is released."""

    node: Node
    n_tokens: int
    pages: array[int]
    is_open: bool = True


def common_length(a: Tokens, b: Tokens) -> int:
    """How many leading tokens are equal; compares slices, so the work is done in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _tree_node(node: Node) -> TreeNode:
    parent = node.parent.id if node.parent else None
    return TreeNode(node.id, parent, node.tokens, node.namespace, node.refs, node.last_used, node.hits, node.born)


class RadixTree:
    """One root per namespace, created on first use and kept for ever."""

    def __init__(self, pool: PagePool, policy: Policy | None = None, emit: Emit = silent) -> None:
        self.pool = pool
        self._use(policy or Lru())
        self.roots: dict[Namespace, Node] = {}
        self.clock = 0
        """counts acquisitions; the time in `last_used`"""
        self.n_nodes = 0
        self.n_idle_pages = 0
        """pages that eviction can free"""
        self.n_evicted = 0
        self.n_evicted_tokens = 0
        self.version = 0
        """changes whenever a match may come out differently"""
        self.idle: list[Idle] = []
        """heap of idle leaves; an entry is stale when its node is no longer one or has another key"""
        self._reported: dict[NodeId, tuple[Node, int]] = {}
        """nodes whose refs changed since `report_locks`, with the last reported refs"""
        self._emit = emit

    # ------------------------------------------------------------ reading

    def peek(self, namespace: Namespace, tokens: Tokens) -> Match:
        """How much of `tokens` is here. Changes nothing."""
        root = self.roots.get(namespace)
        if root is None:
            return Match(0, 0)
        node, n_in, n_tokens = self._walk(root, tokens)
        end, n_idle = (node, n_in), 0
        while node.refs == 0 and node.parent is not None:
            n_idle += n_in // self.pool.page_size
            node = node.parent
            n_in = len(node.tokens)
        return Match(n_tokens, n_idle, end)

    def trail(self, namespace: Namespace, tokens: Tokens) -> tuple[NodeId, ...]:
        """The nodes that `tokens` reach, root first. Changes nothing."""
        root = self.roots.get(namespace)
        return tuple(node.id for node in self._path(self._walk(root, tokens)[0])) if root else ()

    def continuation(self, namespace: Namespace, tokens: Tokens, n_most: int) -> Tokens:
        """The tokens that followed `tokens` in the tree most recently, at most `n_most`; empty if
        `tokens` are not there. Changes nothing.
        """
        root = self.roots.get(namespace)
        if root is None:
            return ()
        node, n_in, n_tokens = self._walk(root, tokens)
        rest = tokens[n_tokens:]
        """less than a page: only whole ones are kept"""
        if len(rest) >= self.pool.page_size:
            return ()
        found = node.tokens[n_in:]
        while len(found) < len(rest) + n_most:
            fitting = [child for child in node.children.values() if len(found) >= len(rest) or child.tokens[: len(rest)] == rest]
            if not fitting:
                break
            node = max(fitting, key=lambda child: (child.last_used, child.id))
            found += node.tokens
        return found[len(rest) : len(rest) + n_most] if found[: len(rest)] == rest else ()

    def snapshot(self, seq: int) -> TreeSnapshot:
        nodes = tuple(_tree_node(node) for node in self.nodes())
        return TreeSnapshot(nodes, self.pool.n_pages, self.pool.n_free, seq)

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children."""
        stack = list(self.roots.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    # ------------------------------------------------------------ using

    def acquire(self, namespace: Namespace, tokens: Tokens, *, is_hit: bool = True, match: Match | None = None) -> Lease:
        """Lease the longest cached prefix of `tokens`. Splits the node in which it ends.

        is_hit   False for a lease that is no use
        match    what `peek` found for these tokens, if the tree is as it was
        """
        if match is not None and match.end is not None and match.n_tokens == len(tokens):
            (node, n_in), n_tokens = match.end, match.n_tokens
        else:
            node, n_in, n_tokens = self._walk(self._root(namespace), tokens)
        if n_in < len(node.tokens):
            node = self._split(node, n_in)
        path = self._path(node)
        pages = self._lease(path)
        if is_hit:
            self.clock += 1
            for step in path:
                step.last_used = self.clock
                step.hits += 1
            self._emit(Touched(tuple(step.id for step in path), self.clock))
        return Lease(node, n_tokens, pages)

    def extend(self, lease: Lease, tokens: Tokens) -> None:
        """Lease what is cached of `tokens` beyond the lease, which has their beginning. It is no use."""
        node, n_in, n_tokens = self._walk(lease.node, tokens, lease.n_tokens)
        if n_in < len(node.tokens):
            node = self._split(node, n_in)
        lease.pages.extend(self._lease(self._path(node, lease.node)))
        lease.node, lease.n_tokens = node, n_tokens

    def _lease(self, path: Iterable[Node]) -> array[int]:
        pages = array("i")
        for step in path:
            pages.extend(step.pages)
            self._note(step)
            if step.refs == 0:
                self.n_idle_pages -= len(step.pages)
            step.refs += 1
        return pages

    def release(self, lease: Lease) -> None:
        """Release a lease; releasing it twice changes nothing."""
        if not lease.is_open:
            return
        lease.is_open = False
        for node in self._path(lease.node):
            if node.refs == 0:
                raise InvariantBroken(f"node {node.id} is released and has no lease")
            self._note(node)
            node.refs -= 1
            if node.refs == 0:
                self.n_idle_pages += len(node.pages)
                self._offer(node)

    def insert(self, namespace: Namespace, tokens: Tokens, pages: array[int], owner: Owner, lease: Lease | None = None) -> None:
        """Keep the KV of `tokens`, in `pages` of `owner`; only whole pages are kept.

        New tokens become a leaf, and their pages the tree's. Pages of `owner` whose tokens were in
        the tree already are freed: `acquire` returns the tree's pages for them. What `lease` has of
        `tokens` and `pages` is not looked at again.
        """
        size = self.pool.page_size
        n_pages = len(tokens) // size
        tokens = tokens[: n_pages * size]
        n_leased = 0 if lease is None or lease.n_tokens > len(tokens) else len(lease.pages)
        if lease is not None and n_leased and pages[n_leased - 1] == lease.pages[-1]:
            node, n_in, n_tokens = self._walk(lease.node, tokens, lease.n_tokens)
        else:  # what is leased, or its end, was computed again
            n_leased = 0
            node, n_in, n_tokens = self._walk(self._root(namespace), tokens)
        n_here = n_tokens // size
        self.pool.release(pages[n_leased:n_here], owner)
        if n_here == n_pages:
            return
        if n_in < len(node.tokens):
            node = self._split(node, n_in)
        self.pool.give(pages[n_here:n_pages], owner, TREE)
        self._offer(self._grow(node, tokens[n_tokens:], pages[n_here:n_pages]))

    def evict(self, n_pages: int) -> int:
        """Free at least `n_pages` by removing idle leaves, or all there are; returns how many were
        freed.
        """
        n_freed = 0
        spared: list[Idle] = []
        while n_freed < n_pages and (node := self._next_to_go(spared)) is not None:
            n_most = max(n_pages - n_freed, TRIM // self.pool.page_size, 1)
            if self.policy.trims and len(node.pages) > n_most:
                self._split(node, (len(node.pages) - n_most) * self.pool.page_size)
            n_freed += len(node.pages)
            self.n_idle_pages -= len(node.pages)
            self._remove(node)
        for *_, node in spared:
            self._offer(node)
        return n_freed

    def _next_to_go(self, spared: list[Idle]) -> Node | None:
        """The next leaf to evict, or None; `spared` is a heap of idle leaves that only go when no
        other is left.
        """
        while self.idle:
            key, _, node = heapq.heappop(self.idle)
            if not self._is_idle_leaf(node) or key != self.policy.key(node):
                continue
            if not self.policy.spares(node):
                return node
            if key == self.policy.key(node):
                heapq.heappush(spared, (key, node.id, node))
            else:
                self._offer(node)
        return heapq.heappop(spared)[2] if spared else None

    def flush(self) -> int:
        """Evict everything that is not leased."""
        return self.evict(self.pool.n_pages)

    def report_locks(self) -> None:
        """Report the nodes whose refs changed since the last call."""
        changed = tuple((node.id, node.refs) for node, refs in self._reported.values() if node.refs != refs)
        self._reported.clear()
        if changed:
            self._emit(LocksChanged(changed))

    def restore(self, nodes: Iterable[TreeNode]) -> None:
        """Fill an empty tree with the nodes of a snapshot, parents first, without leases; the pool
        has room for them.
        """
        made: dict[NodeId, Node] = {}
        for old in sorted(nodes, key=lambda node: node.born):
            if old.parent is None:
                made[old.node] = self._root(old.namespace)
                continue
            parent = made[old.parent]
            pages = self.pool.take(len(old.tokens) // self.pool.page_size, TREE)
            made[old.node] = node = self._grow(parent, old.tokens, pages)
            node.born, node.last_used, node.hits = old.born, old.last_used, old.hits
            self.clock = max(self.clock, old.last_used)
            self._offer(node)

    def reset(self) -> None:
        """Discard all nodes and leases, after an inconsistency was found. The pool is reset as
        well.
        """
        for node in reversed(list(self.nodes())):
            if node.parent is not None:
                self._reported.pop(node.id, None)
                self._emit(NodeEvicted(node.id, len(node.tokens)))
        for root in self.roots.values():
            self._note(root)
            root.refs = 0
            root.children.clear()
        self.idle.clear()
        if self._following is not None:
            self._following.reset()
        self.n_nodes = len(self.roots)
        self.n_idle_pages = 0
        self.version += 1
        self.pool.reset()
        self.report_locks()

    # ------------------------------------------------------------ what programs do

    def asked(self, request: RequestId, number: int, namespace: Namespace, tokens: Tokens, foreseen: Foreseen | None = None) -> None:
        """A request waits for its turn; `number` is the order of arrival."""
        if self._programs is not None:
            self._offer_all(self._programs.advanced(foreseen))
            self._offer_all(self._programs.asked(request, number, self._path(self._walk(self._root(namespace), tokens)[0])))

    def served(self, request: RequestId) -> None:
        """It no longer waits."""
        if self._programs is not None:
            self._offer_all(self._programs.served(request))

    def left(self, fork: ForkId, namespace: Namespace, tokens: Tokens, foreseen: Foreseen | None = None) -> None:
        """A request of a stream that goes on is over; `tokens` are what it left here."""
        if self._programs is not None:
            for again in foreseen.in_batch.again if foreseen is not None and foreseen.in_batch is not None else ():
                self._split_after(namespace, tokens[: again.n_tokens])
            self._offer_all(self._programs.left(fork, self._path(self._walk(self._root(namespace), tokens)[0]), foreseen))

    def ended(self, forks: Iterable[ForkId], *, is_all: bool, batch: int = 0) -> None:
        """As the event ForksEnded says."""
        if self._programs is not None:
            self._offer_all(self._programs.ended(forks, is_all=is_all, batch=batch))

    def _split_after(self, namespace: Namespace, tokens: Tokens) -> None:
        """Let a node end after the whole pages of `tokens`, as far as they are here."""
        node, n_in, _ = self._walk(self._root(namespace), tokens)
        if node.parent is not None and 0 < n_in < len(node.tokens):
            self._split(node, n_in)

    def _offer_all(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._offer(node)

    # ------------------------------------------------------------ inside

    def _root(self, namespace: Namespace) -> Node:
        root = self.roots.get(namespace)
        if root is None:
            root = self.roots[namespace] = Node(namespace, None, (), array("i"), self.clock)
            self.n_nodes += 1
            self._emit(NodeInserted(root.id, None, (), namespace))
        return root

    def _grow(self, parent: Node, tokens: Tokens, pages: array[int]) -> Node:
        """A new leaf below `parent`, without leases, over `pages` of the tree."""
        leaf = Node(parent.namespace, parent, tokens, pages, self.clock)
        parent.children[tokens[: self.pool.page_size]] = leaf
        self.n_nodes += 1
        self.n_idle_pages += len(pages)
        self.version += 1
        if self._following is not None:
            self._following.grown(leaf)
        self._emit(NodeInserted(leaf.id, parent.id, tokens, parent.namespace))
        return leaf

    def _walk(self, node: Node, tokens: Tokens, n_tokens: int = 0) -> tuple[Node, int, int]:
        """The deepest node that `tokens` reach, how many of its tokens they match, and how many in
        all; `node` is where the first `n_tokens` of them end.
        """
        size = self.pool.page_size
        while (child := node.children.get(tokens[n_tokens : n_tokens + size])) is not None:
            length = len(child.tokens)
            rest = tokens[n_tokens : n_tokens + length]
            if rest != child.tokens:
                n_in = common_length(rest, child.tokens) // size * size
                return child, n_in, n_tokens + n_in
            n_tokens += length
            node = child
        return node, len(node.tokens), n_tokens

    def _path(self, node: Node | None, above: Node | None = None) -> list[Node]:
        """From the root, or from below `above`, down to `node`."""
        path = []
        while node is not None and node is not above:
            path.append(node)
            node = node.parent
        path.reverse()
        return path

    def _split(self, node: Node, n_upper: int) -> Node:
        """Put a new node with the first `n_upper` tokens of `node` above it; leases on `node` stay
        on `node`.
        """
        size, parent = self.pool.page_size, node.parent
        if parent is None:
            raise InvariantBroken(f"root {node.id} cannot be split")
        upper = Node(node.namespace, parent, node.tokens[:n_upper], node.pages[: n_upper // size], node.last_used)
        upper.refs, upper.hits, upper.born = node.refs, node.hits, node.born
        parent.children[upper.tokens[:size]] = upper
        node.parent = upper
        node.tokens, node.pages = node.tokens[n_upper:], node.pages[n_upper // size :]
        upper.children[node.tokens[:size]] = node
        self.n_nodes += 1
        if self._following is not None:
            self._following.split(node, upper)
        if node.id in self._reported:
            self._reported[upper.id] = (upper, self._reported[node.id][1])
        self._emit(NodeSplit(node.id, upper.id, n_upper))
        self._offer(node)  # it is shorter, by which its key may have changed
        return upper

    def _remove(self, node: Node) -> None:
        parent = node.parent
        if parent is None:
            raise InvariantBroken(f"root {node.id} cannot be evicted")
        if self._following is not None:
            self._following.evicted(node, parent)
        del parent.children[node.tokens[: self.pool.page_size]]
        node.parent = None
        self.pool.release(node.pages, TREE)
        self._reported.pop(node.id, None)
        self.n_nodes -= 1
        self.n_evicted += 1
        self.n_evicted_tokens += len(node.tokens)
        self.version += 1
        self._emit(NodeEvicted(node.id, len(node.tokens)))
        self._offer(parent)

    def _use(self, policy: Policy) -> None:
        self.policy = policy
        self._following = policy if isinstance(policy, Following) else None
        self._programs = policy if isinstance(policy, Program) else None
        if self._following is not None:
            self._following.starts(self.pool.n_pages * self.pool.page_size)

    def turn(self, policy: Policy) -> None:
        """Evict by another policy from now on. The tree is empty."""
        self._use(policy)
        self.idle = []

    def _is_idle_leaf(self, node: Node) -> bool:
        return node.refs == 0 and not node.children and node.parent is not None

    def _offer(self, node: Node) -> None:
        """Make `node` available to eviction, if it can be evicted."""
        if not self._is_idle_leaf(node):
            return
        heapq.heappush(self.idle, (self.policy.key(node), node.id, node))
        if len(self.idle) > 2 * self.n_nodes + 1024:
            leaves = [leaf for leaf in self.nodes() if self._is_idle_leaf(leaf)]
            self.idle = [(self.policy.key(leaf), leaf.id, leaf) for leaf in leaves]
            heapq.heapify(self.idle)

    def _note(self, node: Node) -> None:
        """Call before `node.refs` changes."""
        self._reported.setdefault(node.id, (node, node.refs))
