"""Reads keys and values through page tables: in a kernel, and in the plain torch that kernels are
compared with.

`contexts` describes the layout. `group` consecutive query heads share a KV head.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .contexts import Contexts

LOG2_E = math.log2(math.e)
"""Kernels use powers of two, for which cards have an instruction: scores are multiplied by this
first.
"""


@triton.jit
def slots_at(table, line, width, positions, inside, PAGE_SIZE: tl.constexpr):
    """Slots of the positions of a context (int64: a pool has more than 2**31 numbers). Pages are
    looked up where `inside`.
    """
    pages = tl.load(table + line.to(tl.int64) * width + positions // PAGE_SIZE, mask=inside, other=0)
    return pages.to(tl.int64) * PAGE_SIZE + positions % PAGE_SIZE


@triton.jit
def read_slots(pool, slots, inside, head, KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """[slots, BLOCK_D] of one KV head, with zeros beyond its DIM and where not `inside`."""
    dims = tl.arange(0, BLOCK_D)
    at = slots[:, None] * (KV_HEADS * DIM) + head * DIM + dims[None, :]
    mask = inside[:, None] if DIM == BLOCK_D else inside[:, None] & (dims < DIM)[None, :]
    return tl.load(pool + at, mask=mask, other=0.0)


@triton.jit
def capped(scores, CAP: tl.constexpr):
    """Scores that were divided by their cap, capped softly: CAP * tanh(scores), a tanh by an
    exponential.
    """
    return CAP * (1 - 2 / (1 + tl.exp2(scores * 2.8853900817779268)))


@triton.jit
def attend(
    acc, top, total, queries, last_seen, keys, values, table, line, width, head, start, stop, scale,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr, WINDOW: tl.constexpr = 0, CAP: tl.constexpr = 0.0,
):  # fmt: skip
    """The running output, maximum and sum of a tile of queries after the keys from `start` to
    `stop`.

    If not MASKED, all queries see all of the keys, which are whole blocks. Otherwise each query
    sees keys up to its `last_seen`, and with a WINDOW only that many of them. With a CAP, scores are
    capped softly; see `kinds`.
    """
    for block in tl.range(start, stop, BLOCK_N, num_stages=STAGES):
        positions = block + tl.arange(0, BLOCK_N)
        inside = positions < stop if MASKED else tl.full([BLOCK_N], 1, tl.int1)
        slots = slots_at(table, line, width, positions, inside, PAGE_SIZE)
        k = read_slots(keys, slots, inside, head, KV_HEADS, DIM, BLOCK_D)
        scores = tl.dot(queries, tl.trans(k), input_precision="ieee") * scale
        if CAP > 0:
            scores = capped(scores, CAP)
        if MASKED:
            scores = tl.where(positions[None, :] <= last_seen[:, None], scores, float("-inf"))
        if WINDOW > 0:
            scores = tl.where(positions[None, :] > last_seen[:, None] - WINDOW, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        if WINDOW > 0:  # a query may see nothing of a block
            new_top = tl.maximum(new_top, -1e30)
        keep, weights = tl.exp2(top - new_top), tl.exp2(scores - new_top[:, None])
        v = read_slots(values, slots, inside, head, KV_HEADS, DIM, BLOCK_D)
        total = total * keep + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * keep[:, None], input_precision="ieee")
        top = new_top
    return acc, top, total


def kinds(scale: float, window: int, softcap: float) -> tuple[float, dict[str, float]]:
    """What kernels are given: the factor of scores, and WINDOW and CAP. Scores are powers of two;
    those that are capped are divided by their cap first.
    """
    if softcap:
        return scale / softcap, {"WINDOW": window, "CAP": softcap * LOG2_E}
    return scale * LOG2_E, {"WINDOW": window, "CAP": 0.0}


def padded(size: int) -> int:
    """`size` rounded up to a side of a tile: a power of two, and at least 16 in products."""
    return max(16, 1 << (size - 1).bit_length())


def gather(pool: Tensor, contexts: Contexts, line: int, start: int, stop: int) -> Tensor:
    """[stop - start, kv_heads, dim]: positions `start` to `stop` of the context in a line of the
    table.
    """
    positions = torch.arange(start, stop, device=pool.device)
    pages = contexts.table[line].long()[positions // contexts.page_size]
    return pool[pages * contexts.page_size + positions % contexts.page_size]


def attention_twin(q: Tensor, keys: Tensor, values: Tensor, scale: float, window: int = 0, softcap: float = 0.0) -> tuple[Tensor, Tensor]:
    """Attention of the last tokens of one context, in float32, with the values that merging needs.

    q             [n, heads, dim]            the last n tokens, each of which sees itself and what
                  is before it
    keys, values  [length, kv_heads, dim]
    returns       [n, heads, dim] and [n, heads]: the logarithm of the sum of the exponentials of
                  the scores
    """
    n, heads, dim = q.shape
    length, kv_heads, _ = keys.shape
    grouped = q.float().view(n, kv_heads, heads // kv_heads, dim)
    scores = torch.einsum("nkgd,lkd->nkgl", grouped, keys.float()) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    hidden = torch.ones(n, length, dtype=torch.bool, device=q.device).triu(length - n + 1)
    if window:
        hidden |= torch.ones_like(hidden).tril(length - n - window)
    scores = scores.masked_fill(hidden[:, None, None], -math.inf)
    sums = scores.logsumexp(-1)
    outputs = torch.einsum("nkgl,lkd->nkgd", (scores - sums[..., None]).exp(), values.float())
    return outputs.reshape(q.shape), sums.view(n, heads)
