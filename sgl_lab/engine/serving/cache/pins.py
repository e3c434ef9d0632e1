"""Prefixes that stay until their owner lets them go: leases that belong to no request."""

from __future__ import annotations

from typing import NamedTuple

from ....contracts.errors import InvariantBroken
from ....contracts.ids import Namespace, RequestId
from ....contracts.spans import Block
from .node import Tokens
from .tree import Lease, RadixTree, common_length


class Pin(NamedTuple):
    handle: RequestId
    """the request that computed the prefix names the pin"""
    namespace: Namespace
    tokens: Tokens
    lease: Lease
    blocks: tuple[Block, ...]
    """with which the tokens are computed again"""


class Pins:
    """`n_pages` and `n_shared` may be read from any thread, all else only from the tree's thread."""

    def __init__(self, tree: RadixTree) -> None:
        self._tree = tree
        self.pinned: tuple[Pin, ...] = ()
        self.n_pages = 0
        """pages that no eviction can free; those that pins share count once"""

    def hold(self, handle: RequestId, namespace: Namespace, tokens: Tokens, blocks: tuple[Block, ...] = ()) -> None:
        """Pin whole pages of `tokens`, which are in the tree."""
        lease = self._tree.acquire(namespace, tokens, is_hit=False)
        self._keep((*self.pinned, Pin(handle, namespace, tokens, lease, blocks)))
        if lease.n_tokens < len(tokens):
            raise InvariantBroken(f"pin {handle} is of {len(tokens)} tokens, the tree has {lease.n_tokens}")

    def let_go(self, handle: RequestId) -> bool:
        """Whether there was such a pin; its prefix is from now on as any other."""
        gone = [pin for pin in self.pinned if pin.handle == handle]
        self._keep(tuple(pin for pin in self.pinned if pin.handle != handle))
        for pin in gone:
            self._tree.release(pin.lease)
        return bool(gone)

    def forget(self) -> tuple[Pin, ...]:
        """Drop all pins, whose leases were lost with the tree's content. Returns them."""
        lost = self.pinned
        self._keep(())
        return lost

    def n_shared(self, namespace: Namespace, tokens: Tokens) -> int:
        """How many of the first pages of `tokens` are pinned."""
        lengths = (common_length(pin.tokens, tokens) for pin in self.pinned if pin.namespace == namespace)
        return max(lengths, default=0) // self._tree.pool.page_size

    def _keep(self, pinned: tuple[Pin, ...]) -> None:
        self.pinned = pinned
        self.n_pages = len({page for pin in pinned for page in pin.lease.pages})
