"""A decoder on a GPU whose linears stay in 4 or 8 bits, in the layout of `kernels.gpu.linear`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...files.gguf_file import GgufFile
from ...files.weights import Read
from ..kernels.gpu.linear import Packed, packed_matmul
from ..kernels.linear import Linear
from ..kernels.native.pack import Kind
from .decoder import Decoder
from .grouped import Groups
from .spec import ModelSpec


class PackedLinear(Linear):
    """y = x @ weight.T + bias of a weight that is unpacked while it is multiplied with."""

    __slots__ = ("_numbers",)

    def __init__(self, packed: Packed, bias: Tensor | None) -> None:
        self._numbers = packed
        self.bias = bias

    @property
    def n_bytes(self) -> int:
        return self._numbers.words.nbytes + self._numbers.steps.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        return packed_matmul(x, self._numbers, self.bias)

    def invariant(self, x: Tensor) -> Tensor:
        return packed_matmul(x, self._numbers, self.bias, invariant=True)


def packed_on_device(
    spec: ModelSpec,
    kind: Kind,
    read: Read,
    gguf: GgufFile | None,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
    loaded: Callable[[int], None] = lambda n_layers: None,
) -> Decoder:
    """Numbers that a GGUF stores in groups of 32 are kept exactly. `dtype` is the type of the
    embedding, of all activations and of keys and values. The model is one that
    `executors.PACKED_GPU` computes.
    """
    groups = Groups(spec, read, gguf)

    def linear(names: Sequence[str], bias: Tensor | None) -> Linear:
        # Every token passes through the head, where rounding matters most: 8 bits even if the
        # layers have 4.
        wanted = Kind.Q8 if names[0] == spec.head_name else kind
        return PackedLinear(Packed(groups.of(names, wanted), device), bias)

    return Decoder(spec, read, device=device, dtype=dtype, linear=linear, loaded=loaded)
