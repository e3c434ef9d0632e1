"""The keys and values of a step's rows, as kernels read them: page tables, lengths, shared
prefixes.

Everything is int32 and on the device. Position p of a row is in slot `page * page_size + p %
page_size`, where `page = table[line, p // page_size]`. Keys and values of a layer are [slots,
kv_heads, head_dim].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Contexts:
    """One line of `table` per row. Rows that fill up a batch have length 0 and produce zeros."""

    table: Tensor
    """[lines, width]: page ids"""
    lines: Tensor
    """[rows]: which line is the row's"""
    lengths: Tensor
    """[rows]: tokens of its context, those of this step included"""
    page_size: int


@dataclass(frozen=True, slots=True)
class Shared:
    """Prefixes that several rows of one token share; each is read once for all of them.

    A tile is up to `tile` members of one group, which attend to the group's prefix together. Tiles
    that fill up the list have the group -1. The rest of a member's context begins at `first`.
    """

    tiles: Tensor
    """[tiles, 2]: (group, index of its first member in `members`)"""
    members: Tensor
    """[members]: rows, those of a group one after the other"""
    ends: Tensor
    """[groups]: the end of a group in `members`"""
    lines: Tensor
    """[groups]: a line of the table that begins with the prefix"""
    lengths: Tensor
    """[groups]: tokens of the prefix"""
    first: Tensor
    """[rows]: tokens of the row's context that its group reads for it; 0 for a row of no group"""
    tile: int
