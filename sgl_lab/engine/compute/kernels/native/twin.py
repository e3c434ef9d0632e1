"""The arithmetic of the native linears in plain torch: the reference of tests, and the fallback
without a compiler.

Activations are rounded as in the kernels (8 bits with a scale for each 32, or bf16). The rest is
float32, so that only the order of sums differs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..linear import Linear
from .pack import GROUP


def round_to_8_bits(x: Tensor) -> Tensor:
    """x [..., n] with each group of 32 values of a row rounded to 255 steps between plus and minus
    the group's largest magnitude.
    """
    groups = x.view(*x.shape[:-1], -1, GROUP)
    peak = groups.abs().amax(-1, keepdim=True)
    quants = (groups * (127 / peak).where(peak > 0, 0)).round()
    return (quants * (peak / 127)).view(x.shape)


class RoundedLinear(Linear):
    """A float32 linear whose inputs are rounded to 8 bits first."""

    __slots__ = ()

    def inputs(self, x: Tensor) -> Tensor:
        return round_to_8_bits(x)

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(self.inputs(x))


class Bf16Linear(Linear):
    """A float32 linear whose inputs are rounded to bf16 first."""

    __slots__ = ()

    def inputs(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).float()

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(self.inputs(x))
