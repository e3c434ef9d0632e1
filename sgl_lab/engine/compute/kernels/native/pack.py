"""Weights as numbers in groups, and in the layout of the native linears.

A `Grouped` weight is the meaning of a quantised one: small integers with a scale (and a minimum)
for each 32 inputs of a row. A `Packed` one has the same numbers in the order of `linear.hpp`:
blocks of 32 (bf16: 64) adjacent outputs, with the scales before the numbers that they scale. Knows
no file format and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from .build import Weight

GROUP = 32
_AT_ONCE = 1 << 20
"""weights that are rounded together"""


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


def in_turn(rows: Tensor) -> Tensor:
    """Interleave the two halves of [2 * n, ...] in groups of `GROUP` rows. `gated_linear` expects
    gate and up in this order.
    """
    return rows.view(2, -1, GROUP, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def apart(rows: Tensor) -> Tensor:
    """The inverse of `in_turn`."""
    return rows.view(-1, 2, GROUP, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def quantise(weight: Tensor, kind: Kind) -> Grouped:
    """Quantize a float weight [n_out, n_in] by rounding to nearest. n_in is a multiple of 32. A few
    rows are processed at a time, to bound the memory in use.
    """
    step = max(1, _AT_ONCE // weight.shape[1])
    parts = [_quantise(weight[start : start + step], kind) for start in range(0, len(weight), step)]
    minimums = [part.minimums for part in parts if part.minimums is not None]
    quants, scales = torch.cat([part.quants for part in parts]), torch.cat([part.scales for part in parts])
    return Grouped(kind, quants, scales, torch.cat(minimums) if minimums else None)


def _quantise(weight: Tensor, kind: Kind) -> Grouped:
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
    """A weight [n_out, n_in] in the layout that `linear.hpp` describes, and its bias, float32 [n_out].

    data  uint8 [blocks, groups, bytes]: of 32 outputs and 32 inputs, the scales, the minimums (Q4)
          and the quants; BF16: of 64 outputs and 32 inputs, by pairs of inputs
    """

    kind: Kind
    n_out: int
    n_in: int
    data: Tensor
    bias: Tensor | None

    def pointer(self) -> Weight:
        """For native calls, while this object lives."""
        bias = None if self.bias is None else self.bias.data_ptr()
        return Weight(self.data.data_ptr(), bias, self.n_in, self.n_out, int(self.kind), 0)

    def floats(self) -> Tensor:
        """The weight as the kernels mean it, float32 [n_out, n_in]."""
        if self.kind is Kind.BF16:
            pairs = self.data.view(torch.int32).view(-1, self.n_in // 2, _COLUMNS[self.kind])
            return _rows(pairs, self.n_out).view(torch.bfloat16).view(self.n_out, self.n_in).float()
        scales = _rows(self.data[..., :64].view(torch.float16), self.n_out)
        words = self.data[..., 64 if self.kind is Kind.Q8 else 128 :].view(torch.int32).view(*self.data.shape[:2], -1, _COLUMNS[self.kind])
        if self.kind is Kind.Q8:
            quants = (_rows(words, self.n_out).view(torch.uint8) ^ 0x80).view(torch.int8)
            return Grouped(self.kind, quants.view(self.n_out, self.n_in), scales).floats()
        minimums = _rows(self.data[..., 64:128].view(torch.float16), self.n_out)
        halves = torch.stack((words & 0x0F0F0F0F, (words >> 4) & 0x0F0F0F0F), 3)  # [blocks, groups, 4, 2, 32]
        quants = _rows(halves.flatten(2, 3), self.n_out).view(torch.uint8).view(self.n_out, self.n_in)
        return Grouped(self.kind, quants, scales, minimums).floats()


_COLUMNS = {Kind.Q4: 32, Kind.Q8: 32, Kind.BF16: 64}
"""outputs of a block"""


def _rows(blocks: Tensor, n: int) -> Tensor:
    """[blocks, ..., width] -> [n, ...]"""
    return blocks.movedim(-1, 1).flatten(0, 1)[:n].contiguous()


def _blocks(rows: Tensor, width: int) -> Tensor:
    """[n, ...] -> [blocks, ..., width], padded with zeros."""
    if missing := -len(rows) % width:
        rows = torch.cat((rows, rows.new_zeros(missing, *rows.shape[1:])))
    return rows.view(-1, width, *rows.shape[1:]).movedim(1, -1).contiguous()


def pack(weight: Grouped, bias: Tensor | None = None) -> Packed:
    n_out, n_in = weight.quants.shape
    if weight.minimums is None:
        words = (weight.quants.view(torch.uint8) ^ 0x80).contiguous().view(torch.int32).view(n_out, -1, 8)
        head = [weight.scales]
    else:
        pairs = weight.quants.contiguous().view(torch.int32).view(n_out, -1, 4, 2)
        words = pairs[..., 0] | (pairs[..., 1] << 4)
        head = [weight.scales, weight.minimums]
    parts = [_blocks(part, _COLUMNS[weight.kind]).view(torch.uint8).flatten(2) for part in (*head, words)]
    return Packed(weight.kind, n_out, n_in, torch.cat(parts, -1), bias)


def pack_bf16(weight: Tensor, bias: Tensor | None = None) -> Packed:
    n_out, n_in = weight.shape
    pairs = weight.to(torch.bfloat16).contiguous().view(torch.int32)
    blocks = _blocks(pairs, _COLUMNS[Kind.BF16]).view(torch.uint8)
    return Packed(Kind.BF16, n_out, n_in, blocks.view(len(blocks), n_in // GROUP, -1), bias)
