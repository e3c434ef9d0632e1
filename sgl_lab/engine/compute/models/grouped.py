"""Weights in groups of 32 with 4 or 8 bits: as a GGUF stores them, if it does so in such groups,
otherwise rounded.

Weights are named as in the Hugging Face layout. Knows no layout of a kernel: `kernels` arrange a
`Grouped` weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...files.gguf_file import GgufFile
from ...files.weights import Read
from ..kernels.native.pack import GROUP, Grouped, Kind, quantise
from .architectures import rows_of, stored_tensors
from .spec import ModelSpec

Join = Callable[[list[Tensor]], Tensor]
"""of weights that are multiplied together, part by part of their numbers, one"""


@runtime_checkable
class HasGroups(Protocol):
    """A source of weights of which some are stored in few bits."""

    def grouped(self, name: str) -> Grouped | None:
        """In groups of 32; None for a tensor of floats."""


class Groups:
    """`read` supplies tensors under their Hugging Face names, and may have groups itself; `gguf` is
    the file they were unpacked from, if they were.
    """

    def __init__(self, spec: ModelSpec, read: Read, gguf: GgufFile | None) -> None:
        self._read = read
        self._gguf = gguf
        self._stored = {} if gguf is None else stored_tensors(gguf, spec)

    def of(self, names: Sequence[str], wanted: Kind, join: Join = torch.cat) -> Grouped:
        """Those weights as one, in `wanted` bits, or in 8 if one of them is stored in more than 4."""
        parts = [self._one(name, wanted) for name in names]
        most = max(part.kind for part in parts) if wanted is Kind.Q4 else Kind.Q8
        parts = [part if part.kind is most else quantise(part.floats(), most) for part in parts]
        minimums = [part.minimums for part in parts if part.minimums is not None]
        quants, scales = join([part.quants for part in parts]), join([part.scales for part in parts])
        return Grouped(most, quants, scales, join(minimums) if minimums else None)

    def _one(self, name: str, wanted: Kind) -> Grouped:
        """As the file stores it, if it does so in groups of 32; otherwise rounded, to `wanted` or,
        if the file has more than 4 bits or fewer, to 8.
        """
        if isinstance(self._read, HasGroups) and (found := self._read.grouped(name)) is not None:
            return found
        stored = self._stored.get(name)
        if self._gguf is None or stored is None or stored.tensor.kind in _FLOATS:
            return quantise(self._read(name), wanted)
        kept = _GROUPED.get(stored.tensor.kind)
        return quantise(self._read(name), Kind.Q8) if kept is None else kept(rows_of(self._gguf, stored))


def kept_dtype(gguf: GgufFile | None, spec: ModelSpec) -> str:
    """The type of a file's layers: int4 if some are stored in 4 bits (the others then have 8), int8
    for other quantisations, otherwise bfloat16.
    """
    around = (spec.embedding_name, spec.head_name)
    stored = {} if gguf is None else stored_tensors(gguf, spec)
    kinds = {one.tensor.kind for name, one in stored.items() if len(one.tensor.shape) == 2 and name not in around} - _FLOATS
    if not kinds:
        return "bfloat16"
    return "int4" if kinds & _FOUR_BITS else "int8"


# ------------------------------------------------------------ ggml's blocks


def _blocks(rows: npt.NDArray[np.uint8], n_bytes: int) -> npt.NDArray[np.uint8]:
    """[n_out, blocks, bytes]"""
    return rows.reshape(len(rows), -1, n_bytes)


def _halves(blocks: npt.NDArray[np.uint8], at: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(blocks[..., at : at + 2])).view(torch.float16)[..., 0]


def _nibbles(blocks: npt.NDArray[np.uint8], at: int) -> Tensor:
    both = torch.from_numpy(np.ascontiguousarray(blocks[..., at : at + 16]))
    return torch.cat((both & 15, both >> 4), -1)


def _q4_0(rows: npt.NDArray[np.uint8]) -> Grouped:
    blocks = _blocks(rows, 18)
    scales = _halves(blocks, 0)
    return Grouped(Kind.Q4, _nibbles(blocks, 2).flatten(1), scales, -8 * scales)


def _q4_1(rows: npt.NDArray[np.uint8]) -> Grouped:
    blocks = _blocks(rows, 20)
    return Grouped(Kind.Q4, _nibbles(blocks, 4).flatten(1), _halves(blocks, 0), _halves(blocks, 2))


def _q5_0(rows: npt.NDArray[np.uint8]) -> Grouped:
    """Numbers of 5 bits, in 8."""
    blocks = _blocks(rows, 22)
    bits = torch.from_numpy(np.unpackbits(np.ascontiguousarray(blocks[..., 2:6]), axis=-1, bitorder="little"))
    quants = (_nibbles(blocks, 6) | bits << 4).view(torch.int8).sub_(16)
    return Grouped(Kind.Q8, quants.flatten(1), _halves(blocks, 0))


def _q8_0(rows: npt.NDArray[np.uint8]) -> Grouped:
    blocks = _blocks(rows, 34)
    return Grouped(Kind.Q8, torch.from_numpy(np.ascontiguousarray(blocks[..., 2:])).view(torch.int8).flatten(1), _halves(blocks, 0))


def _q4_k(rows: npt.NDArray[np.uint8]) -> Grouped:
    """Eight groups of 32, whose scales and minimums are products of a half and 6 bits: they are
    rounded to halves, with a relative error of 2^-11 at most.
    """
    blocks = _blocks(rows, 144)
    first, second, both = (torch.from_numpy(np.ascontiguousarray(blocks[..., at : at + 4])) for at in (4, 8, 12))
    scales = torch.cat((first & 63, both & 15 | first >> 6 << 4), -1)
    minimums = torch.cat((second & 63, both >> 4 | second >> 6 << 4), -1)
    halves = torch.from_numpy(np.ascontiguousarray(blocks[..., 16:])).view(*blocks.shape[:2], 4, GROUP)
    quants = torch.stack((halves & 15, halves >> 4), -2)  # [n_out, blocks, 4, 2, 32]
    scale, minimum = (_halves(blocks, at).float()[..., None] for at in (0, 2))
    return Grouped(Kind.Q4, quants.flatten(1), (scale * scales).half().flatten(1), (-minimum * minimums).half().flatten(1))


_GROUPED: dict[int, Callable[[npt.NDArray[np.uint8]], Grouped]] = {2: _q4_0, 3: _q4_1, 6: _q5_0, 8: _q8_0, 12: _q4_k}
"""by the number of ggml's storage type"""
_FOUR_BITS = {2, 3, 12}
_FLOATS = {0, 1, 30}
"""F32, F16, BF16"""
