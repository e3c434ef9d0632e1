"""The allocator of KV pages: which are free, and which owner holds each of the others.

Knows page numbers only: neither the content of a page nor why it is held.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

from ....contracts.errors import InvariantBroken
from ....contracts.ids import RequestId

TREE: Final = "tree"
Owner = RequestId | str
"""A request, or the tree."""


class PagePool:
    """One allocation function, one release function. `owners[page]` is None for a free page."""

    def __init__(self, n_pages: int, page_size: int) -> None:
        self.n_pages = n_pages
        self.page_size = page_size
        self.reset()

    def reset(self) -> None:
        """Every page is free again, whatever held it."""
        self.owners: list[Owner | None] = [None] * self.n_pages
        self.free = list(range(self.n_pages - 1, -1, -1))

    @property
    def n_free(self) -> int:
        return len(self.free)

    def take(self, n: int, owner: Owner) -> array[int]:
        """`n` free pages, from now on `owner`'s. The caller has made room before."""
        if n > len(self.free):
            raise InvariantBroken(f"{n} pages taken for {owner}, {len(self.free)} are free")
        first = len(self.free) - n
        pages = array("i", reversed(self.free[first:]))
        del self.free[first:]
        for page in pages:
            self.owners[page] = owner
        return pages

    def give(self, pages: Iterable[int], owner: Owner, to: Owner) -> None:
        """Pages change hands."""
        for page in pages:
            if self.owners[page] != owner:
                raise InvariantBroken(f"page {page} given away by {owner} is held by {self.owners[page]}")
            self.owners[page] = to

    def release(self, pages: Iterable[int], owner: Owner) -> None:
        """Free those of `pages` that `owner` holds; doing it twice changes nothing."""
        for page in pages:
            if self.owners[page] == owner:
                self.owners[page] = None
                self.free.append(page)
