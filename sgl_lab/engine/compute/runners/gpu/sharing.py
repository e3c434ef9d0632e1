"""Finds rows of one token that begin with the same pages, so that these are read once for all of
them. Numbers only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .....contracts.ids import RequestId
from ....plan import Row

Pages = npt.NDArray[np.int32]

LEAST = 256
"""tokens: of less it costs more to put the parts together than to read them again"""


class Group(NamedTuple):
    rows: tuple[int, ...]
    n_pages: int
    """pages that all of them begin with"""


def groups(tables: Sequence[Pages], least: int) -> tuple[Group, ...]:
    """Rows in groups with a common beginning of at least `least` pages, so that the fewest pages
    are read; no row is in two.

    Within a group there may be others that share more: either all of it is one or those are,
    whichever saves more.
    """
    return _best([row for row, pages in enumerate(tables) if len(pages) >= least], 0, tables, max(1, least))[1]


def _best(rows: Sequence[int], at: int, tables: Sequence[Pages], least: int) -> tuple[int, tuple[Group, ...]]:
    """Pages saved, and how, among rows that are alike before `at`."""
    if len(rows) < 2:
        return 0, ()
    shortest = min(len(tables[row]) for row in rows)
    block = np.stack([tables[row][at:shortest] for row in rows])
    is_same = (block == block[0]).all(0)
    n = shortest if is_same.all() else at + int(is_same.argmin())
    branches: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        if len(tables[row]) > n:
            branches[int(tables[row][n])].append(row)
    parts = [_best(branch, n, tables, least) for branch in branches.values()]
    saved = sum(part for part, _ in parts)
    whole = n * (len(rows) - 1)
    if n >= least and whole >= saved:
        return whole, (Group(tuple(rows), n),)
    return saved, tuple(group for _, found in parts for group in found)


class Sharing:
    """The groups of consecutive passes. They remain as long as the same rows only grow."""

    def __init__(self, page_size: int, least: int = LEAST) -> None:
        self._page_size = page_size
        self._least = -(-least // page_size)
        self._requests: tuple[RequestId, ...] = ()
        self._groups: tuple[Group, ...] = ()

    def of(self, rows: Sequence[Row], only_grew: bool) -> tuple[Group, ...]:
        """`rows` have one token each, which is not in any group's pages. `only_grew` is the page
        table's report on the pass.
        """
        requests = tuple(row.request for row in rows)
        if not only_grew or requests != self._requests:
            self._requests = requests
            size = self._page_size
            self._groups = groups([np.array(row.pages[: row.start // size], np.int32) for row in rows], self._least)
        return self._groups
