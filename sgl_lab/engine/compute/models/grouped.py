"""Weights in groups of 32 with 4 or 8 bits: exactly as a GGUF stores them, otherwise rounded.

Weights are named as in the Hugging Face layout. Knows no layout of a kernel: `kernels` arrange a
`Grouped` weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...files.gguf_file import GgufFile, GgufTensor
from ...files.weights import Read
from ..kernels.native.pack import GROUP, Grouped, Kind, quantise
from .spec import ModelSpec

Join = Callable[[list[Tensor]], Tensor]
"""of weights that are multiplied together, part by part of their numbers, one"""


class Groups:
    """`read` supplies tensors under their Hugging Face names; `gguf` is the file they were unpacked from, if they were."""

    def __init__(self, spec: ModelSpec, read: Read, gguf: GgufFile | None) -> None:
        self._read = read
        self._gguf = gguf
        self._stored = {} if gguf is None else _stored(gguf)
        self._heads = {} if gguf is None else _heads(spec)

    def of(self, names: Sequence[str], wanted: Kind, join: Join = torch.cat) -> Grouped:
        """Those weights as one, in `wanted` bits, or in 8 if one of them is stored in 8."""
        parts = [self._one(name, wanted) for name in names]
        most = max(part.kind for part in parts) if wanted is Kind.Q4 else Kind.Q8
        parts = [part if part.kind is most else quantise(part.floats(), most) for part in parts]
        minimums = [part.minimums for part in parts if part.minimums is not None]
        quants, scales = join([part.quants for part in parts]), join([part.scales for part in parts])
        return Grouped(most, quants, scales, join(minimums) if minimums else None)

    def _one(self, name: str, wanted: Kind) -> Grouped:
        """As the file stores it, if it does so in groups of 32; otherwise rounded to `wanted`."""
        tensor = self._stored.get(name)
        if self._gguf is not None and tensor is not None and tensor.kind in _GROUPED:
            return _GROUPED[tensor.kind](gguf_rows(self._gguf, tensor, self._heads.get(name)))
        return quantise(self._read(name), wanted)


def kept_dtype(gguf: GgufFile | None) -> str:
    """The type of a file's layers: its own blocks of 4 or 8 bits, 8 bits for other quantisations,
    otherwise bfloat16.
    """
    tensors = {} if gguf is None else _stored(gguf)
    kinds = {tensor.kind for name, tensor in tensors.items() if name.endswith("_proj.weight")} - _FLOATS
    if not kinds:
        return "bfloat16"
    return "int4" if kinds <= _GROUPED.keys() and kinds & _FOUR_BITS else "int8"


# ------------------------------------------------------------ ggml's blocks of 32


def _stored(gguf: GgufFile) -> dict[str, GgufTensor]:
    from .convert import hugging_face_name

    return {name: tensor for stored, tensor in gguf.tensors.items() if (name := hugging_face_name(stored)) is not None}


def _heads(spec: ModelSpec) -> dict[str, int]:
    from .convert import interleaved

    return interleaved(spec)


def gguf_rows(gguf: GgufFile, tensor: GgufTensor, heads: int | None) -> npt.NDArray[np.uint8]:
    """The blocks of a tensor [n_out, n_in / 32, bytes], rotated heads in the Hugging Face order."""
    from .convert import row_order

    rows = gguf.raw(tensor).reshape(tensor.shape[0], tensor.shape[1] // GROUP, -1)
    return rows if heads is None else rows[row_order(len(rows), heads)]


def _halves(blocks: npt.NDArray[np.uint8], at: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(blocks[..., at : at + 2])).view(torch.float16)[..., 0]


def _nibbles(blocks: npt.NDArray[np.uint8], at: int) -> Tensor:
    both = torch.from_numpy(np.ascontiguousarray(blocks[..., at:]))
    return torch.cat((both & 15, both >> 4), -1).flatten(1)


def _q4_0(blocks: npt.NDArray[np.uint8]) -> Grouped:
    scales = _halves(blocks, 0)
    return Grouped(Kind.Q4, _nibbles(blocks, 2), scales, -8 * scales)


def _q4_1(blocks: npt.NDArray[np.uint8]) -> Grouped:
    return Grouped(Kind.Q4, _nibbles(blocks, 4), _halves(blocks, 0), _halves(blocks, 2))


def _q8_0(blocks: npt.NDArray[np.uint8]) -> Grouped:
    return Grouped(Kind.Q8, torch.from_numpy(np.ascontiguousarray(blocks[..., 2:])).view(torch.int8).flatten(1), _halves(blocks, 0))


_GROUPED: dict[int, Callable[[npt.NDArray[np.uint8]], Grouped]] = {2: _q4_0, 3: _q4_1, 8: _q8_0}
"""by the number of ggml's storage type"""
_FOUR_BITS = {2, 3}
_FLOATS = {0, 1, 30}
"""F32, F16, BF16"""
