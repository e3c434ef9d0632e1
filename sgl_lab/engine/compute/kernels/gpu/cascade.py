"""Attention of rows of one token each that share prefixes. A shared prefix is read once for all of
its rows.

The queries of a group's members are the rows of a tile that attends to the prefix. Each member
attends to the rest of its own context as in `decode`. Both produce partial results, which one merge
combines by their log-sum-exps.

Ye et al. 2024, "Cascade Inference" (FlashInfer); Juravsky et al. 2024, "Hydragen",
arXiv:2402.05099.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .contexts import Contexts, Shared
from .decode import GRAIN, Parts, attend_splits, default_blocks, merge, split_size
from .launch import launch
from .paged import attend, attention_twin, gather, kinds, padded
from .tuning import choice


@triton.jit(do_not_specialize=["width", "n_splits", "n_parts"])
def _attend_prefix(
    q, keys, values, table, tiles, members, ends, lines, lengths, outputs, sums, width, n_splits, n_parts, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, GRAIN: tl.constexpr,
    TILE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """ROWS of the query heads of one KV head of a tile's members, and one split of their prefix."""
    head, split, tile = tl.program_id(0) % KV_HEADS, tl.program_id(1), tl.program_id(2)
    group = tl.load(tiles + 2 * tile)
    if group < 0:
        return
    length = tl.load(lengths + group)
    size = split_size(length, n_splits, GRAIN)
    start = split * size
    if start >= length:
        return
    stop = tl.minimum(start + size, length)
    line = tl.load(lines + group)
    first = tl.load(tiles + 2 * tile + 1)
    index = tl.program_id(0) // KV_HEADS * ROWS + tl.arange(0, ROWS)
    present = (index < TILE * GROUP) & (first + index // GROUP < tl.load(ends + group))
    rows = tl.load(members + first + index // GROUP, mask=present, other=0).to(tl.int64)
    heads = rows * (KV_HEADS * GROUP) + head * GROUP + index % GROUP
    dims = tl.arange(0, BLOCK_D)
    mask = present[:, None] & (dims < DIM)[None, :]
    queries = tl.load(q + heads[:, None] * DIM + dims[None, :], mask=mask, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total, acc = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, BLOCK_D], tl.float32)
    last_seen = tl.full([ROWS], stop - 1, tl.int32)
    acc, top, total = attend(
        acc, top, total, queries, last_seen, keys, values, table, line, width, head, start, stop, scale,
        KV_HEADS, DIM, PAGE_SIZE, True, BLOCK_N, BLOCK_D, STAGES, 0, CAP,
    )  # fmt: skip
    parts = heads * n_parts + n_splits + split
    tl.store(outputs + parts[:, None] * DIM + dims[None, :], acc / total[:, None], mask=mask)
    tl.store(sums + parts, top + tl.log2(total), mask=present)


def attend_cascade(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    shared: Shared,
    scale: float,
    *,
    n_splits: int,
    out: Tensor | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """`attend_decode` for rows of which some have a prefix in common. Nothing slides: rows would
    share no common part of it.

    q             [rows, heads, dim]
    keys, values  [slots, kv_heads, dim], those of the new tokens written
    n_splits      programs that share a prefix at most, and likewise the rest of a row's context
    returns       [rows, heads, dim]

    Traffic: 2 * kv_heads * dim * itemsize bytes a token of a prefix for each tile of members, and a
    token of each row's rest; 8 * heads * (dim + 1) bytes a part.
    """
    out = torch.empty_like(q) if out is None else out
    _, heads, dim = q.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    parts = Parts.empty(q, 2 * n_splits)
    tensors = (q, keys, values, contexts.table, shared.tiles, shared.members, shared.ends, shared.lines, shared.lengths)
    factor, how = kinds(scale, 0, softcap)
    numbers = (contexts.table.shape[1], n_splits, 2 * n_splits, factor)
    sizes = {"KV_HEADS": kv_heads, "GROUP": group, "DIM": dim, "PAGE_SIZE": contexts.page_size, "GRAIN": GRAIN}
    rows = min(64, padded(shared.tile * group))
    tile = {"TILE": shared.tile, "ROWS": rows, "BLOCK_D": padded(dim), "CAP": how["CAP"]}
    blocks = choice("cascade", (rows, dim, q.element_size()), default_blocks(rows, padded(dim), q.element_size()))
    grid = (kv_heads * triton.cdiv(shared.tile * group, rows), n_splits, shared.tiles.shape[0])
    launch(_attend_prefix, grid, *tensors, parts.outputs, parts.sums, *numbers, **sizes, **tile, **blocks)
    attend_splits(q, keys, values, contexts, shared.first, scale, parts, n_splits, GRAIN, 0, softcap)
    merge(parts, contexts, shared.first, n_splits, GRAIN, out)
    return out


def attend_cascade_twin(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    shared: Shared,
    scale: float,
    *,
    n_splits: int,
    out: Tensor | None = None,
    softcap: float = 0.0,
) -> Tensor:
    out = torch.zeros_like(q) if out is None else out.zero_()
    group_of: dict[int, int] = {}
    ends = shared.ends.tolist()
    for group, first in shared.tiles.tolist():
        if group >= 0:
            group_of |= dict.fromkeys(shared.members[first : min(first + shared.tile, ends[group])].tolist(), group)
    for row, (line, length) in enumerate(zip(contexts.lines.tolist(), contexts.lengths.tolist(), strict=True)):
        spans = [(line, int(shared.first[row]), length)]
        if row in group_of:
            group = group_of[row]
            spans.append((int(shared.lines[group]), 0, int(shared.lengths[group])))
        outputs, sums = [], []
        for at, start, stop in spans:
            if start < stop:
                k, v = (gather(pool, contexts, at, start, stop) for pool in (keys, values))
                output, total = attention_twin(q[row : row + 1], k, v, scale, 0, softcap)
                outputs.append(output)
                sums.append(total)
        if outputs:
            out[row] = (torch.stack(outputs) * torch.stack(sums).softmax(0)[..., None]).sum(0)[0]
    return out
