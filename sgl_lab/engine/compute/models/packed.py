"""A decoder whose weights are packed for the native step: from a GGUF's own blocks, or from floats.

Numbers that a GGUF stores in 4 or 8 bits with 32 to a group are kept exactly. Others are rounded.
Weights are named as in the Hugging Face layout. Weights that are multiplied together are one, under
the first one's name, with gate and up alternating.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...files.gguf_file import GgufFile
from ...files.weights import Read
from ..kernels.linear import Linear
from ..kernels.native.pack import Kind, Packed, apart, in_turn, pack, pack_bf16
from ..kernels.native.twin import Bf16Linear, RoundedLinear
from .decoder import Decoder, stacked
from .grouped import Groups
from .spec import Layer, ModelSpec, Part

KINDS = {"int4": Kind.Q4, "int8": Kind.Q8, "bfloat16": Kind.BF16}
"""dtype -> how the linears inside the layers are stored"""


@dataclass(frozen=True, slots=True)
class PackedDecoder:
    """All inputs of the native step. `dtype` is the type of keys and values; `device` is the CPU."""

    spec: ModelSpec
    kind: Kind
    weights: Mapping[str, Packed]
    vectors: Mapping[str, Tensor]
    """norms and routers as they are stored, float32"""

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def in_turn(self) -> frozenset[str]:
        """The weights whose gate and up alternate."""
        return frozenset(
            self.spec.names.of(index, parts[0], expert) + ".weight"
            for index, layer in enumerate(self.spec.layers)
            for parts, _, expert in feed_forwards(layer)
            if len(parts) == 2
        )

    def twin(self) -> Decoder:
        """The same model in plain torch, float32 with inputs rounded as the native linears round them."""

        def read(*names: str, dtype: torch.dtype | None = None) -> Tensor:
            if names[0] in self.vectors:
                return self.vectors[names[0]]
            return torch.empty(0) if names[0].endswith(".bias") else self.weights[names[0]].floats()

        def linear(names: Sequence[str], _: Tensor | None) -> Linear:
            """Biases are packed with the weights."""
            weight, bias = self.weights[names[0]].floats(), self.weights[names[0]].bias
            if names[0] in self.in_turn:
                weight, bias = apart(weight), None if bias is None else apart(bias)
            return (Bf16Linear if self.kind is Kind.BF16 else RoundedLinear)(weight, bias)

        return Decoder(self.spec, read, device=self.device, dtype=torch.float32, linear=linear)


def feed_forwards(layer: Layer) -> Iterator[tuple[tuple[Part, ...], Part, int | None]]:
    """The linears of a layer's feed-forwards: what is multiplied first, what comes last, and which
    expert it is of, if not all tokens pass through it. The shared expert is the last.
    """
    kind = layer.feed_forward
    ups: tuple[Part, ...] = ("gate", "up") if kind.is_gated else ("up",)
    for expert in (None,) if kind.experts is None else range(kind.experts.count):
        yield ups, "down", expert
    if kind.experts is not None and kind.experts.shared:
        yield ("shared_gate", "shared_up"), "shared_down", None


def pack_decoder(
    spec: ModelSpec, kind: Kind, read: Read, gguf: GgufFile | None = None, loaded: Callable[[int], None] = lambda n_layers: None
) -> PackedDecoder:
    """`read` supplies tensors under their Hugging Face names; `gguf` is the file they were unpacked
    from, if they were.

    The model is one that `executors.NATIVE` computes.
    """
    groups = Groups(spec, read, gguf)
    weights: dict[str, Packed] = {}
    vectors: dict[str, Tensor] = {}

    def vector(name: str) -> None:
        vectors[name] = read(name, dtype=torch.float32)

    def as_is(rows: Tensor) -> Tensor:
        return rows

    def add(names: Sequence[str], bias: Tensor | None = None, *, wanted: Kind = kind, order: Callable[[Tensor], Tensor] = as_is) -> None:
        bias = None if bias is None else order(bias)
        if kind is Kind.BF16:
            weights[names[0]] = pack_bf16(order(read(*names, dtype=torch.bfloat16)), bias)
        else:
            weights[names[0]] = pack(groups.of(names, wanted, lambda parts: order(torch.cat(parts))), bias)

    # The largest weights first: temporary memory for packing is freed before the others need the
    # room. Every token passes through these once, where rounding matters most: 8 bits even if the
    # layers have 4.
    for name in dict.fromkeys((spec.embedding_name, spec.head_name)):
        add([name], wanted=Kind.Q8)
    floats = partial(read, dtype=torch.float32)
    for index, layer in enumerate(spec.layers):
        for part in (*layer.norms, *layer.vectors):
            vector(spec.names.of(index, part) + ".weight")
        add(*stacked(spec, index, ("q", "k", "v"), floats))
        add(*stacked(spec, index, ("o",), floats))
        for ups, down, expert in feed_forwards(layer):
            add(*stacked(spec, index, ups, floats, expert), order=in_turn if len(ups) == 2 else as_is)
            add(*stacked(spec, index, (down,), floats, expert))
        loaded(index + 1)
    vector(spec.norm_name)
    return PackedDecoder(spec, kind, weights, vectors)
