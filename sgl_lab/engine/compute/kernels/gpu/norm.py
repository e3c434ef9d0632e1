"""RMS norm, alone and fused with the residual sum before it (Zhang & Sennrich 2019, arXiv:1910.07467).

One program a row and one layout whatever the number of rows: a row's bits depend on the row alone.
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
def rms_norm_kernel(x_ptr, residual_ptr, weight_ptr, y_ptr, eps, HIDDEN: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    at = tl.program_id(0).to(tl.int64) * HIDDEN + columns
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        total = x + tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        rounded = total.to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptr + at, rounded, mask=inside)
        x = rounded.to(tl.float32)  # what a norm of its own would have read
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / HIDDEN + eps)
    tl.store(y_ptr + at, (x * scale * weight).to(y_ptr.dtype.element_ty), mask=inside)


def _norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, add: bool) -> Tensor:
    n, hidden = x.shape
    y = torch.empty_like(x)
    block = triton.next_power_of_2(hidden)
    # a thread holds 8 numbers of two bytes: one load of 16 bytes; more only of rows longer than 4096
    config = choice("rms_norm", (hidden,), {"num_warps": min(16, max(1, block // 256))})
    launch(rms_norm_kernel, (n,), x, residual, weight, y, eps, HIDDEN=hidden, ADD=add, BLOCK=block, **config)
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * weight, a row at a time; float32 inside, rounded once.

    x       [n, h]  bf16, fp16 or fp32
    weight  [h]     the same or float32
    returns [n, h]  as x

    Traffic: x once in, y once out; `2 * n * h` numbers (the weight stays in L2).
    """
    return _norm(x, x, weight, eps, add=False)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """residual += x in place, then the norm of the rounded sum.

    x, residual  [n, h]  bf16, fp16 or fp32
    weight       [h]     the same or float32
    returns      [n, h]  as x

    Traffic: x and the residual in, the residual and y out; `4 * n * h` numbers, where two kernels
    move 5.
    """
    return _norm(x, residual, weight, eps, add=True)


def rms_norm_twin(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def add_rms_norm_twin(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    residual += x
    return rms_norm_twin(residual, weight, eps)
