"""A mixture of experts: the selection of experts, the products with each one's weight, and their
weighted sum.

Pairs of a token and one of its experts are numbered token by token. A product processes the pairs
expert by expert, so each weight is read once for all its tokens (Gale et al. 2022, "MegaBlocks",
arXiv:2211.15841). It reads its input at the token's position and writes its output at the pair's
position: nothing is moved in between. Grids depend on sizes alone, and a token's bits on that token
alone.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .linear import dense_tile, operand_type, tile
from .tuning import choice


@dataclass(frozen=True, slots=True)
class Routing:
    """The assignment of n tokens to k experts each."""

    weights: Tensor
    """[n, k], float32: of each expert in the token's sum"""
    experts: Tensor
    """[n, k], int32: the best first"""
    order: Tensor
    """[n * k], int32: pairs `token * k + choice`, those of an expert side by side"""
    first: Tensor
    """[experts + 1], int32: the beginning of an expert's pairs in `order`"""


@triton.jit
def route_kernel(
    logits_ptr, weights_ptr, experts_ptr, EXPERTS: tl.constexpr, TAKE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
    NORMALISED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK_E)
    logits = tl.load(logits_ptr + row * EXPERTS + expert, mask=expert < EXPERTS, other=float("-inf")).to(tl.float32)
    place = tl.arange(0, BLOCK_K)
    tops = tl.full((BLOCK_K,), float("-inf"), tl.float32)
    chosen = tl.zeros((BLOCK_K,), tl.int32)
    left = expert < EXPERTS
    for turn in tl.static_range(TAKE):
        top = tl.max(tl.where(left, logits, float("-inf")), axis=0)
        best = tl.min(tl.where(left & (logits == top), expert, EXPERTS - 1), axis=0)  # of equals the first
        tops = tl.where(place == turn, top, tops)
        chosen = tl.where(place == turn, best, chosen)
        left = left & (expert != best)
    shares = tl.exp(tops - tl.max(tops, axis=0))
    total = tl.sum(shares, axis=0) if NORMALISED else tl.sum(tl.exp(logits - tl.max(tops, axis=0)), axis=0)
    tl.store(weights_ptr + row * TAKE + place, shares / total, mask=place < TAKE)
    tl.store(experts_ptr + row * TAKE + place, chosen, mask=place < TAKE)


def route(logits: Tensor, k: int, *, is_normalised: bool = True) -> Routing:
    """The k largest logits of each token, and their softmax among themselves or, not normalised, among all.

    logits  [n, experts]  any float type

    Traffic: the logits once, `8 * n * k` bytes of choices, and a sort of `n * k` numbers.
    """
    n, experts = logits.shape
    weights = logits.new_empty(n, k, dtype=torch.float32)
    chosen = logits.new_empty(n, k, dtype=torch.int32)
    sizes = {"EXPERTS": experts, "TAKE": k, "BLOCK_E": triton.next_power_of_2(experts), "BLOCK_K": triton.next_power_of_2(k)}
    launch(route_kernel, (n,), logits, weights, chosen, **sizes, NORMALISED=is_normalised, num_warps=1)
    return _by_expert(weights, chosen, experts)


def _by_expert(weights: Tensor, chosen: Tensor, experts: int) -> Routing:
    sorted_experts, order = chosen.view(-1).sort(stable=True)
    first = torch.searchsorted(sorted_experts, torch.arange(experts + 1, dtype=torch.int32, device=chosen.device), out_int32=True)
    return Routing(weights, chosen, order.int(), first)


def assigned(places: Tensor, count: int) -> Routing:
    """Of tokens whose expert is known: `places` is int32 [n], below `count`, or -1 for tokens that go
    to none. Products leave the rows of the latter unwritten.
    """
    return _by_expert(places.new_empty(0, 1, dtype=torch.float32), places[:, None], count)


