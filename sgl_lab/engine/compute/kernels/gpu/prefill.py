"""Attention of rows of many tokens each, whose prefix may be cached, over paged keys and values.

A program has a tile of queries and passes over the keys before them: first in blocks that all of
its queries see, without masks, then over the few blocks that contain the causal border. Queries of
one KV head share a tile, token by token, so that a short row of a model with grouped heads still
fills one.

FlashAttention-2: Dao 2023, arXiv:2307.08691. Online softmax: Milakov & Gimelshein 2018,
arXiv:1805.02867.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .contexts import Contexts
from .launch import launch
from .paged import attend, attention_twin, gather, kinds, padded
from .tuning import choice


@triton.jit(do_not_specialize=["width"])
def _prefill(
    q, keys, values, table, lines, lengths, offsets, out, width, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """BLOCK_M queries of one KV head of one row. Tiles with the longest context start first, so
    that no long tile remains at the end.
    """
    tile, head, row = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(offsets + row)
    n_queries = (tl.load(offsets + row + 1) - first) * GROUP
    if tile * BLOCK_M >= n_queries:
        return
    length = tl.load(lengths + row)
    line = tl.load(lines + row)
    n_before = length - n_queries // GROUP
    members = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    tokens = first.to(tl.int64) + members // GROUP
    dims = tl.arange(0, BLOCK_D)
    at = (tokens * (KV_HEADS * GROUP) + head * GROUP + members % GROUP)[:, None] * DIM + dims[None, :]
    mask = (members < n_queries)[:, None] & (dims < DIM)[None, :]
    queries = tl.load(q + at, mask=mask, other=0.0)
    last_seen = n_before + members // GROUP

    seen_by_all = (n_before + tile * BLOCK_M // GROUP + 1) // BLOCK_N * BLOCK_N
    seen_by_last = tl.minimum(length, n_before + (tile * BLOCK_M + BLOCK_M - 1) // GROUP + 1)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total, acc = tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if WINDOW > 0:  # nothing before the window of the first query
        seen_by_all = tl.maximum(n_before + tile * BLOCK_M // GROUP + 1 - WINDOW, 0) // BLOCK_N * BLOCK_N
    else:
        acc, top, total = attend(
            acc, top, total, queries, last_seen, keys, values, table, line, width, head, 0, seen_by_all, scale,
            KV_HEADS, DIM, PAGE_SIZE, False, BLOCK_N, BLOCK_D, STAGES, 0, CAP,
        )  # fmt: skip
    acc, top, total = attend(
        acc, top, total, queries, last_seen, keys, values, table, line, width, head, seen_by_all, seen_by_last, scale,
        KV_HEADS, DIM, PAGE_SIZE, True, BLOCK_N, BLOCK_D, STAGES, WINDOW, CAP,
    )  # fmt: skip
    if WINDOW > 0:  # queries that fill the tile up may see nothing
        total = tl.maximum(total, 1e-30)
    tl.store(out + at, acc / total[:, None], mask=mask)


def attend_prefill(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    offsets: Tensor,
    longest: int,
    scale: float,
    out: Tensor | None = None,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Every row's tokens, the last of its context, attend to all earlier tokens and to themselves.

    q             [n, heads, dim]: row r has the tokens offsets[r] to offsets[r + 1]
    keys, values  [slots, kv_heads, dim], with those of the new tokens written
    offsets       [rows + 1] int32, on the device
    longest       tokens of the longest row, or more
    window        how many tokens each sees, itself among them; 0: all
    softcap       scores become softcap * tanh(score / softcap); 0: they stay
    returns       [n, heads, dim]; tokens of no row are not written

    Work: 4 * dim operations per head and pair of tokens that see each other. Traffic: q and out
    once; a row's keys and values once for each tile of 128 queries (dim <= 128), all but the first
    time out of the second-level cache if they fit.
    """
    out = torch.empty_like(q) if out is None else out
    _, heads, dim = q.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    rows = offsets.shape[0] - 1
    blocks = choice("prefill", (group, dim, q.element_size()), _default(padded(dim), q.element_size()))
    grid = (triton.cdiv(longest * group, blocks["BLOCK_M"]), kv_heads, rows)
    tensors = (q, keys, values, contexts.table, contexts.lines, contexts.lengths, offsets, out)
    sizes = {"KV_HEADS": kv_heads, "GROUP": group, "DIM": dim, "PAGE_SIZE": contexts.page_size, "BLOCK_D": padded(dim)}
    factor, how = kinds(scale, window, softcap)
    launch(_prefill, grid, *tensors, contexts.table.shape[1], factor, **sizes, **how, **blocks)
    return out


def _default(block_d: int, itemsize: int) -> dict[str, int]:
    """Blocks whose sums stay in registers. Page ids are read two blocks ahead of keys and values,
    which are read two blocks ahead of their use.

    For heads of more than 128 dimensions it is one block each, so that everything fits into the 99
    KiB of a consumer card.
    """
    if itemsize == 4:
        return {"BLOCK_M": 32, "BLOCK_N": 16, "STAGES": 5, "num_warps": 8}
    if block_d <= 128:
        return {"BLOCK_M": 128, "BLOCK_N": 64, "STAGES": 5, "num_warps": 8}
    return {"BLOCK_M": 64, "BLOCK_N": 32, "STAGES": 3, "num_warps": 8}


def attend_prefill_twin(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    offsets: Tensor,
    longest: int,
    scale: float,
    out: Tensor | None = None,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    out = torch.empty_like(q) if out is None else out
    bounds = offsets.tolist()
    for row, (line, length) in enumerate(zip(contexts.lines.tolist(), contexts.lengths.tolist(), strict=True)):
        tokens = slice(bounds[row], bounds[row + 1])
        k, v = (gather(pool, contexts, line, 0, length) for pool in (keys, values))
        out[tokens] = attention_twin(q[tokens], k, v, scale, window, softcap)[0].to(out.dtype)
    return out
