"""Attention of rows of one token each, over paged keys and values.

A row's context is cut into splits, to which different programs attend. Each produces a partial
output with the log-sum-exp of its scores, and `merge` combines them. With one token per row, the
time goes into reading keys and values, and a single row has too few heads to fill a card: splits
keep the whole card reading.

The query heads of one KV head share a tile, so keys and values are read once for all of them. Tiles
for tensor cores have 16 rows or more. If every query head has a KV head of its own, 15 of them
would be padding, and plain sums are cheaper.

Online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867. Splits: Dao et al. 2023,
"Flash-Decoding".
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from .contexts import Contexts
from .launch import launch
from .paged import attend, attention_twin, capped, gather, kinds, padded, read_slots, slots_at
from .tuning import choice

GRAIN = 64
"""Splits are multiples of this many tokens."""
INVARIANT_GRAIN = 256
"""Tokens of a split where a token's bits may depend only on its own context."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Partial results of splits, written by `attend_splits` and by other kernels that attend to a
    part of a row's context.
    """

    outputs: Tensor
    """[rows, heads, parts, dim]"""
    sums: Tensor
    """[rows, heads, parts], float32: log2 of the sum of 2**score; not written for a part that a row
    does not have
    """

    @classmethod
    def empty(cls, q: Tensor, n_parts: int) -> Parts:
        rows, heads, dim = q.shape
        outputs = torch.empty(rows, heads, n_parts, dim, dtype=torch.float32, device=q.device)
        return cls(outputs, torch.empty(rows, heads, n_parts, dtype=torch.float32, device=q.device))


@triton.jit
def split_size(n_tokens, n_splits, GRAIN: tl.constexpr):
    """Tokens of each of at most `n_splits` splits of `n_tokens`."""
    return tl.cdiv(tl.maximum(tl.cdiv(n_tokens, n_splits), 1), GRAIN) * GRAIN


@triton.jit
def _begin(lengths, first, row, AFTER: tl.constexpr, WINDOW: tl.constexpr):
    """The first position that a row reads itself."""
    begin = tl.load(first + row) if AFTER else 0
    return tl.maximum(begin, tl.load(lengths + row) - WINDOW) if WINDOW > 0 else begin


@triton.jit
def _span(lengths, first, row, split, n_splits, AFTER: tl.constexpr, GRAIN: tl.constexpr, WINDOW: tl.constexpr):
    """Where a row's split starts and stops."""
    begin = _begin(lengths, first, row, AFTER, WINDOW)
    length = tl.load(lengths + row)
    size = split_size(length - begin, n_splits, GRAIN)
    start = begin + split * size
    return start, tl.minimum(start + size, length)


@triton.jit(do_not_specialize=["width", "n_splits", "n_parts"])
def _decode_head(
    q, keys, values, table, lines, lengths, first, outputs, sums, width, n_splits, n_parts, scale,
    HEADS: tl.constexpr, DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, AFTER: tl.constexpr, GRAIN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """One head of one split, where every query head has its own KV head."""
    head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    start, stop = _span(lengths, first, row, split, n_splits, AFTER, GRAIN, WINDOW)
    if (start >= stop) & (n_splits > 1):
        return
    line = tl.load(lines + row)
    dims = tl.arange(0, BLOCK_D)
    query = tl.load(q + (row * HEADS + head) * DIM + dims, mask=dims < DIM, other=0.0).to(tl.float32) * scale
    top, total, acc = float("-inf"), 0.0, tl.zeros([BLOCK_D], tl.float32)
    for block in tl.range(start, stop, BLOCK_N, num_stages=STAGES):
        positions = block + tl.arange(0, BLOCK_N)
        inside = positions < stop
        slots = slots_at(table, line, width, positions, inside, PAGE_SIZE)
        k = read_slots(keys, slots, inside, head, HEADS, DIM, BLOCK_D)
        v = read_slots(values, slots, inside, head, HEADS, DIM, BLOCK_D)
        found = tl.sum(query[None, :] * k.to(tl.float32), 1)
        if CAP > 0:
            found = capped(found, CAP)
        scores = tl.where(inside, found, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 0))
        keep, weights = tl.exp2(top - new_top), tl.exp2(scores - new_top)
        total = total * keep + tl.sum(weights, 0)
        acc = acc * keep + tl.sum(weights[:, None] * v.to(tl.float32), 0)
        top = new_top
    part = (row * HEADS + head) * n_parts + split
    tl.store(outputs + part * DIM + dims, acc / tl.maximum(total, 1e-30), mask=dims < DIM)
    tl.store(sums + part, top + tl.log2(tl.maximum(total, 1e-30)))


