"""The order in which waiting requests are considered.

Ranks are compared among the requests of one pass: the smallest goes first, equal ones in order of
arrival. How often a request may be overtaken is not decided here.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ....contracts.ids import RequestId
from ..cache.tree import RadixTree
from .request import Request

Rank = tuple[float, ...]
Order = Callable[[RadixTree, Sequence[Request], random.Random], list[Rank]]


def lpm(tree: RadixTree, waiting: Sequence[Request], draw: random.Random) -> list[Rank]:
    """Longest prefix match first; of equals the one for which most steps of its program wait."""
    return [(-n_hit(tree, request), -request.foreseen.n_after if request.foreseen else 0) for request in waiting]


def fcfs(tree: RadixTree, waiting: Sequence[Request], draw: random.Random) -> list[Rank]:
    """First come, first served."""
    return [()] * len(waiting)


def dfs_weight(tree: RadixTree, waiting: Sequence[Request], draw: random.Random) -> list[Rank]:
    """Depth first through the tree, at every node first the child with the most waiting requests
    below it.

    A node that a request reaches in part counts for that request too. Of requests that end in one
    node, the one that reaches farther goes first.
    """
    trails = [tree.trail(request.namespace, request.span(0, request.n_tokens)) for request in waiting]
    weights = Counter(node for trail in trails for node in trail)
    return [
        (*(part for node in trail for part in (-weights[node], node)), 0, -n_hit(tree, request))
        for trail, request in zip(trails, waiting, strict=True)
    ]


def shuffled(tree: RadixTree, waiting: Sequence[Request], draw: random.Random) -> list[Rank]:
    """Random order of groups, the baseline for the others. In a group the order of arrival stays:
    its first request computes, and counts, what all of them share.
    """
    ranks: dict[RequestId, Rank] = {}
    return [ranks.setdefault(request.group, (draw.random(),)) for request in waiting]


ORDERS: Mapping[str, Order] = {"lpm": lpm, "fcfs": fcfs, "dfs-weight": dfs_weight, "random": shuffled}


def n_hit(tree: RadixTree, request: Request) -> int:
    """How many tokens the tree has of `request`; looked up again only when the tree has changed."""
    if request.n_hit_version != tree.version:
        request.n_hit_version = tree.version
        request.n_hit = tree.peek(request.namespace, request.span(0, request.n_tokens)).n_tokens
    return request.n_hit
