"""Rotary position embedding, and keys and values to their slots, in one pass over a step's q, k and v.

The two halves of a head turn against each other, as in Llama (Su et al. 2021, arXiv:2104.09864).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .tuning import choice


@triton.jit
def rotate_and_write_kernel(
    qkv_ptr, positions_ptr, slots_ptr, cos_ptr, sin_ptr, q_ptr, keys_ptr, values_ptr, q_norm_ptr, k_norm_ptr, eps,
    Q_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr, NORM: tl.constexpr,
    BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr, BLOCK_HEADS: tl.constexpr,
):  # fmt: skip
    """HALF pairs of a head turn, its REST does not."""
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS))[:, None]
    pair = tl.arange(0, BLOCK_HALF)[None, :]
    heads: tl.constexpr = Q_HEADS + 2 * KV_HEADS
    inside = (head < heads) & (pair < HALF)

    dim: tl.constexpr = 2 * HALF + REST
    at = qkv_ptr + (token * heads + head) * dim + pair
    low = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    turns = head < Q_HEADS + KV_HEADS  # values do not
    if REST > 0:
        other = tl.arange(0, BLOCK_REST)[None, :]
        within = (head < heads) & (other < REST)
        rest = tl.load(qkv_ptr + (token * heads + head) * dim + 2 * HALF + other, mask=within, other=0.0).to(tl.float32)
    if NORM:
        squares = tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)
        if REST > 0:
            squares += tl.sum(rest * rest, axis=1)
        factor = tl.where(turns, tl.rsqrt(squares / dim + eps)[:, None], 1.0)
        is_query = head < Q_HEADS
        low *= factor * _weights(q_norm_ptr, k_norm_ptr, is_query, turns, pair, pair < HALF)
        high *= factor * _weights(q_norm_ptr, k_norm_ptr, is_query, turns, pair + HALF, pair < HALF)
        if REST > 0:
            rest *= factor * _weights(q_norm_ptr, k_norm_ptr, is_query, turns, other + 2 * HALF, other < REST)
    angle = tl.load(positions_ptr + token).to(tl.int64) * HALF + pair
    cos = tl.load(cos_ptr + angle, mask=pair < HALF, other=1.0)
    sin = tl.load(sin_ptr + angle, mask=pair < HALF, other=0.0)
    first = tl.where(turns, low * cos - high * sin, low).to(q_ptr.dtype.element_ty)
    second = tl.where(turns, high * cos + low * sin, high).to(q_ptr.dtype.element_ty)

    to_q = q_ptr + (token * Q_HEADS + head) * dim + pair
    is_q = inside & (head < Q_HEADS)
    tl.store(to_q, first, mask=is_q)
    tl.store(to_q + HALF, second, mask=is_q)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    line = slot * KV_HEADS - Q_HEADS + head
    is_k = inside & (head >= Q_HEADS) & turns & (slot >= 0)
    to_k = keys_ptr + line * dim + pair
    tl.store(to_k, first, mask=is_k)
    tl.store(to_k + HALF, second, mask=is_k)
    is_v = inside & (head >= Q_HEADS + KV_HEADS) & (slot >= 0)
    to_v = values_ptr + (line - KV_HEADS) * dim + pair
    tl.store(to_v, first, mask=is_v)
    tl.store(to_v + HALF, second, mask=is_v)
    if REST > 0:
        kept = rest.to(q_ptr.dtype.element_ty)
        place = 2 * HALF + other
        tl.store(q_ptr + (token * Q_HEADS + head) * dim + place, kept, mask=within & (head < Q_HEADS))
        tl.store(keys_ptr + line * dim + place, kept, mask=within & (head >= Q_HEADS) & turns & (slot >= 0))
        tl.store(values_ptr + (line - KV_HEADS) * dim + place, kept, mask=within & (head >= Q_HEADS + KV_HEADS) & (slot >= 0))


@triton.jit
def _weights(q_norm_ptr, k_norm_ptr, is_query, turns, at, inside):
    """[heads, columns]: those of the norm of each head; 1 for values."""
    q, k = tl.load(q_norm_ptr + at, mask=inside, other=0.0), tl.load(k_norm_ptr + at, mask=inside, other=0.0)
    return tl.where(turns, tl.where(is_query, q.to(tl.float32), k.to(tl.float32)), 1.0)


def rotate_and_write(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    rotation: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
    n_heads: int,
    norms: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:
    """Turn q and k by their positions, write k and v to their slots, return q.

    qkv           [n, (heads + 2 * kv_heads) * dim], bf16, fp16 or fp32
    positions     [n], int32
    slots         [n], int32; below 0: this token's k and v are written nowhere
    rotation      [max_positions, turning / 2] twice, float32: cosines and sines of position *
                  inverse frequency, for the first dimensions of a head; the others do not turn
    norms         [dim] twice, and a number: weights and epsilon of RMS norms of each head of q and
                  k, before they turn
    keys, values  [slots, kv_heads, dim], as qkv, of one layer; two tokens never have the same slot
    returns       [n, heads, dim], as qkv

    Traffic: qkv once in, once out; `2 * n * (heads + 2 * kv_heads) * dim` numbers, and `4 * dim`
    bytes of rotation a token.
    """
    n, (kv_heads, dim) = len(qkv), keys.shape[1:]
    q = qkv.new_empty(n, n_heads, dim)
    config = choice("rotate_and_write", (n_heads, kv_heads, dim), {"BLOCK_HEADS": 8, "num_warps": 4})
    grid = (n, triton.cdiv(n_heads + 2 * kv_heads, config["BLOCK_HEADS"]))
    half = rotation[0].shape[1]
    rest = dim - 2 * half
    sizes = {"Q_HEADS": n_heads, "KV_HEADS": kv_heads, "HALF": half, "REST": rest, "NORM": norms is not None}
    blocks = {"BLOCK_HALF": triton.next_power_of_2(max(1, half)), "BLOCK_REST": triton.next_power_of_2(max(1, rest))}
    weights = (q, q, 0.0) if norms is None else norms
    launch(rotate_and_write_kernel, grid, qkv, positions, slots, *rotation, q, keys, values, *weights, **sizes, **blocks, **config)
    return q


def rotate_and_write_twin(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    rotation: tuple[Tensor, Tensor],
    keys: Tensor,
    values: Tensor,
    n_heads: int,
    norms: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:
    kv_heads, dim = keys.shape[1:]
    heads = qkv.view(len(qkv), -1, dim)
    cos, sin = (table[positions.long()].unsqueeze(1) for table in rotation)
    half = cos.shape[-1]
    wide = heads[:, : n_heads + kv_heads].float()
    if norms is not None:
        q_norm, k_norm, eps = norms
        weights = torch.cat((q_norm.float().expand(n_heads, dim), k_norm.float().expand(kv_heads, dim)))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weights
    low, high, rest = wide.split((half, half, dim - 2 * half), dim=-1)
    turned = torch.cat((low * cos - high * sin, high * cos + low * sin, rest), dim=-1).to(qkv.dtype)
    written = slots >= 0
    keys[slots[written].long()] = turned[written, n_heads:]
    values[slots[written].long()] = heads[written, n_heads + kv_heads :]
    return turned[:, :n_heads].contiguous()
