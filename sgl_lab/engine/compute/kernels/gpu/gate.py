"""The gated unit between the two halves of a Llama MLP (SwiGLU: Shazeer 2020, arXiv:2002.05202)."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import torch.nn.functional as functional
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .tuning import choice


@triton.jit
def silu_mul_kernel(gate_up_ptr, y_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    gate = tl.load(gate_up_ptr + row * 2 * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * WIDTH + WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * WIDTH + columns, (gate * tl.sigmoid(gate) * up).to(y_ptr.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, float32 inside.

    gate_up  [n, 2 * f]  bf16, fp16 or fp32; gate is the first half
    returns  [n, f]      as gate_up

    Traffic: `3 * n * f` numbers.
    """
    n, width = gate_up.shape[0], gate_up.shape[1] // 2
    y = gate_up.new_empty(n, width)
    config = choice("silu_mul", (width,), {"BLOCK": 1024, "num_warps": 4})
    launch(silu_mul_kernel, (n, triton.cdiv(width, config["BLOCK"])), gate_up, y, WIDTH=width, **config)
    return y


def silu_mul_twin(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (functional.silu(gate) * up).to(gate_up.dtype)
