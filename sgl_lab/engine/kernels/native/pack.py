"""Weights as numbers in groups, and as the native linears read them.

A `Grouped` weight is what quantisation means: small integers with a scale (and a minimum) for each 32
inputs of a row. A `Packed` one is the same numbers in the order of `linear.hpp`, in which 16 (bf16: 64)
outputs lie side by side. Knows no file format and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from .build import Weight

GROUP = 32


class Kind(IntEnum):
    Q4 = 0
    Q8 = 1
    BF16 = 2


@dataclass(frozen=True, slots=True)
class Grouped:
    """weight[n, k] = scales[n, k // 32] * quants[n, k] + minimums[n, k // 32].

    quants    uint8 0..15 for Q4, int8 for Q8 [n_out, n_in]
    scales    float16 [n_out, n_in / 32]
    minimums  the same for Q4; None for Q8
    """

    kind: Kind
    quants: Tensor
    scales: Tensor
    minimums: Tensor | None = None

    def floats(self) -> Tensor:
        """float32 [n_out, n_in]"""
        n_out, n_in = self.quants.shape
        values = self.quants.view(n_out, -1, GROUP).float() * self.scales.float()[..., None]
        if self.minimums is not None:
            values += self.minimums.float()[..., None]
        return values.view(n_out, n_in)


def quantise(weight: Tensor, kind: Kind) -> Grouped:
    """Round-to-nearest of a float weight [n_out, n_in]; n_in is a multiple of 32."""
    groups = weight.float().view(len(weight), -1, GROUP)
    if kind is Kind.Q8:
        scales = (groups.abs().amax(-1) / 127).half()
        quants = (groups / scales.float().clamp(min=1e-10)[..., None]).round().clamp(-127, 127).to(torch.int8)
        return Grouped(kind, quants.view(weight.shape), scales)
    low = groups.amin(-1)
    scales = ((groups.amax(-1) - low) / 15).half()
    minimums = low.half()
    centred = groups - minimums.float()[..., None]
    quants = (centred / scales.float().clamp(min=1e-10)[..., None]).round().clamp(0, 15).to(torch.uint8)
    return Grouped(kind, quants.view(weight.shape), scales, minimums)


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight [n_out, n_in] in the layout that `linear.hpp` describes, and its bias, float32 [n_out]."""

    kind: Kind
    n_out: int
    n_in: int
    quants: Tensor
    scales: Tensor | None
    minimums: Tensor | None
    bias: Tensor | None

    def pointer(self) -> Weight:
        """For native calls, while this object lives."""
        tensors = (self.quants, self.scales, self.minimums, self.bias)
        return Weight(*(None if tensor is None else tensor.data_ptr() for tensor in tensors), self.n_in, self.n_out, int(self.kind), 0)

    def floats(self) -> Tensor:
        """The weight as the kernels mean it, float32 [n_out, n_in]."""
        if self.kind is Kind.BF16:
            return _columns(self.quants).view(torch.bfloat16).view(-1, self.n_in)[: self.n_out].float()
        assert self.scales is not None
        scales = _columns(self.scales)[: self.n_out]
        if self.kind is Kind.Q8:
            quants = _columns(self.quants).view(torch.uint8).view(-1, self.n_in)[: self.n_out] ^ 0x80
            return Grouped(self.kind, quants.view(torch.int8), scales).floats()
        assert self.minimums is not None
        both = self.quants
        halves = torch.stack((both & 0x0F0F0F0F, (both >> 4) & 0x0F0F0F0F), 3)  # [blocks, groups, 4, 2, 16]
        quants = _columns(halves.flatten(2, 3)).view(torch.uint8).view(-1, self.n_in)[: self.n_out]
        return Grouped(self.kind, quants, scales, _columns(self.minimums)[: self.n_out]).floats()


def _columns(blocks: Tensor) -> Tensor:
    """[blocks, ..., width] -> [blocks * width, ...]"""
    return blocks.movedim(-1, 1).flatten(0, 1).contiguous()


def _blocks(rows: Tensor, width: int) -> Tensor:
    """[n, ...] -> [blocks, ..., width], padded with zeros."""
    if missing := -len(rows) % width:
        rows = torch.cat((rows, rows.new_zeros(missing, *rows.shape[1:])))
    return rows.view(-1, width, *rows.shape[1:]).movedim(1, -1).contiguous()


def pack(weight: Grouped, bias: Tensor | None = None) -> Packed:
    n_out, n_in = weight.quants.shape
    scales = _blocks(weight.scales, 16)
    if weight.kind is Kind.Q8:
        words = (weight.quants.view(torch.uint8) ^ 0x80).contiguous().view(torch.int32).view(n_out, -1, 8)
        return Packed(weight.kind, n_out, n_in, _blocks(words, 16), scales, None, bias)
    words = weight.quants.contiguous().view(torch.int32).view(n_out, -1, 4, 2)
    both = words[..., 0] | (words[..., 1] << 4)
    assert weight.minimums is not None
    return Packed(weight.kind, n_out, n_in, _blocks(both, 16), scales, _blocks(weight.minimums, 16), bias)


def pack_bf16(weight: Tensor, bias: Tensor | None = None) -> Packed:
    n_out, n_in = weight.shape
    pairs = weight.to(torch.bfloat16).contiguous().view(torch.int32)
    return Packed(Kind.BF16, n_out, n_in, _blocks(pairs, 64), None, None, bias)
