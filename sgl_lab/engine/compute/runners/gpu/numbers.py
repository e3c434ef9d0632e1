"""The numbers of a pass over the model: what its kernels read of the plan, first as arrays on the
host, then on the device.

Rows of one token come first. They attend together, and their common prefixes are read once
(`sharing`). In a pass of exact rows every token is such a row, so that its result depends only on
its own context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ....plan import Row
from .sharing import Group
from .table import Written

A = TypeVar("A")


class Inputs(NamedTuple, Generic[A]):
    """All int32, except `where` and `drawn`, which are int64."""

    where: A
    what: A
    """first updates of the table: pages and, if all rows have one token, those tokens, except those
    of overlapped rows
    """
    ids: A
    """[tokens], or none: then they are in the table, a line each"""
    positions: A
    slots: A
    """[tokens]"""
    needed: A
    """the tokens whose logits are read, in order"""
    drawn: A
    """position in the table that stores the token sampled after each of these"""
    lines: A
    lengths: A
    """of each row of one token; of an exact pass, of each token"""
    longer_lines: A
    longer_lengths: A
    """of each of the other rows"""
    offsets: A
    """where these begin, counted from the first of them, and where the last one ends"""
    adapters: A
    """each token's among those on the device, or -1; empty if no token has one"""
    tiles: A
    members: A
    ends: A
    group_lines: A
    group_lengths: A
    first: A
    """see `contexts.Shared`; empty if nothing is shared"""


Array = npt.NDArray[np.generic]


class Shape(NamedTuple):
    """The shape of a pass: two passes of equal shape run the same kernels on the same number of
    programs.
    """

    n_rows: int
    """of one token each, at the front; of an exact pass, tokens"""
    longest: int
    """tokens of the longest of the other rows; 0 without any"""
    needs_all: bool
    is_exact: bool
    is_shared: bool
    draws: bool = False
    """whether tokens are drawn with it"""
    is_adapted: bool = False


class Pass(NamedTuple):
    arrays: Inputs[Array]
    shape: Shape


def order(rows: Sequence[Row]) -> list[int]:
    """Rows of one token first."""
    return sorted(range(len(rows)), key=lambda i: len(rows[i].tokens) > 1)


def one_pass(
    rows: Sequence[Row],
    written: Written,
    needed: Sequence[int],
    shared: Sequence[Group],
    tile: int,
    page_size: int,
    adapters: Mapping[str, int],
) -> Pass:
    """`rows` are in order and all exact or none; `needed` are tokens of the flat batch, `shared`
    groups of its rows of one token, `adapters` the places of adapters on the device.
    """
    is_exact = rows[0].is_exact
    counts = [len(row.tokens) for row in rows]
    n_single = sum(count == 1 for count in counts)
    where, what, ids = written.where, written.pages, [*chain.from_iterable(row.tokens for row in rows)]
    if n_single == len(rows):
        known = [i for i, row in enumerate(rows) if not row.is_overlapped]
        where = np.concatenate((where, np.array([written.drawn + written.lines[i] for i in known], np.int64)))
        what = np.concatenate((what, np.array([ids[i] for i in known], np.int32)))
        ids = []
    line_of = [*chain.from_iterable([line] * count for line, count in zip(written.lines, counts, strict=True))]
    longer = rows[n_single:]
    positions = [np.arange(row.start, row.start + len(row.tokens), dtype=np.int32) for row in longer]
    places = [np.frombuffer(row.pages, np.int32)[at // page_size] for row, at in zip(longer, positions, strict=True)]
    slots = [pages * page_size + at % page_size for pages, at in zip(places, positions, strict=True)]
    singles = rows[:n_single]
    starts = [row.start for row in singles]
    ends = [start + 1 for start in starts]
    if is_exact:
        lines, lengths, longer = line_of, [*ends, *chain.from_iterable((at + 1).tolist() for at in positions)], []
    else:
        lines, lengths = written.lines[:n_single], ends
    is_adapted = any(row.adapter is not None for row in rows)
    adapted = [-1 if row.adapter is None else adapters[row.adapter] for row in rows] if is_adapted else []
    arrays: Inputs[Array] = Inputs(
        where=where,
        what=what,
        ids=_ints(ids),
        positions=np.concatenate((_ints(starts), *positions)),
        slots=np.concatenate((_ints(row.pages[row.start // page_size] * page_size + row.start % page_size for row in singles), *slots)),
        needed=_ints(needed),
        drawn=np.array([written.drawn + line_of[token] for token in needed], np.int64),
        lines=_ints(lines),
        lengths=_ints(lengths),
        longer_lines=_ints(written.lines[n_single:] if longer else ()),
        longer_lengths=_ints(row.end for row in longer),
        offsets=_ints((0, *accumulate(len(row.tokens) for row in longer))),
        adapters=np.repeat(_ints(adapted), counts if is_adapted else []),
        **_shared(shared, written.lines, n_single, tile, page_size),
    )
    longest = max((len(row.tokens) for row in longer), default=0)
    return Pass(arrays, Shape(len(lines), longest, len(needed) == sum(counts), is_exact, bool(shared), is_adapted=is_adapted))


def _shared(groups: Sequence[Group], lines: Sequence[int], n_rows: int, tile: int, page_size: int) -> dict[str, Array]:
    first = np.zeros(n_rows if groups else 0, np.int32)
    tiles: list[tuple[int, int]] = []
    members: list[int] = []
    ends: list[int] = []
    for index, group in enumerate(groups):
        first[list(group.rows)] = group.n_pages * page_size
        tiles += [(index, len(members) + start) for start in range(0, len(group.rows), tile)]
        members += group.rows
        ends.append(len(members))
    return {
        "tiles": _ints(tiles).reshape(-1, 2),
        "members": _ints(members),
        "ends": _ints(ends),
        "group_lines": _ints(lines[group.rows[0]] for group in groups),
        "group_lengths": _ints(group.n_pages * page_size for group in groups),
        "first": first,
    }


def padded(a_pass: Pass, size: int) -> Pass:
    """A pass of rows of one token whose logits are all read, padded to `size` rows. The padding
    writes and reads nothing.
    """
    n_most = size // 2 if a_pass.shape.is_shared else 0
    sizes = dict.fromkeys(("tiles", "ends", "group_lines", "group_lengths"), n_most) | {"members": 2 * n_most, "first": 2 * n_most}
    sizes |= {"where": 2 * size, "what": 2 * size, "ids": 0, "longer_lines": 0, "longer_lengths": 0, "offsets": 1}
    sizes |= {} if a_pass.shape.is_adapted else {"adapters": 0}
    fill = {"slots": -1, "tiles": -1, "adapters": -1}
    named = a_pass.arrays._asdict()
    filled: Inputs[Array] = Inputs(*(_filled(array, sizes.get(name, size), fill.get(name, 0)) for name, array in named.items()))
    return Pass(filled, a_pass.shape._replace(n_rows=size))


def _filled(array: Array, size: int, value: int) -> Array:
    filled = np.full((size, *array.shape[1:]), value, array.dtype)
    filled[: len(array)] = array
    return filled


def _ints(values: Iterable[object]) -> Array:
    return np.array(values if isinstance(values, list | tuple) else [*values], np.int32)
