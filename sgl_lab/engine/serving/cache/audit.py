"""Recounts the tree and the pool from scratch, sharing nothing with the code that keeps them.

Slow on purpose: after every step in tests, when idle in life.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ....contracts.errors import InvariantBroken
from ....contracts.ids import RequestId
from .node import Node
from .pool import TREE
from .tree import Lease, RadixTree


def audit(tree: RadixTree, leases: Iterable[Lease], held: Mapping[RequestId, Iterable[int]]) -> None:
    """InvariantBroken unless the tree, the pool, the open `leases` and the pages `held` by requests
    agree.
    """
    wrong: list[str] = []
    size = tree.pool.page_size
    everything: list[Node] = []

    def visit(node: Node, parent: Node | None) -> None:
        everything.append(node)
        if node.parent is not parent:
            wrong.append(f"node {node.id} has the wrong parent")
        if parent is not None and (not node.tokens or node.namespace != parent.namespace):
            wrong.append(f"node {node.id} is empty or in a wrong namespace")
        if node.last_used > tree.clock or (parent is not None and node.hits > parent.hits):
            wrong.append(f"node {node.id} was used {node.hits} times, last at {node.last_used}, without those above it or in the future")
        if len(node.tokens) != size * len(node.pages):
            wrong.append(f"node {node.id} has {len(node.tokens)} tokens in {len(node.pages)} pages of {size}")
        for key, child in node.children.items():
            if list(key) != list(child.tokens)[:size]:
                wrong.append(f"node {child.id} is filed under {key}")
            todo.append((child, node))

    todo: list[tuple[Node, Node | None]] = [(root, None) for root in tree.roots.values()]
    while todo:
        visit(*todo.pop())
    if len(everything) != tree.n_nodes or len({node.id for node in everything}) != tree.n_nodes:
        wrong.append(f"{len(everything)} nodes, counted as {tree.n_nodes}")

    refs: Counter[int] = Counter()
    for lease in leases:
        above: Node | None = lease.node
        n_tokens = 0
        pages: list[int] = []
        while above is not None:
            refs[above.id] += 1
            n_tokens += len(above.tokens)
            pages[:0] = above.pages
            above = above.parent
        if n_tokens != lease.n_tokens or pages != list(lease.pages):
            wrong.append(f"the lease on node {lease.node.id} is of {lease.n_tokens} tokens, its path of {n_tokens}")
    wrong.extend(f"node {node.id} counts {node.refs} leases, {refs[node.id]} are out" for node in everything if node.refs != refs[node.id])

    idle_pages = sum(len(node.pages) for node in everything if not refs[node.id])
    if idle_pages != tree.n_idle_pages:
        wrong.append(f"{idle_pages} pages can be evicted, counted as {tree.n_idle_pages}")
    offered = {(entry, node.id) for entry, _, node in tree.idle}
    for node in everything:
        if node.parent and not node.children and not refs[node.id] and (tree.policy.key(node), node.id) not in offered:
            wrong.append(f"node {node.id} is idle and eviction does not know it")

    places: list[tuple[int, object]] = [(page, None) for page in tree.pool.free]
    places += [(page, TREE) for node in everything for page in node.pages]
    places += [(page, request) for request, pages in held.items() for page in pages]
    if sorted(page for page, _ in places) != list(range(tree.pool.n_pages)):
        twice = [page for page, n in Counter(page for page, _ in places).items() if n > 1]
        lost = sorted(set(range(tree.pool.n_pages)) - {page for page, _ in places})
        wrong.append(f"pages in two places: {twice[:5]}, in none: {lost[:5]}")
    owners = tree.pool.owners
    wrong.extend(f"page {page} is {owner}'s and filed as {owners[page]}'s" for page, owner in places if owners[page] != owner)

    if wrong:
        raise InvariantBroken(f"{len(wrong)} broken: " + "; ".join(wrong[:5]))
