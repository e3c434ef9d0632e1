"""The unit between the two linears of a feed-forward, gated (Shazeer 2020, arXiv:2002.05202) or not."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..activations import ACTIVATIONS
from .launch import launch
from .tuning import choice


@triton.jit
def activate_kernel(up_ptr, y_ptr, WIDTH: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    stride: tl.constexpr = 2 * WIDTH if GATED else WIDTH
    x = tl.load(up_ptr + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    if KIND == "silu":
        y = x * tl.sigmoid(x)
    elif KIND == "gelu":
        y = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        y = x * tl.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))
    elif KIND == "relu":
        y = tl.where(x > 0, x, 0.0)
    else:
        y = tl.where(x > 0, x * x, 0.0)
    if GATED:
        y = y * tl.load(up_ptr + row * stride + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=inside)


def activate(up: Tensor, kind: str = "silu", *, is_gated: bool = True) -> Tensor:
    """activation(gate) * up, or activation(up); float32 inside.

    up       [n, 2 * f]  bf16, fp16 or fp32; gate is the first half; [n, f] without one
    kind     silu, gelu, gelu_tanh, relu or relu2
    returns  [n, f]      as up

    Traffic: `3 * n * f` numbers.
    """
    n, width = up.shape[0], up.shape[1] // (2 if is_gated else 1)
    y = up.new_empty(n, width)
    config = choice("activate", (width,), {"BLOCK": 1024, "num_warps": 4})
    launch(activate_kernel, (n, triton.cdiv(width, config["BLOCK"])), up, y, WIDTH=width, KIND=kind, GATED=is_gated, **config)
    return y


def activate_twin(up: Tensor, kind: str = "silu", *, is_gated: bool = True) -> Tensor:
    if not is_gated:
        return ACTIVATIONS[kind](up.float()).to(up.dtype)
    gate, rest = up.float().chunk(2, dim=-1)
    return (ACTIVATIONS[kind](gate) * rest).to(up.dtype)
