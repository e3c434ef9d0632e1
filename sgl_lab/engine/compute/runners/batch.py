"""A plan as index tensors: which tokens, at which positions, written to and read from which slots.

Rows with one token come first and attend together over padded contexts; every other row attends
alone. Layers that slide read the end of a context, as long as their window. Nothing here loops over
a context in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ....contracts.spans import MAX_POSITIONS, Block, first_id
from ...plan import Plan, Row
from ..models.decoder import Embedded
from ..models.spec import KvGroup


@dataclass(frozen=True, slots=True)
class Prefill:
    """One row of several tokens, [begin, end) of the flat batch. They attend to `slots`, the part
    of the context that is read.
    """

    begin: int
    end: int
    slots: Tensor
    """int64 [n_context]"""
    mask: Tensor | None
    """bool [end - begin, len(slots)]; None when the row starts at position 0 and is plainly causal"""


class Reach(NamedTuple):
    """The part of the rows' contexts that the layers of one KV group read."""

    single_slots: Tensor
    """int64 [n_single * longest]: the contexts of rows of one token, padded with a slot of their own"""
    single_mask: Tensor | None
    """bool [n_single, longest]; None when all contexts are equally long"""
    prefills: tuple[Prefill, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    ids: Tensor
    positions: Tensor
    slots: Tensor
    """int64 [n]: the slot of each token's key and value"""
    n_single: int
    """rows of one token; they are the first of the flat batch"""
    reach: Mapping[int | None, Reach]
    """by the window of a KV group"""
    sampled: Tensor
    """int64: of each row that samples, in the plan's order, the tokens in the flat batch after
    which it may draw
    """
    scored: Tensor
    """int64: of each row with targets, in the plan's order, the tokens after which they are scored"""
    begins: tuple[int, ...]
    """of each row, in the plan's order, its first token in the flat batch"""
    embedded: Embedded | None = None

    @classmethod
    def of(cls, plan: Plan, page_size: int, device: torch.device, groups: Sequence[KvGroup]) -> Batch:
        """Built on the CPU, moved to `device` at the end."""
        order = sorted(range(len(plan.rows)), key=lambda i: len(plan.rows[i].tokens) > 1)
        rows = [plan.rows[i] for i in order]
        n_single = sum(len(row.tokens) == 1 for row in rows)
        contexts = [context_slots(row, page_size) for row in rows]
        ends = np.cumsum([len(row.tokens) for row in rows]).tolist()
        end_of = [end for _, end in sorted(zip(order, ends, strict=True))]

        tokens = _joined([np.asarray(row.tokens, dtype=np.int64) for row in rows])
        embedded = taken_out(tokens, (block for row in rows for block in row.blocks), device)

        def tensor(array: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        def reach(window: int | None) -> Reach:
            firsts = [0 if window is None else max(0, row.start + 1 - window) for row in rows]
            reached = [context[first:] for context, first in zip(contexts, firsts, strict=True)]
            single_slots, single_mask = _padded(reached[:n_single])
            return Reach(
                tensor(single_slots.reshape(-1)),
                None if single_mask is None else tensor(single_mask),
                tuple(
                    Prefill(end - len(row.tokens), end, tensor(context), None if mask is None else tensor(mask))
                    for row, context, end in zip(rows[n_single:], reached[n_single:], ends[n_single:], strict=True)
                    for mask in [_mask(row, window)]
                ),
            )

        return cls(
            ids=tensor(tokens),
            positions=tensor(_joined([np.arange(row.start, row.start + len(row.tokens)) for row in rows])),
            slots=tensor(_joined([context[row.start :] for row, context in zip(rows, contexts, strict=True)])),
            n_single=n_single,
            reach={group.window: reach(group.window) for group in groups},
            sampled=tensor(_joined([np.arange(end - row.n_draws, end) for row, end in zip(plan.rows, end_of, strict=True)])),
            scored=tensor(_joined([np.arange(end - len(row.targets), end) for row, end in zip(plan.rows, end_of, strict=True)])),
            begins=tuple(end - len(row.tokens) for row, end in zip(plan.rows, end_of, strict=True)),
            embedded=embedded,
        )


def taken_out(tokens: npt.NDArray[np.int64], blocks: Iterable[Block], device: torch.device) -> Embedded | None:
    """The embeddings of block positions among `tokens`; None without such positions. The ids at
    these positions become 0.
    """
    at = np.flatnonzero(tokens < 0)
    if not len(at):
        return None
    numbers, offsets = np.divmod(-tokens[at], MAX_POSITIONS)
    tokens[at] = 0
    by_number = {-first_id(block.content) // MAX_POSITIONS: block.embeddings for block in blocks}
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
    for number in np.unique(numbers).tolist():
        mine = numbers == number
        parts.append((at[mine], np.asarray(by_number[number])[offsets[mine]]))
    where, rows = (np.concatenate(found) for found in zip(*parts, strict=True))
    return Embedded(torch.from_numpy(where).to(device), torch.from_numpy(rows).to(device))


def context_slots(row: Row, page_size: int) -> npt.NDArray[np.int64]:
    """The slot of every position of a row, [start + len(tokens)]. A copy, because `row.pages`
    continues to grow.
    """
    n_context = row.start + len(row.tokens)
    pages = np.array(row.pages, dtype=np.int64)
    if page_size > 1:
        pages = (pages[:, None] * page_size + np.arange(page_size)).reshape(-1)
    return pages[:n_context]


def _padded(contexts: Sequence[npt.NDArray[np.int64]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Contexts as one rectangle, and a mask of its real part. Padding repeats a row's first slot,
    because masked values must still be finite.
    """
    lengths = np.array([len(context) for context in contexts], dtype=np.int64)
    longest = int(lengths.max(initial=0))
    slots = np.empty((len(contexts), longest), dtype=np.int64)
    for line, context in zip(slots, contexts, strict=True):
        line[: len(context)] = context
        line[len(context) :] = context[0]
    return slots, None if (lengths == longest).all() else np.arange(longest) < lengths[:, None]


def _mask(row: Row, window: int | None) -> npt.NDArray[np.bool_] | None:
    """Which positions of a row's context each of its tokens reads. None means all up to the token's
    own position.
    """
    if row.start == 0 and (window is None or row.end <= window):
        return None
    queries = np.arange(row.start, row.end)[:, None]
    if window is None:
        return np.arange(row.end) <= queries
    keys = np.arange(max(0, row.start + 1 - window), row.end)
    return (keys <= queries) & (keys > queries - window)


def _joined(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    return np.concatenate(parts).astype(np.int64, copy=False) if parts else np.empty(0, dtype=np.int64)