@triton.jit(do_not_specialize=["width", "n_splits", "n_parts"])
def _decode_group(
    q, keys, values, table, lines, lengths, first, outputs, sums, width, n_splits, n_parts, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, AFTER: tl.constexpr, GRAIN: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """Up to ROWS query heads of one KV head, of one split."""
    head, split, row = tl.program_id(0) % KV_HEADS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    start, stop = _span(lengths, first, row, split, n_splits, AFTER, GRAIN, WINDOW)
    if (start >= stop) & (n_splits > 1):
        return
    line = tl.load(lines + row)
    dims = tl.arange(0, BLOCK_D)
    members = tl.program_id(0) // KV_HEADS * ROWS + tl.arange(0, ROWS)
    heads = row * (KV_HEADS * GROUP) + head * GROUP + members
    mask = (members < GROUP)[:, None] & (dims < DIM)[None, :]
    queries = tl.load(q + heads[:, None] * DIM + dims[None, :], mask=mask, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total, acc = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, BLOCK_D], tl.float32)
    last_seen = tl.full([ROWS], stop - 1, tl.int32)
    acc, top, total = attend(
        acc, top, total, queries, last_seen, keys, values, table, line, width, head, start, stop, scale,
        KV_HEADS, DIM, PAGE_SIZE, True, BLOCK_N, BLOCK_D, STAGES, 0, CAP,
    )  # fmt: skip
    total = tl.maximum(total, 1e-30)
    parts = heads * n_parts + split
    tl.store(outputs + parts[:, None] * DIM + dims[None, :], acc / total[:, None], mask=mask)
    tl.store(sums + parts, top + tl.log2(total), mask=members < GROUP)


@triton.jit(do_not_specialize=["n_splits", "n_parts"])
def _merge(
    outputs, sums, lengths, first, out, n_splits, n_parts,
    HEADS: tl.constexpr, DIM: tl.constexpr, AFTER: tl.constexpr, GRAIN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
    WINDOW: tl.constexpr,
):  # fmt: skip
    """The parts of one head of one row. The first `n_splits` are its own; the others belong to its
    group's prefix.
    """
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    n_before = tl.load(first + row) if AFTER else 0
    n_after = tl.load(lengths + row) - _begin(lengths, first, row, AFTER, WINDOW)
    n_own = tl.cdiv(n_after, split_size(n_after, n_splits, GRAIN))
    n_used = n_own + (tl.cdiv(n_before, split_size(n_before, n_splits, GRAIN)) if AFTER else 0)
    dims = tl.arange(0, BLOCK_D)
    top, total, acc = float("-inf"), 0.0, tl.zeros([BLOCK_D], tl.float32)
    for block in range(0, n_used, BLOCK_P):
        index = block + tl.arange(0, BLOCK_P)
        used = index < n_used
        parts = (row * HEADS + head) * n_parts + tl.where(index < n_own, index, index - n_own + n_splits)
        found = tl.load(sums + parts, mask=used, other=float("-inf"))
        mask = used[:, None] & (dims < DIM)[None, :]
        tile = tl.load(outputs + parts[:, None] * DIM + dims[None, :], mask=mask, other=0.0)
        new_top = tl.maximum(top, tl.max(found, 0))
        keep, weights = tl.exp2(top - new_top), tl.exp2(found - new_top)
        total = total * keep + tl.sum(weights, 0)
        acc = acc * keep + tl.sum(weights[:, None] * tile, 0)
        top = new_top
    tl.store(out + (row * HEADS + head) * DIM + dims, acc / tl.maximum(total, 1e-30), mask=dims < DIM)


def attend_splits(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    first: Tensor | None,
    scale: float,
    parts: Parts,
    n_splits: int,
    grain: int,
    window: int = 0,
    softcap: float = 0.0,
) -> None:
    """Fill the first `n_splits` parts of every row from its context, from position `first[row]` on."""
    rows, heads, dim = q.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    tensors = (q, keys, values, contexts.table, contexts.lines, contexts.lengths, contexts.lengths if first is None else first)
    factor, how = kinds(scale, window, softcap)
    numbers = (contexts.table.shape[1], n_splits, parts.sums.shape[2], factor)
    sizes = {"DIM": dim, "PAGE_SIZE": contexts.page_size, "AFTER": first is not None, "GRAIN": grain, "BLOCK_D": padded(dim)} | how
    tile = 1 if group == 1 else min(64, padded(group))
    blocks = choice("decode", (group, dim, q.element_size()), default_blocks(tile, padded(dim), q.element_size()))
    args = (*tensors, parts.outputs, parts.sums, *numbers)
    if group == 1:
        launch(_decode_head, (heads, n_splits, rows), *args, HEADS=heads, **sizes, **blocks)
    else:
        grid = (kv_heads * triton.cdiv(group, tile), n_splits, rows)
        launch(_decode_group, grid, *args, KV_HEADS=kv_heads, GROUP=group, ROWS=tile, **sizes, **blocks)


