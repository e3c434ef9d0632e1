"""Page tables on the device, and the last sampled token of each request: one line per request, kept
from step to step.

The host knows the exact content of each line, so it sends only differences: for a decoding row at
most its new page. Nothing is assumed about a request's pages since its last step.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .....contracts.errors import InvariantBroken
from .....contracts.ids import RequestId
from ....plan import Row

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Line:
    index: int
    pages: bytes
    """int32, as they are on the device"""


class Written(NamedTuple):
    """The updates of the table before rows are computed, and the rows' lines after them."""

    lines: list[int]
    """of each row"""
    where: Longs
    """places of `Tables.flat`"""
    pages: Ints
    """the values to write there"""
    drawn: int
    """the place of the first line's token"""
    only_grew: bool
    """since these rows were last seen, no line had anything but pages put to its end"""


class Tables(NamedTuple):
    """On the device, int32.

    Line 0 belongs to no request: rows that fill up a batch are there, and writes that fill up a
    list go to its first place.
    """

    flat: Tensor
    """all there is, so that pages and tokens are written together"""
    pages: Tensor
    """[lines, width]"""
    drawn: Tensor
    """[lines]: the tokens"""

    @classmethod
    def of_zeros(cls, n_lines: int, width: int, device: torch.device) -> Tables:
        flat = torch.zeros(n_lines * width + n_lines, dtype=torch.int32, device=device)
        return cls(flat, flat[: n_lines * width].view(n_lines, width), flat[n_lines * width :])


class PageTable:
    """`tables` are replaced by larger ones when rows or contexts grow beyond them."""

    def __init__(self, device: torch.device, *, width: int, n_lines: int = 128) -> None:
        self.tables = Tables.of_zeros(n_lines, width, device)
        self._lines: OrderedDict[RequestId, _Line] = OrderedDict()
        """by when they were last seen"""

    def make_room(self, n_rows: int) -> None:
        """A line for each of so many requests, beside the one of no request."""
        self._grow(n_rows + 1, 0)

    def update(self, rows: Sequence[Row]) -> Written:
        """A line for each row, that of a request which was not seen for longest if there is no other.

        InvariantBroken if an overlapped row's request has lost its line, and with it the token.
        """
        self._grow(len(rows) + 1, max(len(row.pages) for row in rows))
        for row in rows:
            if row.request in self._lines:
                self._lines.move_to_end(row.request)
            elif row.is_overlapped:
                raise InvariantBroken(f"request {row.request} has no line in the page table, so no token to go on from")
        lines, where, pages, only_grew = [], array("q"), array("i"), True
        for row in rows:
            line = self._lines.get(row.request) or self._take(row.request)
            lines.append(line.index)
            new, old = row.pages.tobytes(), line.pages
            if new == old:
                continue
            only_grew &= bool(old) and new.startswith(old)
            if old.startswith(new):
                continue
            at = line.index * self.tables.pages.shape[1]
            if new.startswith(old):
                first = len(old) // row.pages.itemsize
                where.extend(range(at + first, at + len(row.pages)))
                pages.extend(row.pages[first:])
            else:
                n = min(len(new), len(old)) // row.pages.itemsize
                differ = np.flatnonzero(np.frombuffer(new, np.int32, n) != np.frombuffer(old, np.int32, n))
                places = [*differ.tolist(), *range(n, len(row.pages))]
                where.extend(at + place for place in places)
                pages.extend(row.pages[place] for place in places)
            line.pages = new + old[len(new) :]
        return Written(lines, np.array(where, np.int64), np.array(pages, np.int32), self.tables.pages.numel(), only_grew)

    def forget(self) -> None:
        """Start over: the content on the device is unknown."""
        self._lines.clear()

    def _take(self, request: RequestId) -> _Line:
        n_taken = len(self._lines) + 1
        line = _Line(n_taken, b"") if n_taken < len(self.tables.pages) else self._lines.popitem(last=False)[1]
        self._lines[request] = line
        return line

    def _grow(self, n_lines: int, width: int) -> None:
        old = self.tables
        has = len(old.drawn), old.pages.shape[1]
        needs = _doubled(has[0], n_lines), _doubled(has[1], width)
        if needs != has:
            self.tables = Tables.of_zeros(*needs, old.flat.device)
            self.tables.pages[: has[0], : has[1]] = old.pages
            self.tables.drawn[: has[0]] = old.drawn


def _doubled(n: int, least: int) -> int:
    while n < least:
        n *= 2
    return n