@triton.jit
def experts_kernel(
    x_ptr, weights_ptr, order_ptr, first_ptr, y_ptr, EXPERTS: tl.constexpr, N_OUT: tl.constexpr, N_IN: tl.constexpr,
    PAIRS_TO_ROW: tl.constexpr, OPERAND: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    experts = tl.arange(0, BLOCK_E)
    begins = tl.load(first_ptr + experts, mask=experts < EXPERTS, other=0)
    counts = tl.load(first_ptr + experts + 1, mask=experts < EXPERTS, other=0) - begins
    tiles = (counts + BLOCK_M - 1) // BLOCK_M
    expert = tl.sum((tl.cumsum(tiles, axis=0) <= tl.program_id(0)).to(tl.int32), axis=0)
    if expert < EXPERTS:  # else there are fewer tiles than there might be
        begin = tl.load(first_ptr + expert)
        before = tl.sum(tl.where(experts < expert, tiles, 0), axis=0)
        at = begin + (tl.program_id(0) - before) * BLOCK_M + tl.arange(0, BLOCK_M)
        here = at < tl.load(first_ptr + expert + 1)
        pair = tl.load(order_ptr + at, mask=here, other=0)
        output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        real = output < N_OUT
        weight_ptr = weights_ptr + expert.to(tl.int64) * N_OUT * N_IN
        sums = dense_tile(x_ptr, pair // PAIRS_TO_ROW, here, weight_ptr, output, real, N_IN, OPERAND, BLOCK_M, BLOCK_N, BLOCK_K)
        to = y_ptr + pair.to(tl.int64)[:, None] * N_OUT + output[None, :]
        tl.store(to, sums.to(y_ptr.dtype.element_ty), mask=here[:, None] & real[None, :])


def experts_matmul(x: Tensor, weights: Tensor, routing: Routing) -> Tensor:
    """Each pair's row with its expert's weight, sums in float32.

    x        [n, n_in]               of tokens, or [n * k, n_in] of pairs; bf16, fp16 or fp32
    weights  [experts, n_out, n_in]  as x
    returns  [n * k, n_out]          as x, of pairs

    Traffic: the weight of each expert in use once for each 64 of its pairs, x once for each 64
    outputs (in L2, mostly), y once.
    """
    pairs, (experts, n_out, n_in) = len(routing.order), weights.shape
    y = x.new_empty(pairs, n_out)
    config = choice("experts_matmul", (experts, n_out, n_in), tile(x))
    most_tiles = pairs // config["BLOCK_M"] + min(experts, pairs)  # one of each expert is not full
    grid = (most_tiles, triton.cdiv(n_out, config["BLOCK_N"]))
    sizes = {"EXPERTS": experts, "N_OUT": n_out, "N_IN": n_in, "PAIRS_TO_ROW": pairs // max(1, len(x))}
    pointers = (x, weights, routing.order, routing.first, y)
    launch(experts_kernel, grid, *pointers, **sizes, OPERAND=operand_type(x.dtype), BLOCK_E=triton.next_power_of_2(experts), **config)
    return y


@triton.jit
def combine_kernel(pairs_ptr, weights_ptr, y_ptr, WIDTH: tl.constexpr, TAKE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    sums = tl.zeros((BLOCK,), tl.float32)
    for turn in tl.static_range(TAKE):
        pair = row * TAKE + turn
        part = tl.load(pairs_ptr + pair * WIDTH + columns, mask=inside, other=0.0)
        sums += tl.load(weights_ptr + pair) * part.to(tl.float32)
    tl.store(y_ptr + row * WIDTH + columns, sums.to(y_ptr.dtype.element_ty), mask=inside)


def combine(pairs: Tensor, routing: Routing) -> Tensor:
    """The weighted sum of the experts' results for each token, in float32, the best expert first.

    pairs    [n * k, h]  bf16, fp16 or fp32
    returns  [n, h]      as pairs

    Traffic: `n * (k + 1) * h` numbers.
    """
    (n, k), width = routing.weights.shape, pairs.shape[1]
    y = pairs.new_empty(n, width)
    config = choice("combine", (width, k), {"BLOCK": 1024, "num_warps": 4})
    launch(combine_kernel, (n, triton.cdiv(width, config["BLOCK"])), pairs, routing.weights, y, WIDTH=width, TAKE=k, **config)
    return y


def route_twin(logits: Tensor, k: int, *, is_normalised: bool = True) -> Routing:
    tops, chosen = logits.float().sort(dim=-1, descending=True, stable=True)
    weights = tops[:, :k].softmax(-1) if is_normalised else tops.softmax(-1)[:, :k].contiguous()
    return _by_expert(weights, chosen[:, :k].int().contiguous(), logits.shape[1])


def experts_matmul_twin(x: Tensor, weights: Tensor, routing: Routing) -> Tensor:
    rows = x.float().repeat_interleave(routing.experts.numel() // len(x), dim=0)
    chosen = weights.float()[routing.experts.view(-1).long()]
    return torch.einsum("pi,poi->po", rows, chosen).to(x.dtype)


def combine_twin(pairs: Tensor, routing: Routing) -> Tensor:
    parts = pairs.float().view(*routing.weights.shape, -1)
    return (parts * routing.weights[..., None]).sum(1).to(pairs.dtype)