def default_blocks(rows: int, block_d: int, itemsize: int) -> dict[str, int]:
    """For tiles of `rows` queries: two blocks of keys, of up to 16 KiB, are read ahead of use, and
    page ids ahead of them.

    With queries of more than 16 KiB it is one block, so that everything fits into the 99 KiB of a
    consumer card.
    """
    block_n, queries = max(16, min(64, 8192 // block_d, 16384 // block_d // itemsize)), rows * block_d * itemsize
    return {"BLOCK_N": block_n, "STAGES": 3 if rows == 1 or queries > 16384 else 5, "num_warps": 8 if queries > 4096 else 4}


def merge(parts: Parts, contexts: Contexts, first: Tensor | None, n_splits: int, grain: int, out: Tensor, window: int = 0) -> None:
    """Sum the parts of every row: its own, then those of its prefix of `first[row]` tokens in the
    same number of splits.
    """
    rows, heads, dim = out.shape
    tensors = (parts.outputs, parts.sums, contexts.lengths, contexts.lengths if first is None else first, out)
    constants = {"HEADS": heads, "DIM": dim, "AFTER": first is not None, "GRAIN": grain, "BLOCK_P": 16, "BLOCK_D": padded(dim)}
    constants |= {"WINDOW": window}
    launch(_merge, (heads, rows), *tensors, n_splits, parts.sums.shape[2], **constants, num_warps=4)


def attend_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    scale: float,
    *,
    n_splits: int,
    out: Tensor | None = None,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """One new token a row attends to the whole of its context, or to the last `window` tokens of it.

    q             [rows, heads, dim]
    keys, values  [slots, kv_heads, dim], those of the new tokens written
    n_splits      programs that share a row's context at most; see `splits_for`
    softcap       scores become softcap * tanh(score / softcap); 0: they stay
    returns       [rows, heads, dim]; zeros for a row of length 0

    Traffic: 2 * kv_heads * dim * itemsize bytes a token of context, 4 a page; with more than one split also
    8 * heads * (dim + 1) bytes a part, of which a row has no more than its length / 64.
    """
    out = torch.empty_like(q) if out is None else out
    if n_splits == 1:
        whole = Parts(out[:, :, None], torch.empty(*q.shape[:2], 1, dtype=torch.float32, device=q.device))
        attend_splits(q, keys, values, contexts, None, scale, whole, 1, GRAIN, window, softcap)
        return out
    parts = Parts.empty(q, n_splits)
    attend_splits(q, keys, values, contexts, None, scale, parts, n_splits, GRAIN, window, softcap)
    merge(parts, contexts, None, n_splits, GRAIN, out, window)
    return out


def attend_decode_twin(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    scale: float,
    *,
    n_splits: int,
    out: Tensor | None = None,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    out = torch.zeros_like(q) if out is None else out.zero_()
    for row, (line, length) in enumerate(zip(contexts.lines.tolist(), contexts.lengths.tolist(), strict=True)):
        if length:
            k, v = (gather(pool, contexts, line, 0, length) for pool in (keys, values))
            out[row] = attention_twin(q[row : row + 1], k, v, scale, window, softcap)[0][0]
    return out


def attend_invariant(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    scale: float,
    *,
    parts_at_once: int = 1 << 24,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """`attend_decode` with splits of 256 tokens: a token's bits depend only on its query and its
    own context.

    Every token of a step is a row here, also those of a prompt, whose lengths count up. Neither the
    other rows nor the pages nor the width of the table change a bit. A prompt may have many partial
    results: at most `parts_at_once` numbers (or those of 16 rows, which keeps tensors aligned) are
    kept at a time.
    """
    rows, heads, dim = q.shape
    n_splits = triton.cdiv(contexts.table.shape[1] * contexts.page_size, INVARIANT_GRAIN)
    at_once = max(16, parts_at_once // (heads * n_splits * (dim + 1)) // 16 * 16)
    out = torch.empty_like(q)
    for start in range(0, rows, at_once):
        some = slice(start, start + at_once)
        these = replace(contexts, lines=contexts.lines[some], lengths=contexts.lengths[some])
        parts = Parts.empty(q[some], n_splits)
        attend_splits(q[some], keys, values, these, None, scale, parts, n_splits, INVARIANT_GRAIN, window, softcap)
        merge(parts, these, None, n_splits, INVARIANT_GRAIN, out[some], window)
    return out


def attend_invariant_twin(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Contexts,
    scale: float,
    *,
    parts_at_once: int = 1 << 24,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    return attend_decode_twin(q, keys, values, contexts, scale, n_splits=1, window=window, softcap=softcap)


def splits_for(rows: int, kv_heads: int, longest: int, processors: int) -> int:
    """How many splits keep a card's `processors` busy with `rows` contexts of up to `longest`
    tokens.

    Three programs fit a multiprocessor. If that takes four splits or more, all run at once.
    Otherwise there are so many short programs that the last ones matter little.
    """
    lone = rows * kv_heads
    wanted = 3 * processors // lone if 4 * lone <= 3 * processors else -(-16 * processors // lone)
    return max(1, min(wanted, longest // 128))
