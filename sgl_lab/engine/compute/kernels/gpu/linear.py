"""Matrix products with a weight [n_out, n_in]: packed in 4 or 8 bits, and a dense one with a fixed
order of sums.

A packed weight contains the file's own numbers (`Grouped`) in another layout: 16 words of 32 bits
hold 512 / bits inputs of an output. The numbers at one position of 4 or 8 bits in those words, a
plane, are 16 consecutive inputs. Threads therefore read 16 bytes each, words arrive where the
tensor cores expect their operand, and one shift and two logical operations turn them into a plane
of floats: nothing is unpacked in shared memory.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import torch
import torch.nn.functional as functional
import triton
import triton.language as tl
from torch import Tensor

from ..native.pack import GROUP, Grouped, Kind
from .launch import launch
from .tuning import choice

WORDS = 16
"""to a block: of inputs that one output's row has side by side"""

PROGRAMS = 512
"""minimum number of programs that a product of few rows is split into: about four for each
multiprocessor of a large card
"""


class Packed:
    """A weight on a device. Only one stream at a time may compute products with it, because they
    count in `arrived`.

    words    int32 [blocks, n_out, 16]: input `plane * 16 + word` of a block is bits `plane * bits`
             and up of that word
    steps    of each group of 32 inputs, [groups, n_out]: float16 scales, or in 4 bits int32, the
             scale below the minimum
    arrived  int32, 0 between products
    """

    __slots__ = ("arrived", "bits", "n_in", "n_out", "steps", "words")

    def __init__(self, weight: Grouped, device: torch.device) -> None:
        self.n_out, self.n_in = weight.quants.shape
        self.bits = 4 if weight.kind is Kind.Q4 else 8
        quants = weight.quants if weight.kind is Kind.Q4 else weight.quants.view(torch.uint8) ^ 0x80
        missing = -self.n_in % self.block
        planes = functional.pad(quants.to(device), (0, missing)).view(self.n_out, -1, 32 // self.bits, WORDS)
        words = torch.zeros(self.n_out, planes.shape[1], WORDS, dtype=torch.int32, device=device)
        for plane in range(32 // self.bits):
            words |= planes[:, :, plane].int() << (plane * self.bits)
        self.words = words.transpose(0, 1).contiguous()
        steps = weight.scales if weight.minimums is None else torch.stack((weight.scales, weight.minimums), -1).view(torch.int32)[..., 0]
        self.steps = functional.pad(steps, (0, missing // GROUP)).T.contiguous().to(device)
        self.arrived = torch.zeros(self.n_out, dtype=torch.int32, device=device)

    @property
    def block(self) -> int:
        """inputs that 16 words hold"""
        return WORDS * 32 // self.bits

    def floats(self) -> Tensor:
        """float32 [n_out, n_in], `Grouped.floats` to the bit"""
        places = torch.arange(0, 32, self.bits, dtype=torch.int32, device=self.words.device)
        planes = (self.words.transpose(0, 1)[:, :, None] >> places[:, None]) & ((1 << self.bits) - 1)
        quants = planes.reshape(self.n_out, -1, GROUP).float()
        if self.bits == 8:
            values = (quants - 128) * self.steps.T.float()[..., None]
        else:
            scales, minimums = self.steps.T.contiguous().view(torch.float16).view(self.n_out, -1, 2).float().unbind(-1)
            values = quants * scales[..., None] + minimums[..., None]
        return values.view(self.n_out, -1)[:, : self.n_in]


def operand_type(dtype: torch.dtype) -> tl.dtype:
    """The type of `tl.dot` operands for tensors of `dtype`: the same type, except in the
    interpreter, which cannot multiply bfloat16.
    """
    if dtype is torch.float32 or (dtype is torch.bfloat16 and triton.knobs.runtime.interpret):
        return tl.float32
    return tl.float16 if dtype is torch.float16 else tl.bfloat16


# ------------------------------------------------------------ packed


@triton.jit
def _plane(words, scale, offset, PLANE: tl.constexpr, BITS: tl.constexpr):
    """scale * number + offset for the numbers of one plane. In the upper bits of a mantissa, a
    number q represents 1 + q / 2^bits.
    """
    place: tl.constexpr = 23 - BITS
    up: tl.constexpr = place - PLANE * BITS
    moved = words << up if up >= 0 else words >> -up
    number = ((moved & (((1 << BITS) - 1) << place)) | 0x3F800000).to(tl.float32, bitcast=True)
    return number * scale + offset


@triton.jit
def _steps(step, BITS: tl.constexpr):
    """Scale and offset for `_plane`: exact in float32 unless minimum and scale are very far apart."""
    if BITS == 4:
        scale = step.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 16
        minimum = (step >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        offset = minimum - scale
    else:
        scale = step.to(tl.float32) * 256
        offset = scale * -1.5
    return scale, offset


@triton.jit(do_not_specialize=["rows"])
def packed_kernel(
    x_ptr, words_ptr, steps_ptr, bias_ptr, y_ptr, partial_ptr, arrived_ptr, rows,
    N_OUT: tl.constexpr, N_IN: tl.constexpr, BITS: tl.constexpr, BIAS: tl.constexpr, OPERAND: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    GROUPS: tl.constexpr = 16 // BITS  # of 32 inputs to a block of 16 words
    BLOCKS: tl.constexpr = (N_IN + GROUPS * 32 - 1) // (GROUPS * 32)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    word = tl.arange(0, 16)
    here = row < rows
    real = output < N_OUT
    line = row.to(tl.int64)[:, None] * N_IN
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for turn in tl.range(tl.cdiv(BLOCKS, SPLITS)):
        block = turn * SPLITS + tl.program_id(2)
        there = real & (block < BLOCKS)
        words = tl.load(words_ptr + (block * N_OUT + output.to(tl.int64)[:, None]) * 16 + word[None, :], mask=there[:, None], other=0)
        for group in tl.static_range(GROUPS):
            step = tl.load(steps_ptr + (block * GROUPS + group) * N_OUT + output, mask=there, other=0)
            scale, offset = _steps(step, BITS)
            for half in tl.static_range(2):
                column = (block * GROUPS + group) * 32 + half * 16 + word
                x = tl.load(x_ptr + line + column[None, :], mask=here[:, None] & (column < N_IN)[None, :], other=0.0)
                weight = _plane(words, scale[:, None], offset[:, None], group * 2 + half, BITS).to(x.dtype)
                sums = tl.dot(weight.to(OPERAND), tl.trans(x.to(OPERAND)), sums, input_precision="ieee")

    last = True
    if SPLITS > 1:  # the last of a tile's programs to arrive adds up what all of them left, in their order
        tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        inside = real[:, None] & here[None, :]
        at = partial_ptr + output[:, None] + row.to(tl.int64)[None, :] * N_OUT
        tl.store(at + tl.program_id(2) * rows * N_OUT, sums, mask=inside)
        tl.debug_barrier()  # all threads' parts are written before the one that counts says so
        last = tl.atomic_add(arrived_ptr + tile, 1, sem="acq_rel") == SPLITS - 1
        if last:
            sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
            for split in tl.range(SPLITS):
                sums += tl.load(at + split * rows * N_OUT, mask=inside, other=0.0, cache_modifier=".cg")
            tl.store(arrived_ptr + tile, 0)
    if last:
        if BIAS:
            sums += tl.load(bias_ptr + output, mask=real, other=0.0).to(tl.float32)[:, None]
        to = y_ptr + row.to(tl.int64)[:, None] * N_OUT + output[None, :]
        tl.store(to, tl.trans(sums).to(y_ptr.dtype.element_ty), mask=here[:, None] & real[None, :])


def packed_matmul(x: Tensor, packed: Packed, bias: Tensor | None = None, *, invariant: bool = False) -> Tensor:
    """x @ weight.T + bias, with weights rounded to x's type and sums in float32. The bits are the
    same every time. With `invariant`, a row's bits do not depend on the number of rows.

    x        [m, n_in]   bf16, fp16 or fp32
    bias     [n_out]     any of these
    returns  [m, n_out]  as x

    Traffic, m <= 16: the weight once, `n_out * n_in` times 0.625 bytes in 4 bits and 1.0625 in 8
    (n_in rounded up to whole blocks of 128 and 64), and x and y; split sums, `splits * m * n_out *
    8` bytes, and x again for each 128 outputs stay in L2. More rows: the weight once for each 128
    of them, and again 2 * m * n_in * n_out operations on the tensor cores.
    """
    rows, n_out, n_in = len(x), packed.n_out, packed.n_in
    y = x.new_empty(rows, n_out)
    block = 64 if invariant else min(128, max(16, triton.next_power_of_2(rows)))
    if x.dtype is torch.float32:  # which has no tensor cores in full precision, and needs twice the registers
        block = min(block, 32)
    large = {"BLOCK_M": block, "BLOCK_N": 128, "num_warps": 8, "num_stages": 3}
    small = {"BLOCK_M": block, "BLOCK_N": 128 if block == 16 else 64, "num_warps": 4, "num_stages": 4}
    config = choice("packed_matmul", (n_out, n_in, packed.bits, block), large if block == 128 else small)
    grid = (triton.cdiv(rows, config["BLOCK_M"]), triton.cdiv(n_out, config["BLOCK_N"]))
    blocks = len(packed.words)
    splits = 1 if invariant or grid[0] > 1 else max(1, min(triton.cdiv(PROGRAMS, grid[1]), blocks // 4))
    partial = x.new_empty(splits if splits > 1 else 0, rows, n_out, dtype=torch.float32)
    sizes = {"N_OUT": n_out, "N_IN": n_in, "BITS": packed.bits, "BIAS": bias is not None, "SPLITS": splits}
    pointers = (x, packed.words, packed.steps, y if bias is None else bias, y, partial, packed.arrived)
    launch(packed_kernel, (*grid, splits), *pointers, rows, **sizes, OPERAND=operand_type(x.dtype), **config)
    return y


def packed_matmul_twin(x: Tensor, packed: Packed, bias: Tensor | None = None, *, invariant: bool = False) -> Tensor:
    return invariant_matmul_twin(x, packed.floats().to(x.dtype), bias)


# ------------------------------------------------------------ dense


@triton.jit
def dense_tile(
    x_ptr, line, here, weight_ptr, output, real,
    N_IN: tl.constexpr, OPERAND: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """float32 sums [BLOCK_M, BLOCK_N] of x's lines with the weight's rows `output`, from the first
    input to the last.
    """
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in tl.range(0, N_IN, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        within = (column < N_IN)[None, :]
        x = tl.load(x_ptr + line.to(tl.int64)[:, None] * N_IN + column[None, :], mask=here[:, None] & within, other=0.0)
        weight = tl.load(weight_ptr + output.to(tl.int64)[:, None] * N_IN + column[None, :], mask=real[:, None] & within, other=0.0)
        sums = tl.dot(x.to(OPERAND), tl.trans(weight.to(OPERAND)), sums, input_precision="ieee")
    return sums


@triton.jit(do_not_specialize=["rows"])
def invariant_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, rows, N_OUT: tl.constexpr, N_IN: tl.constexpr, BIAS: tl.constexpr,
    OPERAND: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    here, real = row < rows, output < N_OUT
    sums = dense_tile(x_ptr, row, here, weight_ptr, output, real, N_IN, OPERAND, BLOCK_M, BLOCK_N, BLOCK_K)
    if BIAS:
        sums += tl.load(bias_ptr + output, mask=real, other=0.0).to(tl.float32)[None, :]
    at = y_ptr + row.to(tl.int64)[:, None] * N_OUT + output[None, :]
    tl.store(at, sums.to(y_ptr.dtype.element_ty), mask=here[:, None] & real[None, :])


def tile(x: Tensor) -> dict[str, int]:
    """For a product whose bits must not depend on the number of rows. Reads 128 bytes of a row at a
    time.
    """
    side = 128 // x.element_size()
    return {"BLOCK_M": 64, "BLOCK_N": side, "BLOCK_K": side, "num_warps": 4, "num_stages": 4}


def invariant_matmul(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias with one tile size and one order of sums: the bits of a row depend only
    on the row.

    x        [m, n_in]      bf16, fp16 or fp32
    weight   [n_out, n_in]  as x
    bias     [n_out]        any of these
    returns  [m, n_out]     as x

    Traffic: the weight once for each 64 rows, x once for each 64 outputs (in L2, mostly), y once.
    """
    rows, (n_out, n_in) = len(x), weight.shape
    y = x.new_empty(rows, n_out)
    config = choice("invariant_matmul", (n_out, n_in), tile(x))
    grid = (triton.cdiv(rows, config["BLOCK_M"]), triton.cdiv(n_out, config["BLOCK_N"]))
    sizes = {"N_OUT": n_out, "N_IN": n_in, "BIAS": bias is not None, "OPERAND": operand_type(x.dtype)}
    launch(invariant_kernel, grid, x, weight, y if bias is None else bias, y, rows, **sizes, **config)
    return y


def invariant_matmul_twin(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
