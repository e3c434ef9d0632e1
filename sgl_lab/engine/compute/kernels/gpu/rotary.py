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
    qkv_ptr, positions_ptr, slots_ptr, cos_ptr, sin_ptr, q_ptr, keys_ptr, values_ptr,
    Q_HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_HEADS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS))[:, None]
    pair = tl.arange(0, BLOCK_HALF)[None, :]
    heads: tl.constexpr = Q_HEADS + 2 * KV_HEADS
    inside = (head < heads) & (pair < HALF)

    at = qkv_ptr + (token * heads + head) * 2 * HALF + pair
    low = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    angle = tl.load(positions_ptr + token).to(tl.int64) * HALF + pair
    cos = tl.load(cos_ptr + angle, mask=pair < HALF, other=1.0)
    sin = tl.load(sin_ptr + angle, mask=pair < HALF, other=0.0)
    turns = head < Q_HEADS + KV_HEADS  # values do not
    first = tl.where(turns, low * cos - high * sin, low).to(q_ptr.dtype.element_ty)
    second = tl.where(turns, high * cos + low * sin, high).to(q_ptr.dtype.element_ty)

    to_q = q_ptr + (token * Q_HEADS + head) * 2 * HALF + pair
    is_q = inside & (head < Q_HEADS)
    tl.store(to_q, first, mask=is_q)
    tl.store(to_q + HALF, second, mask=is_q)
    slot = tl.load(slots_ptr + token).to(tl.int64)
    line = slot * KV_HEADS - Q_HEADS + head
    is_k = inside & (head >= Q_HEADS) & turns & (slot >= 0)
    to_k = keys_ptr + line * 2 * HALF + pair
    tl.store(to_k, first, mask=is_k)
    tl.store(to_k + HALF, second, mask=is_k)
    is_v = inside & (head >= Q_HEADS + KV_HEADS) & (slot >= 0)
    to_v = values_ptr + (line - KV_HEADS) * 2 * HALF + pair
    tl.store(to_v, first, mask=is_v)
    tl.store(to_v + HALF, second, mask=is_v)


def rotate_and_write(
    qkv: Tensor, positions: Tensor, slots: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, n_heads: int
) -> Tensor:
    """Turn q and k by their positions, write k and v to their slots, return q.

    qkv           [n, (heads + 2 * kv_heads) * dim]  bf16, fp16 or fp32
    positions     [n]                                int32
    slots         [n]                                int32; below 0: this token's k and v are written nowhere
    rotation      [max_positions, dim / 2] twice     float32: cosines and sines of position * inverse frequency
    keys, values  [slots, kv_heads, dim]             as qkv, of one layer; two tokens never have the same slot
    returns       [n, heads, dim]                    as qkv

    Traffic: qkv once in, once out; `2 * n * (heads + 2 * kv_heads) * dim` numbers and `4 * dim` bytes of rotation a token.
    """
    n, (kv_heads, dim) = len(qkv), keys.shape[1:]
    q = qkv.new_empty(n, n_heads, dim)
    config = choice("rotate_and_write", (n_heads, kv_heads, dim), {"BLOCK_HEADS": 8, "num_warps": 4})
    grid = (n, triton.cdiv(n_heads + 2 * kv_heads, config["BLOCK_HEADS"]))
    sizes = {"Q_HEADS": n_heads, "KV_HEADS": kv_heads, "HALF": dim // 2, "BLOCK_HALF": triton.next_power_of_2(dim // 2)}
    launch(rotate_and_write_kernel, grid, qkv, positions, slots, *rotation, q, keys, values, **sizes, **config)
    return q


def rotate_and_write_twin(
    qkv: Tensor, positions: Tensor, slots: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, n_heads: int
) -> Tensor:
    kv_heads, dim = keys.shape[1:]
    heads = qkv.view(len(qkv), -1, dim)
    cos, sin = (table[positions.long()].unsqueeze(1) for table in rotation)
    low, high = heads[:, : n_heads + kv_heads].float().chunk(2, dim=-1)
    turned = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(qkv.dtype)
    written = slots >= 0
    keys[slots[written].long()] = turned[written, n_heads:]
    values[slots[written].long()] = heads[written, n_heads + kv_heads :]
    return turned[:, :n_heads].contiguous()
